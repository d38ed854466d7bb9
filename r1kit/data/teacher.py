"""A rule-based teacher: it writes reasoning traces, and slips now and then as a real teacher model does.

DeepSeek-R1's second stage collects traces from a model and keeps those whose final answer is right (paper
section 2.3.3, rejection sampling). To have something to reject, this teacher miscalculates a step with
probability ``slip_rate`` and goes on from the wrong value. Two slips may cancel: such a trace ends in the
right answer and survives a verifier that looks at the answer only.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from r1kit.data.format import write_completion
from r1kit.data.stories import Problem, apply

MISTAKES = (-2, -1, 1, 2)
"""By how much a slipped result is off."""


class Trace(NamedTuple):
    """What the teacher wrote (``text``, a completion in the one format) and in how many steps it
    miscalculated.
    """

    text: str
    slips: int


def write_trace(problem: Problem, rng: random.Random, slip_rate: float = 0.0) -> Trace:
    """One trace for ``problem``; each step is wrong with probability ``slip_rate`` (never below zero)."""
    value, steps, slips = problem.start, [], 0
    for number, (sign, amount) in enumerate(problem.operations, start=1):
        result = apply(value, sign, amount)
        if rng.random() < slip_rate:
            wrong = max(0, result + rng.choice(MISTAKES))
            slips += wrong != result
            result = wrong
        steps.append(f"Step {number}: {value} {sign} {amount} = {result}")
        value = result
    return Trace(write_completion(steps, str(value)), slips)
