"""pass@k and the interval clustered by problem."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from r1kit.evaluation.statistics import intervals, mean_interval, pass_at_k


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


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
@pytest.mark.parametrize(("problems", "samples"), [(210, 4), (100, 1)])
def test_the_interval_covers_the_truth_in_95_of_100_evaluations(p, problems, samples):
    """Problems differ in difficulty (a beta distribution around p), samples of one problem share it."""
    rng = np.random.default_rng(11)
    difficulty = rng.beta(2 * p, 2 * (1 - p), size=(6000, problems))
    shares = rng.binomial(samples, difficulty) / samples
    _, low, high = intervals([shares])
    covered = ((low <= p) & (p <= high)).mean()
    assert 0.93 <= covered <= 0.97


def test_the_headline_over_three_unequal_levels_covers_the_truth():
    rng = np.random.default_rng(3)
    groups = []
    for p in (0.95, 0.7, 0.4):
        difficulty = rng.beta(2 * p, 2 * (1 - p), size=(6000, 70))
        groups.append(rng.binomial(4, difficulty) / 4)
    _, low, high = intervals(groups)
    truth = (0.95 + 0.7 + 0.4) / 3
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97
