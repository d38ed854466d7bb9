from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from r1kit.settings import SettingsError
from r1kit.training.packing import (
    PROOF_TOLERANCE,
    PackingProof,
    RowsCollator,
    check_rows_possible,
    compare_padding_and_packing,
    prove_packing,
)

EXAMPLES = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, 7, -100, 9], "seq_lengths": [3, 2]},
    {"input_ids": [4, 5], "seq_lengths": [2]},
]


def test_a_row_restarts_its_positions_at_every_document_and_at_its_padding():
    batch = RowsCollator(pad_token_id=0)(EXAMPLES)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [4, 5, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert set(batch) == {"input_ids", "labels", "position_ids"}, "an attention_mask would undo the blocks"


def test_no_label_is_predicted_from_the_document_before_or_from_padding():
    labels = RowsCollator(pad_token_id=0)(EXAMPLES)["labels"].tolist()
    assert labels == [[-100, 6, 7, -100, 9], [-100, 5, -100, -100, -100]]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_documents_in_rows_give_the_logits_they_give_alone(model, attention):
    model.set_attn_implementation(attention)
    torch.manual_seed(1)
    lengths = [[7, 12, 5], [20], [3, 3, 3, 10]]
    documents = [[torch.randint(3, 300, (length,)) for length in row] for row in lengths]
    examples = [
        {"input_ids": torch.cat(row).tolist(), "seq_lengths": counts}
        for row, counts in zip(documents, lengths, strict=True)
    ]
    batch = RowsCollator(pad_token_id=0)(examples)
    with torch.no_grad():
        together = model.eval()(**batch, use_cache=False).logits
        for row, (parts, counts) in enumerate(zip(documents, lengths, strict=True)):
            alone = torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in parts])
            assert torch.allclose(together[row, : sum(counts)], alone, atol=1e-5)


def test_rows_are_refused_where_flash_attention_would_mix_documents():
    args = SimpleNamespace(packing=False, padding_free=False, max_length=96)
    with pytest.raises(SettingsError, match="flash_attention_2"):
        check_rows_possible(args, "flash_attention_2")
    check_rows_possible(args, "sdpa")


def test_rows_are_refused_beside_trls_packing_and_without_a_length():
    with pytest.raises(SettingsError) as caught:
        check_rows_possible(SimpleNamespace(packing=True, padding_free=False, max_length=None), None)
    assert [problem.key for problem in caught.value.problems] == ["row_packing", "max_length"]


def test_the_three_layouts_process_the_same_tokens_and_have_the_same_loss(model, tokenizer):
    from datasets import Dataset

    from r1kit.data.datasets import build_traces

    table = compare_padding_and_packing(
        model, Dataset.from_list(build_traces(12, 0)), tokenizer, batch_size=4, repeats=1
    ).set_index("layout")
    assert list(table.index) == ["padded", "flattened", "rows"]
    assert table["tokens"].nunique() == 1
    assert table.loc["flattened", "fill"] == 1.0
    assert table.loc["rows", "fill"] > table.loc["padded", "fill"]
    assert table["loss"].max() - table["loss"].min() < 1e-4
    assert (table["tokens_per_second"] > 0).all()


def test_a_model_too_large_for_a_lesson_is_counted_not_measured(model, tokenizer, monkeypatch):
    from datasets import Dataset

    from r1kit.data.datasets import build_traces
    from r1kit.training import packing

    monkeypatch.setattr(packing, "MAX_COMPARISON_FLOPS", 1e6)
    traces = Dataset.from_list(build_traces(12, 0))
    table = compare_padding_and_packing(model, traces, tokenizer, batch_size=4).set_index("layout")
    assert table["seconds"].isna().all()
    assert table.loc["rows", "fill"] > table.loc["padded", "fill"]


def test_how_well_rows_are_filled_is_said_in_one_line():
    from r1kit.training.packing import describe_rows

    dataset = {"seq_lengths": [[60, 40], [50]]}
    assert describe_rows(dataset, 128) == "2 rows of up to 128 tokens, 75% of them filled"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_traces_stay_apart_on_this_machine(attention: str) -> None:
    proof = prove_packing(attention)
    assert proof.holds, str(proof)
    assert proof.mixed > 100 * proof.apart, "a test without power would pass anywhere"


def test_half_precision_stays_within_its_tolerance() -> None:
    assert prove_packing("eager", dtype="bfloat16").holds


def test_mixed_documents_fail_and_a_test_without_power_says_so() -> None:
    assert not PackingProof("eager", "cpu", "float32", 0.3, 0.3).holds
    assert "SEE EACH OTHER" in str(PackingProof("eager", "cpu", "float32", 0.3, 0.3))
    assert "proves nothing" in str(
        PackingProof("eager", "cpu", "float32", 0.0, PROOF_TOLERANCE["float32"] / 2)
    )


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 0, "packed traces stay apart: sdpa on cpu"),
        (["--profile", "mi350x-8"], 1, "flash_attention_2 cannot be used on this machine"),
    ],
)
def test_the_doctor_proves_it_for_a_profile(arguments, code, text, monkeypatch, capsys) -> None:
    from r1kit.cli.main import main

    monkeypatch.setattr("sys.argv", ["r1kit", "doctor", "--packing", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code or 0) == code
    assert text in capsys.readouterr().out
