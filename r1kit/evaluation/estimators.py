"""Estimates from samples: pass@k without bias, and means with 95% intervals that respect problems.

Samples of one problem are alike (an easy problem is solved by all of them), so the number of *problems*
bounds what an evaluation knows: intervals come from the problems' means, never from the pooled samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples is right, estimated without bias from c right ones among n.

    1 - C(n-c, k) / C(n, k): Chen et al. 2021 (HumanEval), "Evaluating Large Language Models Trained on Code",
    equation 1. The plug-in estimate 1 - (1 - c/n)^k is too low (0.75 instead of 1.0 at n=2, c=1, k=2).

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, found n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean_interval(
    values_per_problem: Sequence[float] | ArrayLike,
    strata: Sequence | None = None,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """Mean over problems of values in [0, 1], with a two-sided interval clustered by problem.

    Wilson's score interval at the *effective* number of independent samples, p(1-p) / Var(mean), with
    Student's t for the estimated variance (Korn and Graubard 1998 for the effective number, Dean and Pagano
    2015 for the Wilson form). Unlike the t interval on problem means it stays inside [0, 1] and does not
    shrink to nothing when all problems were solved or none was: then each problem counts as one sample.

    Args:
        values_per_problem: one value per problem, shape [problems]: its mean over samples, or its pass@k.
        strata: a label per problem (its level). The estimate is then the mean over strata of their means, and
            differences between strata are no uncertainty, since levels are chosen and not drawn.

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
    value, low, high = intervals(groups, confidence)
    return float(value[0]), float(low[0]), float(high[0])


def intervals(groups: Sequence[np.ndarray], confidence: float = 0.95) -> tuple[np.ndarray, ...]:
    """`mean_interval` for R repetitions at once: groups of shape [R, problems in the stratum].

    Returns:
        value, low, high: each of shape [R].
    """
    from scipy import stats

    weight = 1 / len(groups)
    mean = sum(weight * g.mean(axis=1) for g in groups)
    variance = sum(weight**2 * _variance_of_mean(g) for g in groups)
    problems = sum(g.shape[1] for g in groups)
    # With equal strata this is the number of problems: the floor of independent information, reached when all
    # samples of a problem agree, and the only sensible value when nothing varies at all.
    fewest = 1 / sum(weight**2 / g.shape[1] for g in groups)
    spread = mean * (1 - mean)
    effective = np.where(variance > 0, spread / np.where(variance > 0, variance, 1), fewest)
    t = stats.t.ppf(0.5 + confidence / 2, max(problems - len(groups), 1))
    shrink = 1 + t**2 / effective
    centre = (mean + t**2 / (2 * effective)) / shrink
    half = t * np.sqrt(spread / effective + t**2 / (4 * effective**2)) / shrink
    # At 0 and 1 the formula's bound equals the value up to rounding.
    low, high = np.minimum(np.maximum(centre - half, 0), mean), np.maximum(np.minimum(centre + half, 1), mean)
    return mean, low, high


def _variance_of_mean(values: np.ndarray) -> np.ndarray:
    """Estimated variance of the mean over problems, shape [R]; 0 for a single problem."""
    problems = values.shape[1]
    return values.var(axis=1, ddof=1) / problems if problems > 1 else np.zeros(len(values))
