"""Generation from the real vLLM on the CPU, with a model of two layers that says nothing sensible."""

from __future__ import annotations

import importlib.util

import pytest

from r1kit.data.chat_answer import NotAllowed
from r1kit.data.endpoint import only_model
from r1kit.data.generation import answers_in, ask_all
from r1kit.data.harvest import harvest
from r1kit.data.row_files import open_rows
from r1kit.settings.machine import MachineSettings
from tests.data.rows import write_jsonl
from tests.data.test_generation import ROWS, judge, settings

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-cluster"
    ),
]
SERVER = {
    "max_model_len": 128,
    "dtype": "float32",
    "kv_cache_gib": 0.1,
    "eager": True,
    "environment": {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model; vLLM on a CPU wants heads of 32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r1kit.data import corpus
    from r1kit.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(corpus.documents(100, 0), 400)
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = Qwen2Config(
        vocab_size=len(tokenizer), intermediate_size=64, max_position_embeddings=128, **shape
    )
    folder = tmp_path_factory.mktemp("model")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def answers(folder):
    """What was said, without how long it took."""
    with answers_in(folder) as log:
        return {
            (found["prompt_id"], found["sample"]): (found["content"], found["finish_reason"]) for found in log
        }


def test_a_vllm_server_answers_alike_streaming_or_not_in_any_order_and_all_is_kept(model, tmp_path):
    from r1kit.serving.start import serve

    machine = MachineSettings.model_validate(
        {"device": "cpu", "grace_seconds": 5, "environment": {"HF_HUB_OFFLINE": "1"}, "server": SERVER}
    )
    server = serve(tmp_path / "server", machine, model, tell=lambda line: None)
    try:
        server.wait_ready()
        url = f"{server.urls[0]}/v1"
        with pytest.raises(NotAllowed, match="401"):
            ask_all(ROWS, settings(url), tmp_path / "keyless")
        sampling = {"model": only_model(url, server.key), "max_tokens": 24, "temperature": 1.0, "top_p": 1.0}
        streamed = settings(url, sampling=sampling, silence=60, concurrency=1)
        whole = settings(url, sampling=sampling, silence=60, concurrency=1, stream=False)
        many = settings(url, sampling=sampling, silence=60, concurrency=12)
        ask_all(ROWS, streamed, tmp_path / "streamed", server.key)
        ask_all(ROWS[::-1], whole, tmp_path / "whole", server.key)
        assert ask_all(ROWS, many, tmp_path / "many", server.key).answered == 12
        too_long = [{"problem": "Ann has 3 apples. " * 200, "solution": "3"}]
        assert ask_all(too_long, streamed, tmp_path / "streamed", server.key).failed == 2
    finally:
        server.stop()
    first = answers(tmp_path / "streamed")
    assert first == answers(tmp_path / "whole")
    assert len(set(first.values())) == 12, "each sample has its own seed"
    rows = [*ROWS, *too_long]
    source = open_rows(write_jsonl(tmp_path / "rows.jsonl", rows))
    names = ["accuracy", "think_format"]
    found = harvest(source, 2, streamed.sampling.identity(), judge(), names, tmp_path / "streamed")
    assert (found.prompts, found.answers, found.traces) == (7, 12, 0)
    assert 12 <= found.completion_tokens <= 12 * 24
    assert found.failures["refused"] == 2, "a prompt longer than the model's context"
    assert sum(found.failures.values()) == 14
