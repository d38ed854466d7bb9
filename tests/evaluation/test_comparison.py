"""Two models on the same problems, votes, and scores beside published ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from r1kit.evaluation.benchmarks import published
from r1kit.evaluation.report import render, render_comparison, scores
from r1kit.evaluation.statistics import (
    bootstrap_interval,
    compare_frames,
    distance,
    majority_at_k,
    paired,
    sign_flip_p,
)


def frame_of(outcomes, level="math_500", answers=None):
    return pd.DataFrame(
        {
            "problem": problem, "solution": "1", "level": level, "sample": i, "greedy": False,
            "completion": "", "correct": float(c), "form": 1.0, "tokens": 100.0 + i, "finished": i != 3,
            "answer": (answers or {}).get(problem, ["1" if c else "2" for c in corrects])[i],
        }
        for problem, corrects in outcomes.items()
        for i, c in enumerate(corrects)
    )  # fmt: skip


def test_a_gain_on_every_problem_is_found_where_the_scores_own_intervals_overlap():
    rng = np.random.default_rng(0)
    first = rng.beta(1, 1, 40) * 0.9
    second = first + 0.05
    found = paired(first, second, samples=64)
    assert found.difference == pytest.approx(0.05)
    assert 0 < found.low < 0.05 < found.high < 0.1
    assert found.p < 0.001
    assert found.verdict == "the second is better"
    mixed = paired(first, rng.permutation(second), samples=64)
    assert mixed.p > 0.05, "the same scores without the pairing say nothing"


def test_equal_models_are_told_apart_five_times_in_a_hundred():
    rng = np.random.default_rng(1)
    differences = rng.binomial(8, 0.6, size=(300, 12)) / 8 - rng.binomial(8, 0.6, size=(300, 12)) / 8
    found = np.mean([sign_flip_p(row) < 0.05 for row in differences])
    assert 0.02 < found < 0.08


def test_small_tests_are_exact_and_no_difference_is_no_evidence():
    assert sign_flip_p(np.array([1.0, 1.0, 1.0])) == 2 / 8
    assert sign_flip_p(np.zeros(30)) == 1.0
    same = paired(np.ones(30), np.ones(30))
    assert (same.low, same.high) != (0.0, 0.0), "thirty equal outcomes do not prove equality"
    assert same.low < 0 < same.high
    with pytest.raises(ValueError, match="paired values are needed"):
        paired(np.ones(3), np.ones(4))


def test_frames_are_compared_on_the_problems_that_both_have():
    first = frame_of({"a": [1, 0], "b": [0, 0], "only here": [1, 1]})
    second = frame_of({"b": [1, 1], "a": [1, 1]})
    found = compare_frames(first, second)["math_500"]
    assert (found.first, found.second, found.problems) == (0.25, 1.0, 2)
    with pytest.raises(ValueError, match="no problem in common"):
        compare_frames(first, frame_of({"a": [1]}, level="aime24"))
    assert "25.0 -> 100.0  +75.0" in render_comparison("sft", "grpo", {"math_500": found})


def test_votes():
    assert majority_at_k(["1", "1", "2"], [1, 1, 0], 3) == 1.0
    assert majority_at_k(["1", "2"], [1, 0], 2) == 0.5, "a tie is a coin toss"
    assert majority_at_k([None, None, "1"], [0, 0, 1], 3) == 1.0, "no answer has no vote"
    assert majority_at_k([None], [0], 1) == 0.0
    assert majority_at_k(["1", "2", "3", "1"], [1, 0, 0, 1], 1) == pytest.approx(0.5, abs=0.08)
    with pytest.raises(ValueError, match="maj@k needs"):
        majority_at_k(["1"], [1], 2)


def test_a_bootstrap_of_lengths_contains_their_mean():
    low, high = bootstrap_interval([100.0, 200.0, 300.0] * 20)
    assert 170 < low < 200 < high < 230
    assert bootstrap_interval([5.0] * 4) == (5.0, 5.0)


def test_scores_stand_beside_published_ones_in_standard_errors():
    rows = distance(0.527 - 0.04, 0.01, published("aime24"))
    assert [row["published"] for row in rows] == [0.527, 0.513]
    assert rows[0]["standard_errors"] == pytest.approx(-4 / 2**0.5)
    assert [row["verdict"] for row in rows] == ["doubtful", "agrees"]
    assert distance(0.4, 0.01, {"far": 0.5})[0]["verdict"] == "differs"
    assert distance(1.0, 0.0, {"same": 1.0})[0]["verdict"] == "cannot be said"
    own = published("math_500", "/models/DeepSeek-R1-Distill-Qwen-7B")
    assert set(own.values()) == {0.935, 0.928}, "the model's own entries, both harnesses"


def test_a_report_holds_every_estimate_with_its_interval_and_what_was_cut_off():
    answers = {"a": ["1/2", "1/2", "3", "1/2"], "b": ["7", "7", "7", "2"]}
    frame = frame_of({"a": [1, 1, 0, 1], "b": [0, 0, 0, 1]}, answers=answers)
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
