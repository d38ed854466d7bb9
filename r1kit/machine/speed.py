"""How fast this machine multiplies matrices, and how many minutes the stages of a profile will take on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1kit.settings import Profile

SIZE = 640
"""Rows of the square matrices: half a GFLOP, enough for BLAS and little for a slow machine."""


def measure_gflops(seconds: float = 0.8) -> float:
    """Measure numpy's best float32 matrix product in GFLOP/s, with the threads in effect, in `seconds`.

    The best of many products, not their mean: other work on the machine only ever makes a product slower.
    """
    import numpy

    generator = numpy.random.default_rng(0)
    left, right = (generator.standard_normal((SIZE, SIZE), dtype=numpy.float32) for _ in range(2))
    best, deadline = 0.0, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        numpy.matmul(left, right)
        end = time.perf_counter()
        best = max(best, 2 * SIZE**3 / (end - start) / 1e9)
        if end > deadline:
            return best


def expected_minutes(profile: Profile, gflops: float | None = None) -> dict[str, float]:
    """Return minutes per stage on this machine: the profile's measured ones, scaled by its matrix speed.

    An estimate: Python and disk don't scale with matrices. Without `gflops` or a reference nothing is scaled.
    """
    reference = profile.machine.reference_gflops
    factor = reference / gflops if reference and gflops else 1.0
    return {stage: minutes * factor for stage, minutes in profile.machine.expected_minutes.items()}
