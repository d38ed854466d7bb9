"""Intervals held against models whose accuracy is known: how often do they contain it?

A problem's difficulty is drawn from a beta distribution around the accuracy, its samples share it; everything
is drawn again a thousand times and computed at once.
"""

from __future__ import annotations

import numpy as np
import pytest

from r1kit.evaluation.statistics import difference_intervals, intervals, sampling_error

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


@pytest.mark.parametrize("samples", [64, 4])
@pytest.mark.parametrize("spread", [0.7, 2.0])
@pytest.mark.parametrize("accuracy", [0.1, 0.15, 0.85, 0.9])
def test_so_it_does_for_30_problems_and_a_weak_or_a_strong_model(accuracy, spread, samples):
    assert 0.93 <= coverage(accuracy, spread, 30, samples, 4 * REPETITIONS) <= 0.97


@pytest.mark.parametrize("samples", [64, 4])
@pytest.mark.parametrize("spread", [0.7, 2.0, 8.0])
@pytest.mark.parametrize("accuracy", [0.03, 0.05, 0.95, 0.97])
def test_of_30_problems_and_nearly_none_solved_or_all_it_claims_too_little_rather_than_too_much(
    accuracy, spread, samples
):
    assert 0.95 <= coverage(accuracy, spread, 30, samples, 4 * REPETITIONS) <= 0.995


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


@pytest.mark.parametrize(("problems", "samples"), [(30, 64), (198, 8), (500, 4), (500, 1)])
@pytest.mark.parametrize("gain", [0.0, 0.05])
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
