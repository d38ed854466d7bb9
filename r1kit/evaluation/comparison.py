"""Is one score really different from another: two models on the same problems, and a score beside a published
one.

The problems are the same, so they are compared problem by problem: most of a score's uncertainty is which
problems were asked, and in a difference that cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

FLIPS = 20_000
EQUAL, NEAR = 2.0, 3.0
"""Standard errors within which a score agrees with a published one, and beyond which it does not."""


@dataclass(frozen=True)
class Paired:
    """Score of the second model minus the first's on the problems that both answered.

    low, high: 95% interval of the difference. p: of no difference, two-sided.
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
        """In words, at 5%."""
        if self.p < 0.05:
            return "the second is better" if self.difference > 0 else "the first is better"
        return "no difference that chance could not make"


def paired(first: np.ndarray, second: np.ndarray, samples: int = 1, *, seed: int = 0) -> Paired:
    """Compare two models by their values for the same problems.

    The p-value is that of the sign-flip permutation test (exact under "which model gave which answer is a
    coin toss"; with up to 14 problems all flips are made, else 20,000). The interval is Student's t on the
    differences with two pseudo-problems at +-1/sqrt(samples), Bonett and Price's (2012) correction for paired
    proportions, which keeps it honest where nearly all differences are 0.

    Args:
        first, second: one value in [0, 1] per problem, shape [problems], in the same order.
        samples: of each problem, the smaller number of the two.

    Raises:
        ValueError: no problems, or not the same number of them.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"paired values are needed, found shapes {a.shape} and {b.shape}")
    difference, low, high = (float(x[0]) for x in difference_intervals((b - a)[None, :], samples))
    return Paired(a.mean(), b.mean(), difference, low, high, sign_flip_p(b - a, seed), len(a))


def difference_intervals(differences: np.ndarray, samples: int = 1) -> tuple[np.ndarray, ...]:
    """Mean and 95% interval of differences [R, problems] for R repetitions at once; each of shape [R]."""
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


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of 0, from flipping the problems' signs."""
    moving = differences[differences != 0]
    if not moving.size:
        return 1.0
    if moving.size <= 14:
        codes = np.arange(2**moving.size)[:, None] >> np.arange(moving.size) & 1
        signs = 1.0 - 2.0 * codes
        return float(np.mean(np.abs(signs @ moving) >= abs(moving.sum()) - 1e-12))
    rng = np.random.default_rng(seed)
    reached = 0
    for _ in range(FLIPS // 1000):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(1000, moving.size))
        reached += int((np.abs(signs @ moving) >= abs(moving.sum()) - 1e-12).sum())
    return (reached + 1) / (FLIPS + 1)


def compare_frames(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Paired]:
    """`paired` for each level or benchmark that two evaluations share, on the problems that both judged.

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
    """How far a score lies from published ones, in standard errors of the difference.

    The published number carries as much noise of sampling as ours (same problems, same number of samples), so
    the error of the difference is sqrt(2) times ours.

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
            else "agrees" if abs(away) <= EQUAL
            else "doubtful" if abs(away) <= NEAR
            else "differs"
        )  # fmt: skip
        rows.append({"against": name, "published": score, "standard_errors": float(away), "verdict": verdict})
    return rows
