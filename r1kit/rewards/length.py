r"""Rewards that depend on the length of a completion: Kimi's, the cosine's, and DAPO's overlong punishment.

Public names and arguments are open-r1's. Lengths are in tokens, from the `completion_ids` that TRL passes;
open-r1 counted characters, as the calls without ids do here. An answer is right if `accuracy_reward` says so,
and where that cannot judge the gold, the row gives None. open-r1 read gold by another rule than accuracy and
took unreadable gold for answered correctly, so **gold "3" gave +0.5 (length) or +1.0 (cosine) to wrong
answers**. Each function documents its other differences.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from r1kit.rewards.accuracy import accuracy_reward
from r1kit.rewards.completions import completion_lengths, finite_number, groups_by_prompt, whole_number


def len_reward(
    completions: list,
    solution: list[str],
    prompts: Sequence | None = None,
    completion_ids: Sequence[Sequence[int]] | None = None,
    **columns,
) -> list[float | None]:
    """Reward shorter answers to a prompt, wrong ones with at most 0: Kimi k1.5, open-r1's `len_reward`.

    With l = 0.5 - (length - shortest) / (longest - shortest), a right answer earns l and a wrong one
    min(0, l); all earn 0 where all are equally long (arXiv:2501.12599, "Length Penalty").
    B values in [-0.5, 0.5], None where the gold cannot be judged. The paper warns that the reward slows
    training at first: give it weight once accuracy has risen.

    open-r1 took shortest and longest over all rows of a process, mixing prompts: the answers to a hard
    problem paid for being longer than those to an easy one. Here each group has its own. TRL calls a
    reward for the rows of one process; keep per_device_train_batch_size a multiple of num_generations, else
    a group is split over processes and each part is compared with itself only.

    Args:
        completions: B completions.
        solution: B gold solutions, as in `accuracy_reward`.
        prompts: B prompts; equal prompts make a group. Without them all rows are one group.
        completion_ids: B lists of token ids; without them lengths are in characters.
        columns: the dataset's other columns; not used.

    Raises:
        ValueError: prompts or completion_ids have another number of rows.
    """
    lengths = completion_lengths(completions, completion_ids)
    verdicts = accuracy_reward(completions, solution=solution)
    rewards: list[float | None] = [None] * len(verdicts)
    for rows in groups_by_prompt(prompts, len(verdicts)):
        shortest, longest = min(lengths[r] for r in rows), max(lengths[r] for r in rows)
        for row in rows:
            if verdicts[row] is not None:
                share = (lengths[row] - shortest) / (longest - shortest) if longest > shortest else 0.5
                rewards[row] = 0.5 - share if verdicts[row] == 1.0 else min(0.0, 0.5 - share)
    return rewards


class CosineCurve(NamedTuple):
    """Values at length 0 and at max_len tokens, for right and for wrong answers."""

    correct_short: float
    correct_long: float
    wrong_short: float
    wrong_long: float
    max_len: int

    def value(self, correct: bool, length: int) -> float:
        """Return the reward at this length; beyond max_len it is that at max_len."""
        short, long = (
            (self.correct_short, self.correct_long) if correct else (self.wrong_short, self.wrong_long)
        )
        return long + 0.5 * (short - long) * (1.0 + math.cos(math.pi * min(1.0, length / self.max_len)))


def get_cosine_scaled_reward(
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    max_len: int = 1000,
) -> Callable:
    """Make the cosine reward of Yeo et al. (arXiv:2502.03373): short right answers, long wrong ones.

    A right answer falls from max_value_correct to min_value_correct as it grows to max_len tokens; a wrong
    one rises from min_value_wrong to max_value_wrong, since a short wrong answer should have thought longer.
    Between them value(n) = end + (start - end) / 2 * (1 + cos(pi * n / max_len)).

    The function name is open-r1's. Differences: the curve is **clamped** (open-r1's is periodic, and 2,000
    characters scored like none); **inverted values are refused**: the defaults of open-r1's config
    (min_value_wrong 0.0, max_value_wrong -0.5) contradict those of its function, and gave short wrong answers
    0 and long ones -0.5. The paper's extra punishment at the limit is left to `get_soft_overlong_punishment`,
    as in open-r1: without it, a wrong answer gains by running into the limit.

    The function returned takes `completions`, `solution` and `completion_ids` (tokens; characters without it)
    and gives B values from min_value_wrong to max_value_correct, None where the gold cannot be judged.

    Raises:
        ValueError: a value is not a finite number, a min is above its max, wrong answers could earn more
            than right ones, or max_len is not a positive whole number.
    """
    values = {
        "min_value_wrong": min_value_wrong, "max_value_wrong": max_value_wrong,
        "min_value_correct": min_value_correct, "max_value_correct": max_value_correct,
    }  # fmt: skip
    values = {name: finite_number(name, value) for name, value in values.items()}
    names = list(values)
    for low, high in itertools.pairwise(names):
        if values[low] > values[high]:
            raise ValueError(
                f"{low} is {values[low]:g} and {high} is {values[high]:g}: allowed is "
                f"{' <= '.join(names)}, else short wrong or long right answers would earn most"
            )
    curve = CosineCurve(
        correct_short=values["max_value_correct"],
        correct_long=values["min_value_correct"],
        wrong_short=values["min_value_wrong"],
        wrong_long=values["max_value_wrong"],
        max_len=whole_number("max_len", max_len, least=1),
    )
    reward = partial(_cosine, curve)
    reward.__name__ = "cosine_scaled_reward"  # TRL names the metric after it; open-r1's name
    return reward


def _cosine(
    curve: CosineCurve,
    /,  # a dataset column may have any name
    completions: list,
    solution: list[str],
    completion_ids: Sequence[Sequence[int]] | None = None,
    **columns,
) -> list[float | None]:
    lengths = completion_lengths(completions, completion_ids)
    verdicts = accuracy_reward(completions, solution=solution)
    return [
        None if verdict is None else curve.value(verdict == 1.0, length)
        for verdict, length in zip(verdicts, lengths, strict=True)
    ]


def get_soft_overlong_punishment(max_completion_len: int, soft_punish_cache: int) -> Callable:
    """Make DAPO's punishment (arXiv:2503.14476, equation 13): 0, then a line down to -1 at the limit.

    0 up to max_completion_len - soft_punish_cache tokens, linear from there, -1 at max_completion_len and
    beyond. It works only if generation stops at max_completion_len: open-r1's default of 16,384 was tied to
    nothing, and its demo, which stops at 2,048, always got 0. `grpo.yaml` therefore uses
    max_completion_length unless you set another value. The function name is open-r1's.

    The function returned takes `completion_ids`, gives B values in [-1, 0], never None, and raises ValueError
    without ids, since a length in characters cannot be compared with the limit.

    Raises:
        ValueError: max_completion_len below 2, or soft_punish_cache not between 1 and max_completion_len - 1
            (with 0 nothing is ever punished, since no completion is longer than the limit).
    """
    limit = whole_number("max_completion_len", max_completion_len, least=2)
    cache = whole_number("soft_punish_cache", soft_punish_cache, least=1, most=limit - 1)
    reward = partial(_overlong, limit, cache)
    reward.__name__ = "soft_overlong_punishment_reward"  # TRL names the metric after it; open-r1's name
    return reward


def _overlong(
    limit: int,
    cache: int,
    /,
    completions: list | None = None,
    completion_ids: Sequence[Sequence[int]] | None = None,
    **columns,
) -> list[float]:
    if completion_ids is None:
        raise ValueError(
            "soft_overlong_punishment needs completion_ids: one list of token ids for a completion"
        )
    return [-min(1.0, max(0, len(ids) - (limit - cache)) / cache) or 0.0 for ids in completion_ids]
