"""The weighted sum of several rewards, with its parts, and the rows that must not be trained on.

None means "could not be judged": the gold is unreadable, or the sandbox had trouble. Such a row must not be
ranked among its group. TRL (1.16) leaves a row out only if *every* reward is None; where one is a number,
`nansum` counts the others as 0, and a completion whose code could not be run would be punished for it. So
here one None makes the whole row None. A reward that is not about a row at all (no `verification_info` in a
row of mathematics) says nothing either way, but a row that no verifying reward is about earns nothing for its
form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.rewards.registry import RewardFunction


@dataclass(frozen=True)
class Scores:
    """Rewards of B completions."""

    totals: list[float | None]  # [B] weighted sums; None where the row could not be judged
    parts: dict[str, list[float | None]]  # name -> [B], unweighted


def score(
    functions: Sequence[RewardFunction], weights: Sequence[float], completions: list, **columns: Any
) -> Scores:
    """Weighted sums and parts, as `get_rewards` returns functions and weights.

    Args:
        completions: TRL's completions, B strings or B conversations.
        columns: the dataset's columns (B values each), `prompts` and `completion_ids` as TRL passes them.
    """
    parts = {function.name: function(completions, **columns) for function in functions}
    applies = [function.applies(len(completions), columns) for function in functions]
    verifies = [bool(function.needs) for function in functions]
    totals: list[float | None] = []
    for row in range(len(completions)):
        earned = [part[row] for part in parts.values()]
        judged = is_judged(earned, [own[row] for own in applies], verifies)
        pairs = zip(earned, weights, strict=True)
        totals.append(sum(part * weight for part, weight in pairs if part is not None) if judged else None)
    return Scores(totals, parts)


def is_judged(earned: Sequence[float | None], applies: Sequence[bool], verifies: Sequence[bool]) -> bool:
    """Whether a row may be trained on.

    Args:
        earned: what each reward said, [F].
        applies: whether the row is that reward's task, [F].
        verifies: whether the reward compares with something in the dataset, [F].
    """
    silent = any(own and part is None for part, own in zip(earned, applies, strict=True))
    verified = any(own and checks for own, checks in zip(applies, verifies, strict=True))
    return not silent and (verified or not any(verifies))
