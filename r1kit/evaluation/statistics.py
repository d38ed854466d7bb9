"""Estimates from samples with 95% intervals, and comparisons of two scores.

Samples of one problem are alike (an easy problem is solved by all of them), so the number of *problems*
bounds what an evaluation knows: intervals come from the problems' means, never from the pooled samples.

Two models on the same problems are compared problem by problem: most of a score's uncertainty is which
problems were asked, and in a difference that cancels. A score is compared with a published one in standard
errors of the sampling, since both were measured on the same problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import pandas as pd

SIMILARITY_PRIOR = 0.1
"""Weight of the prior that samples of a problem are alike, in units of problems times p(1-p).

Chosen by simulation (4,000 repetitions, 64 samples, 2026-11-24): without it 87 to 94 of 100 intervals of 30
problems at an accuracy of 0.05 contain the accuracy, with it 97 to 99; at 0.5 they are 1 to 5% wider.
"""
RESAMPLES, SUBSETS, SIGN_FLIPS = 10_000, 400, 20_000
AGREES, DOUBTFUL = 2.0, 3.0
"""Standard errors up to which a score agrees with a published one, or is doubtful; beyond them it differs."""

# Estimates


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate without bias, from c right samples of n, the probability that at least one of k is right.

    1 - C(n-c, k) / C(n, k): Chen et al. 2021 (HumanEval), "Evaluating Large Language Models Trained on Code",
    equation 1. The plug-in estimate 1 - (1 - c/n)^k is too low (0.75 instead of 1.0 at n=2, c=1, k=2).

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, found n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean_interval(
    values_per_problem: Sequence[float] | ArrayLike, strata: Sequence | None = None
) -> tuple[float, float, float]:
    """Return the mean over problems of values in [0, 1], with a 95% interval clustered by problem.

    Wilson's score interval at the *effective* number of independent samples, with Student's t for the
    estimated variance (Korn and Graubard 1998 for the effective number, Dean and Pagano 2015 for the Wilson
    form). Unlike the t interval on problem means it stays inside [0, 1].

    The effective number is P / r of P problems, where r = P Var(mean) / p(1-p) is how alike the samples of a
    problem are (intraclass correlation: 1 for copies of one sample). If few problems were solved, or nearly
    all, they say little about r. So r is shrunk towards 1, its worst value, by `SIMILARITY_PRIOR`: with many
    informative problems it changes nothing, and if all problems were solved or none was, each counts as one
    sample.

    Args:
        values_per_problem: one value per problem, shape [problems]: its mean over samples, or its pass@k.
        strata: a label per problem (its level). The estimate is then the mean over strata of their means;
            differences between strata do not widen the interval, since levels are chosen and not drawn.

    Returns:
        (value, low, high)

    Raises:
        ValueError: no value, a value outside [0, 1], or not as many strata as values.
    """
    values = np.asarray(values_per_problem, dtype=float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"expected one value per problem, found shape {values.shape}")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("values must lie in [0, 1] and none may be missing")
    if strata is not None and len(strata) != len(values):
        raise ValueError(f"{len(values)} values but {len(strata)} strata")
    labels = np.zeros(len(values)) if strata is None else np.asarray(strata)
    groups = [values[labels == label][None, :] for label in np.unique(labels)]
    value, low, high = intervals(groups)
    return float(value[0]), float(low[0]), float(high[0])


def intervals(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Compute `mean_interval` for R repetitions at once: groups of shape [R, problems in the stratum].

    Returns:
        value, low, high: each of shape [R].
    """
    from scipy import stats

    weight = 1 / len(groups)
    mean = sum(weight * g.mean(axis=1) for g in groups)
    variance = sum(weight**2 * _variance_of_mean(g) for g in groups)
    problems = sum(g.shape[1] for g in groups)
    # With equal strata this is the number of problems: the least independent information, if all samples of a
    # problem agree.
    fewest = 1 / sum(weight**2 / g.shape[1] for g in groups)
    spread = mean * (1 - mean)
    effective = fewest * (fewest * spread + SIMILARITY_PRIOR) / (fewest**2 * variance + SIMILARITY_PRIOR)
    t = stats.t.ppf(0.975, max(problems - len(groups), 1))
    shrink = 1 + t**2 / effective
    centre = (mean + t**2 / (2 * effective)) / shrink
    half = t * np.sqrt(spread / effective + t**2 / (4 * effective**2)) / shrink
    # At 0 and 1 the formula's bound equals the value up to rounding.
    low, high = np.minimum(np.maximum(centre - half, 0), mean), np.maximum(np.minimum(centre + half, 1), mean)
    return mean, low, high


