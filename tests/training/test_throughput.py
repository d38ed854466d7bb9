"""MFU: the formula by hand, both conventions, and no figure where the peak is not known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from r1kit.settings.known_models import KNOWN_MODELS
from r1kit.training.callbacks import Throughput, attended_length, peak_of

QWEN = KNOWN_MODELS["Qwen/Qwen2.5-Math-7B"]


def test_the_guides_rate_is_9_1_percent_causal_and_9_6_with_full_attention():
    found = Throughput(QWEN, 8, 2306.9e12, 4096).metrics(37_449, {})
    assert found["mfu/causal"] == pytest.approx(0.091, abs=0.0005)
    assert found["mfu/full_attention"] == pytest.approx(0.096, abs=0.0005)


@pytest.mark.slow
def test_full_attention_is_what_trl_counts():
    """TRL's own function on the same shape, so that the two conventions keep their names."""
    from transformers import Qwen2Config
    from trl.trainer.utils import compute_flops_per_token

    config = Qwen2Config(
        hidden_size=QWEN.hidden_size,
        intermediate_size=QWEN.intermediate_size,
        num_hidden_layers=QWEN.num_hidden_layers,
        num_attention_heads=QWEN.num_attention_heads,
        num_key_value_heads=QWEN.num_key_value_heads,
        vocab_size=QWEN.vocab_size,
    )
    ours = Throughput(QWEN, 1, 1.0, 4096).metrics(1.0, {})["mfu/full_attention"]
    assert ours == pytest.approx(compute_flops_per_token(config, 4096), rel=1e-9)


def test_grpo_takes_the_length_of_its_completions():
    short = Throughput(QWEN, 8, 2.3e15).metrics(1000, {"completions/mean_length": 100.0})
    long = Throughput(QWEN, 8, 2.3e15).metrics(1000, {"completions/mean_length": 8000.0})
    assert long["mfu/causal"] > 1.1 * short["mfu/causal"]


def test_attention_in_packed_rows_is_counted_document_by_document():
    import datasets

    packed = datasets.Dataset.from_dict({"seq_lengths": [[30, 10], [20]], "input_ids": [[0] * 40, [0] * 20]})
    assert attended_length(packed) == pytest.approx((900 + 100 + 400) / 60)
    assert attended_length(packed.remove_columns("seq_lengths")) == pytest.approx((1600 + 400) / 60)
    assert attended_length(datasets.Dataset.from_dict({"prompt": ["a"]})) is None


def test_a_cpus_peak_is_what_was_measured():
    assert peak_of(SimpleNamespace(type="cpu"), {"reference_gflops": 100.0}) == 1e11
