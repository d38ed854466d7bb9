"""pass@k, votes, intervals and comparisons; intervals held against models whose accuracy is known.

For coverage a problem's difficulty is drawn from a beta distribution around the accuracy, and its samples
share it; everything is drawn again a thousand times and computed at once.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from r1kit.evaluation.benchmarks import published
from r1kit.evaluation.report import render_comparison
from r1kit.evaluation.statistics import (
    bootstrap_interval,
    compare_frames,
    difference_intervals,
    distance,
    intervals,
    majority_at_k,
    mean_interval,
    paired,
    pass_at_k,
    sampling_error,
    sign_flip_p,
)
from tests.evaluation.test_report import benchmark_frame


def test_pass_at_k_equals_the_share_of_k_subsets_with_a_right_sample():
    for n, c in [(1, 0), (1, 1), (4, 1), (5, 2), (6, 6)]:
        outcomes = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(outcomes, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_stays_exact_for_many_samples():
    assert pass_at_k(1000, 1, 1) == pytest.approx(0.001)
    assert pass_at_k(1000, 500, 600) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, c, k)


def test_the_interval_of_single_samples_is_close_to_wilsons():
    """Wilson at z=1.96 for 40 of 50 gives 0.670 and 0.888; t with 49 degrees of freedom is a little wider."""
    value, low, high = mean_interval([1] * 40 + [0] * 10)
    assert (value, low, high) == pytest.approx((0.8, 0.670, 0.888), abs=0.006)


def test_copying_samples_of_the_same_problems_does_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    right = rng.random(60) < 0.4
    once, many = mean_interval(right), mean_interval(np.stack([right] * 8, axis=1).mean(axis=1))
    assert once == many


@pytest.mark.parametrize(("values", "value"), [([0.0] * 30, 0.0), ([1.0] * 30, 1.0)])
def test_at_zero_and_one_the_interval_still_admits_doubt(values, value):
    mean, low, high = mean_interval(values)
    assert mean == value
    assert 0.08 < high - low < 0.15
    assert low <= mean <= high
    assert (low, high)[int(value)] == value


def test_strata_are_averaged_and_their_difference_is_no_uncertainty():
    values = [1.0, 0.9, 1.0, 0.9] * 10 + [0.1, 0.0] * 5
    levels = [1] * 40 + [2] * 10
    value, low, high = mean_interval(values, strata=levels)
    assert value == pytest.approx((0.95 + 0.05) / 2)
    _, pooled_low, pooled_high = mean_interval(values)
    assert high - low < 0.4 * (pooled_high - pooled_low)


@pytest.mark.parametrize("values", [[], [1.2], [float("nan")], [[0.5]]])
def test_values_that_are_no_shares_are_refused(values):
    with pytest.raises(ValueError, match=r"expected one value|must lie"):
        mean_interval(values)


def test_the_headline_over_three_unequal_levels_covers_the_truth():
    rng = np.random.default_rng(3)
    groups = []
    for p in (0.95, 0.7, 0.4):
        difficulty = rng.beta(2 * p, 2 * (1 - p), size=(6000, 70))
        groups.append(rng.binomial(4, difficulty) / 4)
    _, low, high = intervals(groups)
    truth = (0.95 + 0.7 + 0.4) / 3
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


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
    first = benchmark_frame({"a": [1, 0], "b": [0, 0], "only here": [1, 1]})
    second = benchmark_frame({"b": [1, 1], "a": [1, 1]})
    found = compare_frames(first, second)["math_500"]
    assert (found.first, found.second, found.problems) == (0.25, 1.0, 2)
    with pytest.raises(ValueError, match="no problem in common"):
        compare_frames(first, benchmark_frame({"a": [1]}, level="aime24"))
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


REPETITIONS = 1000
# benchmark -> problems, samples a problem, accuracy (open-r1's tables), spread of difficulty (2: uniform at
# 0.5)
BENCHMARKS = {
    "AIME24": (30, 64, 0.527, 2.0),
    "AIME24, most problems always or never solved": (30, 64, 0.527, 0.7),
    "AIME24, a weak model": (30, 64, 0.287, 2.0),
    "MATH-500": (500, 4, 0.89, 1.0),
    "GPQA-Diamond": (198, 8, 0.528, 2.0),
    "LiveCodeBench": (279, 16, 0.394, 1.0),
    "GSM8K": (1319, 1, 0.9, 1.0),
    "the embedded world": (240, 4, 0.9, 2.0),
}


def difficulties(rng, accuracy, spread, problems, repetitions=REPETITIONS):
    return rng.beta(spread * accuracy, spread * (1 - accuracy), size=(repetitions, problems))


def coverage(accuracy, spread, problems, samples, repetitions=REPETITIONS):
    """Share of intervals that contain the accuracy."""
    rng = np.random.default_rng(7)
    shares = rng.binomial(samples, difficulties(rng, accuracy, spread, problems, repetitions)) / samples
    _, low, high = intervals([shares])
    return ((low <= accuracy) & (accuracy <= high)).mean()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_95_percent_interval_contains_the_truth_in_93_to_97_of_100_evaluations(name):
    problems, samples, accuracy, spread = BENCHMARKS[name]
    assert 0.93 <= coverage(accuracy, spread, problems, samples) <= 0.97


@pytest.mark.parametrize(
    ("accuracy", "spread", "samples", "most"),
    [(0.1, 0.7, 64, 0.97), (0.85, 2.0, 4, 0.97), (0.03, 8.0, 4, 0.995), (0.97, 0.7, 64, 0.995)],
)
def test_with_30_problems_it_claims_too_little_rather_than_too_much(accuracy, spread, samples, most):
    """With nearly none or all of them solved it may cover more than 95 of 100."""
    assert (0.95 if most > 0.97 else 0.93) <= coverage(accuracy, spread, 30, samples, 4 * REPETITIONS) <= most


def test_the_percentile_bootstrap_is_too_narrow_for_30_problems():
    """Why `mean_interval` is no bootstrap: with an easy set of 30 problems it misses the truth one time in
    ten.
    """
    rng = np.random.default_rng(7)
    shares = rng.binomial(64, difficulties(rng, 0.9, 1.0, 30)) / 64
    covered = {"bootstrap": 0.0, "ours": 0.0}
    for row in shares[:400]:
        drawn = row[rng.integers(30, size=(500, 30))].mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        covered["bootstrap"] += (low <= 0.9 <= high) / 400
    _, low, high = intervals([shares])
    covered["ours"] = ((low <= 0.9) & (high >= 0.9)).mean()
    assert covered["bootstrap"] < 0.91 < 0.92 < covered["ours"]


@pytest.mark.parametrize(("problems", "samples", "gain"), [(30, 64, 0.05), (198, 8, 0.0), (500, 1, 0.05)])
def test_the_interval_of_a_paired_difference_contains_it_95_times_in_100(problems, samples, gain):
    rng = np.random.default_rng(3)
    first = difficulties(rng, 0.5, 2.0, problems)
    second = np.clip(first + 2 * gain * (1 - first), 0, 1)
    shares = [rng.binomial(samples, difficulty) / samples for difficulty in (first, second)]
    _, low, high = difference_intervals(shares[1] - shares[0], samples)
    truth = (second - first).mean()
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.985  # a little wide for 30 problems


def test_the_sampling_error_is_what_repeating_the_same_evaluation_shows():
    """64 samples of AIME's 30 problems: about one point; a single sample: six to nine (open-r1's 52.7)."""
    rng = np.random.default_rng(5)
    difficulty = difficulties(rng, 0.527, 2.0, 30)[0]
    for samples, least, most in [(64, 0.006, 0.012), (1, 0.05, 0.095)]:
        repeated = rng.binomial(samples, difficulty, size=(REPETITIONS, 30)) / samples
        assert least < repeated.mean(axis=1).std() < most
        if samples > 1:
            said = np.mean([sampling_error(row, [samples] * 30) for row in repeated[:200]])
            assert said == pytest.approx(repeated.mean(axis=1).std(), rel=0.1)
    assert sampling_error([1.0] * 15 + [0.0] * 15, [1] * 30) == pytest.approx(0.0913, abs=1e-4)