def _variance_of_mean(values: np.ndarray) -> np.ndarray:
    problems = values.shape[1]
    return values.var(axis=1, ddof=1) / problems if problems > 1 else np.zeros(len(values))


def sampling_error(
    values_per_problem: Sequence[float] | ArrayLike, samples: Sequence[int] | ArrayLike
) -> float:
    """Return the standard error of pass@1 on *these* problems: how much a repetition would differ.

    sqrt(sum_i p_i (1 - p_i) / (n_i - 1)) / P, with the unbiased variance of each problem's n_i samples. It
    serves to compare with scores published for the same problems; `mean_interval` also accounts for the
    choice of the problems. One sample per problem shows no variance within problems: then the result is the
    binomial standard error of the mean, an upper bound.

    Args:
        values_per_problem: share of right samples, shape [problems].
        samples: number of samples of each problem, shape [problems].
    """
    shares, n = np.asarray(values_per_problem, dtype=float), np.asarray(samples)
    if np.all(n > 1):
        return float(np.sqrt((shares * (1 - shares) / (n - 1)).sum()) / len(shares))
    return float(np.sqrt(shares.mean() * (1 - shares.mean()) / len(shares)))


def bootstrap_interval(
    values_per_problem: Sequence[float] | ArrayLike,
) -> tuple[float, float]:
    """Return a 95% percentile interval of the mean by resampling problems, for values outside [0, 1].

    For shares `mean_interval` is better: with AIME's 30 problems the bootstrap covers 92 to 94%, and it is
    empty if all problems are alike (`tests/evaluation/test_statistics.py` measures both).
    """
    values = np.asarray(values_per_problem, dtype=float)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def majority_at_k(answers: Sequence[str | None], correct: Sequence[float], k: int) -> float:
    """Return the probability that the commonest answer among k samples is right (maj@k).

    Self-consistency, Wang et al. 2022, arXiv 2203.11171. Equal texts are one answer; samples without an
    answer have no vote; a tie is broken at random. Exact for k = n, else the mean over 400 random subsets.

    Args:
        answers: the final answer of each sample, in a form in which equal answers are equal texts.
        correct: 1.0 or 0.0 for each sample.

    Raises:
        ValueError: unless 1 <= k <= n.
    """
    if not 1 <= k <= len(answers):
        raise ValueError(f"maj@k needs 1 <= k <= n, found n={len(answers)}, k={k}")
    if k == len(answers):
        return _majority(answers, correct, range(k))
    rng = np.random.default_rng(0)
    chosen = (rng.choice(len(answers), k, replace=False) for _ in range(SUBSETS))
    return float(np.mean([_majority(answers, correct, rows) for rows in chosen]))


def _majority(answers: Sequence[str | None], correct: Sequence[float], rows: Iterable[int]) -> float:
    votes: dict[str, list[float]] = {}
    for row in rows:
        if answers[row] is not None:
            votes.setdefault(answers[row], []).append(float(correct[row]))
    most = max(map(len, votes.values()), default=0)
    leading = [rights[0] for rights in votes.values() if len(rights) == most]
    return sum(leading) / len(leading) if leading else 0.0


# Comparisons


