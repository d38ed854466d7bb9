"""A rule-based teacher: it writes reasoning traces, slips now and then, and is often in a hurry.

DeepSeek-R1's second stage collects traces from a model and keeps those whose final answer is right (paper
section 2.3.3, rejection sampling). This teacher gives that something to do, and something it cannot do:

- In each step it miscalculates with probability `slip_rate` and goes on from the wrong value. A verifier of
  answers removes such a trace, unless two slips cancel.
- With probability `hurry_rate` it writes no steps: it works the answer out in its head, slipping as often as
  on paper. When the answer is right no verifier of answers objects, but a small student that imitates the
  hurry has no such head. That habit is what GRPO unlearns: reasoning aloud pays, and completions grow longer.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from r1kit.data.format import write_completion
from r1kit.data.stories import Problem, apply

MISTAKES = (-2, -1, 1, 2)
"""By how much a slipped result is off."""

HURRIED = "I can see it."
"""The whole thought of a trace without steps."""


class Trace(NamedTuple):
    """What the teacher wrote (`text`, a completion in the one format) and how it came about."""

    text: str
    slips: int
    """In how many operations it miscalculated."""
    hurried: bool
    """Whether it wrote no steps."""


def write_trace(
    problem: Problem, rng: random.Random, slip_rate: float = 0.0, hurry_rate: float = 0.0
) -> Trace:
    """One trace for `problem`; each operation is wrong with probability `slip_rate` (never below zero)."""
    value, steps, slips = problem.start, [], 0
    for number, (sign, amount) in enumerate(problem.operations, start=1):
        result = apply(value, sign, amount)
        if rng.random() < slip_rate:
            wrong = max(0, result + rng.choice(MISTAKES))
            slips += wrong != result
            result = wrong
        steps.append(f"Step {number}: {value} {sign} {amount} = {result}")
        value = result
    hurried = rng.random() < hurry_rate
    return Trace(write_completion([HURRIED] if hurried else steps, str(value)), slips, hurried)
