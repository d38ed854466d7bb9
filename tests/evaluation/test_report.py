"""From judged rows to the reported numbers: tables over levels, and reports by benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from r1kit.evaluation import load_results, pass1_entry, save_results, table
from r1kit.evaluation.report import render, scores


def frame_of(outcomes: dict[tuple[int, str], list[float]], greedy: float | None = 1.0) -> pd.DataFrame:
    rows = []
    for (level, problem), correct in outcomes.items():
        common = {"problem": problem, "solution": "1", "level": level, "completion": "", "finished": True}
        common |= {"form": 1.0, "tokens": 10 * level}
        rows += [common | {"sample": i, "greedy": False, "correct": c} for i, c in enumerate(correct)]
        if greedy is not None:
            rows.append(common | {"sample": 0, "greedy": True, "correct": greedy})
    return pd.DataFrame(rows)


FRAME = frame_of({(1, "a"): [1, 1, 1, 1], (1, "b"): [1, 1, 0, 0], (2, "c"): [0, 0, 0, 1], (2, "d"): [0] * 4})


def test_the_entry_of_the_summary_counts_only_sampled_answers_of_the_chosen_levels():
    entry = pass1_entry(FRAME, [1])
    assert set(entry) == {"value", "low", "high", "problems", "samples"}
    assert entry["value"] == 0.75
    assert (entry["problems"], entry["samples"]) == (2, 8)
    assert 0 <= entry["low"] < 0.75 < entry["high"] <= 1
    assert pass1_entry(FRAME, [1, 2])["value"] == pytest.approx((0.75 + 0.125) / 2)


def test_the_table_has_every_level_and_the_headline_for_every_checkpoint():
    rows = table({"base": FRAME, "sft": FRAME}, levels=[1, 2], k=[1, 2, 8])
    assert rows[["checkpoint", "level"]].values.tolist() == [
        ["base", "1"], ["base", "2"], ["base", "1-2"], ["sft", "1"], ["sft", "2"], ["sft", "1-2"],
    ]  # fmt: skip
    level_one = rows.iloc[0]
    assert level_one["pass@1"] == 0.75
    assert level_one["pass@2"] == pytest.approx((1 + 5 / 6) / 2)
    assert level_one["greedy"] == 1.0
    assert "pass@8" not in rows  # four samples say nothing about eight
    assert rows.loc[rows["headline"], "problems"].tolist() == [4, 4]
    assert level_one["tokens"] == 10


def test_levels_with_unequal_numbers_of_problems_weigh_the_same():
    frame = frame_of({(1, "a"): [1.0], (1, "b"): [1.0], (1, "c"): [1.0], (2, "d"): [0.0]}, greedy=None)
    assert pass1_entry(frame, [1, 2])["value"] == 0.5


def test_unjudged_completions_are_left_out_and_a_level_without_any_is_an_error():
    frame = frame_of({(1, "a"): [1.0, float("nan")], (2, "b"): [float("nan")] * 2}, greedy=None)
    assert pass1_entry(frame, [1])["samples"] == 1
    with pytest.raises(ValueError, match="no judged completions of level 2"):
        pass1_entry(frame, [1, 2])


def test_pass_at_k_needs_k_judged_answers_of_every_problem():
    frame = frame_of({(1, "a"): [1.0, float("nan")], (1, "b"): [1.0, 0.0]}, greedy=None)
    rows = table(frame, [1], k=[1, 2])
    assert rows["pass@1"].tolist() == [0.75]
    assert "pass@2" not in rows


def test_results_survive_storage_and_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_results(FRAME, tmp_path / "evaluations" / "sft.parquet")
    pd.testing.assert_frame_equal(load_results(path), FRAME)

    def torn(self, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", torn)
    with pytest.raises(OSError, match="disk full"):
        save_results(FRAME.head(1), path)
    pd.testing.assert_frame_equal(load_results(path), FRAME)
    assert [p.name for p in path.parent.iterdir()] == ["sft.parquet"]


def benchmark_frame(outcomes, level="math_500", answers=None):
    return pd.DataFrame(
        {
            "problem": problem, "solution": "1", "level": level, "sample": i, "greedy": False,
            "completion": "", "correct": float(c), "form": 1.0, "tokens": 100.0 + i, "finished": i != 3,
            "answer": (answers or {}).get(problem, ["1" if c else "2" for c in corrects])[i],
        }
        for problem, corrects in outcomes.items()
        for i, c in enumerate(corrects)
    )  # fmt: skip


def test_a_report_holds_every_estimate_with_its_interval_and_what_was_cut_off():
    answers = {"a": ["1/2", "1/2", "3", "1/2"], "b": ["7", "7", "7", "2"]}
    frame = benchmark_frame({"a": [1, 1, 0, 1], "b": [0, 0, 0, 1]}, answers=answers)
    found = scores(frame, k=[1, 2, 8])["math_500"]
    assert found["pass@1"]["value"] == 0.5
    assert found["pass@2"]["value"] == pytest.approx((1 + 0.5) / 2)
    assert "pass@8" not in found
    assert found["maj@4"]["value"] == 0.5
    assert found["truncated"] == 0.25
    assert found["tokens"]["mean"] == 101.5
    assert found["sampling_error"] == pytest.approx(np.sqrt(2 * 0.75 * 0.25 / 3) / 2)
    text = render({"model": "m", "sampling": "temperature 0.6", "scores": {"math_500": found}})
    assert "pass@1 50.0 [" in text
    assert "25.0% cut off, 102 tokens on average" in text
    assert "OpenR1-Distill-7B 89.0: " in text