@dataclass(frozen=True)
class Paired:
    """Two models' scores on the problems that both answered, and their difference (second minus first).

    low, high: 95% interval of the difference. p: two-sided, of the hypothesis that there is no difference.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    problems: int

    @property
    def verdict(self) -> str:
        """The result in words, at a level of 5%."""
        if self.p < 0.05:
            return "the second is better" if self.difference > 0 else "the first is better"
        return "not significant"


def paired(first: np.ndarray, second: np.ndarray, samples: int = 1) -> Paired:
    """Compare two models by their values for the same problems.

    The p-value is that of the sign-flip permutation test, exact if which model gave which answer is a coin
    toss (all flips with up to 14 problems, else 20,000). The interval is Student's t on the differences with
    two pseudo-problems at +-1/sqrt(samples), Bonett and Price's (2012) correction for paired proportions,
    without which it is too narrow if nearly all differences are 0.

    Args:
        first, second: one value in [0, 1] per problem, shape [problems], in the same order.
        samples: per problem, the smaller number of the two models.

    Raises:
        ValueError: no problems, or not the same number of them.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"paired values are needed, found shapes {a.shape} and {b.shape}")
    difference, low, high = (float(x[0]) for x in difference_intervals((b - a)[None, :], samples))
    return Paired(a.mean(), b.mean(), difference, low, high, sign_flip_p(b - a), len(a))


def difference_intervals(differences: np.ndarray, samples: int = 1) -> tuple[np.ndarray, ...]:
    """Return mean, low and high (95%) of differences [R, problems]; each of shape [R]."""
    from scipy import stats

    problems = differences.shape[1]
    mean = differences.mean(axis=1)
    pseudo = 1 / np.sqrt(samples)
    padded = problems + 2
    centre = differences.sum(axis=1) / padded
    squares = (differences**2).sum(axis=1) + 2 * pseudo**2 - padded * centre**2
    half = stats.t.ppf(0.975, problems) * np.sqrt(np.maximum(squares, 0) / (problems + 1) / padded)
    low, high = np.maximum(centre - half, -1), np.minimum(centre + half, 1)
    return mean, np.minimum(low, mean), np.maximum(high, mean)


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a mean difference of 0, from flipping the problems' signs."""
    moving = differences[differences != 0]
    if not moving.size:
        return 1.0
    if moving.size <= 14:
        codes = np.arange(2**moving.size)[:, None] >> np.arange(moving.size) & 1
        signs = 1.0 - 2.0 * codes
        return float(np.mean(np.abs(signs @ moving) >= abs(moving.sum()) - 1e-12))
    rng = np.random.default_rng(0)
    reached = 0
    for _ in range(SIGN_FLIPS // 1000):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(1000, moving.size))
        reached += int((np.abs(signs @ moving) >= abs(moving.sum()) - 1e-12).sum())
    return (reached + 1) / (SIGN_FLIPS + 1)


def compare_frames(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Paired]:
    """Compare two evaluations by level or benchmark (`paired`), on the problems that both judged.

    Raises:
        ValueError: they share no problem.
    """
    values = [_per_problem(frame) for frame in (first, second)]
    joined = values[0].join(values[1], how="inner", lsuffix="_first", rsuffix="_second")
    if joined.empty:
        raise ValueError("the two evaluations have no problem in common, so nothing can be compared")
    return {
        str(level): paired(
            rows["mean_first"].to_numpy(),
            rows["mean_second"].to_numpy(),
            int(min(rows["count_first"].min(), rows["count_second"].min())),
        )
        for level, rows in joined.groupby(level="level")
    }


def _per_problem(frame: pd.DataFrame) -> pd.DataFrame:
    sampled = frame[~frame["greedy"]].dropna(subset="correct")
    sampled = sampled.assign(level=sampled["level"].astype(str))
    return sampled.groupby(["level", "problem"])["correct"].agg(["mean", "count"])


def distance(value: float, error: float, published: Mapping[str, float]) -> list[dict]:
    """Return the distance of a score to published ones, in standard errors of the difference.

    A published score has as much noise from sampling as ours (same problems, same number of samples), so the
    error of the difference is sqrt(2) times ours.

    Args:
        value: our score in [0, 1].
        error: its `sampling_error`.
        published: name -> score in [0, 1].
    """
    rows = []
    for name, score in published.items():
        away = (value - score) / (np.sqrt(2) * error) if error else float("nan")
        verdict = (
            "cannot be said" if np.isnan(away)
            else "agrees" if abs(away) <= AGREES
            else "doubtful" if abs(away) <= DOUBTFUL
            else "differs"
        )  # fmt: skip
        rows.append({"against": name, "published": score, "standard_errors": float(away), "verdict": verdict})
    return rows
