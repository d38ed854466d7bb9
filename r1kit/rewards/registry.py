"""Rewards by name, as `grpo.yaml` lists them: `rewards: [{name: accuracy, weight: 1.0}, ...]`.

`get_rewards` makes the functions that TRL calls, `score` gives their weighted sum with its parts. A reward
has the same name in the settings, in `metrics.jsonl` (`rewards/<name>_reward/mean`), in the rollout files
(`reward_<name>`) and in the lessons. It is open-r1's name where open-r1 has the reward.

None means "could not be judged": the gold is unreadable, or the sandbox failed. The trainer must not rank
such a row within its group. TRL (1.16) leaves a row out only if *every* reward is None; otherwise `nansum`
counts None as 0, which punishes a completion for a failure of the sandbox. So here one None makes the whole
row None. The exception is a reward that does not apply to the row (no `verification_info` in a row of
mathematics): it changes nothing, but a row to which no verifying reward applies earns nothing for its form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from r1kit.rewards.accuracy import accuracy_reward
from r1kit.rewards.code import binary_code_reward, code_reward, get_code_format_reward
from r1kit.rewards.format import (
    format_reward,
    get_language_consistency_reward,
    tag_count_reward,
    think_format_reward,
)
from r1kit.rewards.length import get_cosine_scaled_reward, get_soft_overlong_punishment, len_reward
from r1kit.rewards.style import (
    get_repetition_penalty_reward,
    naive_accuracy_reward,
    naive_code_reward,
    naive_steps_reward,
    reasoning_steps_reward,
)
from r1kit.settings.errors import nearest_name
from r1kit.settings.rewards import REWARDS, Reward

Function = Callable[..., list[float | None]]

PLAIN: dict[str, Function] = {
    "accuracy": accuracy_reward,
    "format": format_reward,
    "tag_count": tag_count_reward,
    "think_format": think_format_reward,
    "reasoning_steps": reasoning_steps_reward,
    "length": len_reward,
    "naive_accuracy": naive_accuracy_reward,
    "naive_steps": naive_steps_reward,
    "naive_code": naive_code_reward,
}
MADE: dict[str, Callable[..., Function]] = {
    "cosine": get_cosine_scaled_reward,
    "repetition_penalty": get_repetition_penalty_reward,
    "soft_overlong_punishment": get_soft_overlong_punishment,
    "language_consistency": get_language_consistency_reward,
    "code_format": get_code_format_reward,
}
"""Factories: each makes the reward from its parameters."""

TAKES: dict[str, Function] = {"code": code_reward, "binary_code": binary_code_reward}
"""Rewards that take their parameters with every call, as open-r1's do."""

NEEDS = {
    "accuracy": ("solution",),
    "length": ("solution",),
    "cosine": ("solution",),
    "code": ("verification_info",),
    "binary_code": ("verification_info",),
    "naive_accuracy": ("solution",),
    "naive_code": ("solution",),
}
"""Dataset columns that a reward compares with; it does not apply to rows without them."""

LIMITS = {"cosine": "max_len", "soft_overlong_punishment": "max_completion_len"}
"""Parameters that default to `max_completion_length`."""

NAMES = tuple(REWARDS)


@dataclass(frozen=True)
class RewardFunction:
    """A reward under its name, as TRL calls it. It judges only the rows to which it applies."""

    name: str
    function: Function
    needs: tuple[str, ...] = ()

    @property
    def __name__(self) -> str:
        """The name from which TRL makes the metric's."""
        return f"{self.name}_reward"

    def applies(self, rows: int, columns: Mapping[str, Any]) -> list[bool]:
        """Tell for each of the rows whether it has the values that this reward compares with.

        Raises:
            ValueError: the dataset has no such column at all.
        """
        for need in self.needs:
            if need not in columns:
                have = ", ".join(sorted(columns)) or "none"
                raise ValueError(f"the reward {self.name} needs the column {need!r}; there are: {have}")
        return [all(columns[need][row] is not None for need in self.needs) for row in range(rows)]

    def __call__(self, completions: list, **columns: Any) -> list[float | None]:
        """Return B rewards; None where this reward does not apply or cannot judge the row."""
        applies = self.applies(len(completions), columns)
        rows = [row for row, applied in enumerate(applies) if applied]
        if len(rows) < len(completions):
            columns = {
                name: [values[row] for row in rows]
                if isinstance(values, list) and len(values) == len(completions)
                else values
                for name, values in columns.items()
            }
        earned = self.function([completions[row] for row in rows], **columns) if rows else []
        rewards: list[float | None] = [None] * len(completions)
        for row, reward in zip(rows, earned, strict=True):
            rewards[row] = reward
        return rewards


def get_rewards(
    specifications: Iterable[Mapping[str, Any] | Reward],
    max_completion_length: int | None = None,
    reasoning_begun: bool = False,
) -> tuple[list[RewardFunction], list[float]]:
    """Make the reward functions of a run, with their weights, in the order given.

    Args:
        specifications: entries of `rewards` in grpo.yaml, as mappings or settings models.
        max_completion_length: the limit of generation in tokens, for rewards that shape lengths.
        reasoning_begun: the chat template opens `<think>` itself, so completions begin inside the reasoning.

    Returns:
        F functions `f(completions, **columns) -> list[float | None]` and F weights.

    Raises:
        ValueError: an unknown name (the message gives the nearest known one), a name that occurs twice, an
            unknown or mistyped parameter, or a reward that needs max_completion_length, which is missing.
    """
    functions: list[RewardFunction] = []
    weights: list[float] = []
    for specification in specifications:
        reward = _typed(specification)
        if reward.name in [function.name for function in functions]:
            raise ValueError(f"reward {reward.name!r} is listed twice: give it one entry and one weight")
        if reasoning_begun and "require_reasoning" in type(reward).model_fields:
            reward = reward.model_copy(update={"require_reasoning": True})
        function = _function(reward, max_completion_length)
        functions.append(RewardFunction(reward.name, function, NEEDS.get(reward.name, ())))
        weights.append(float(reward.weight))
    return functions, weights


def _typed(specification: Mapping[str, Any] | Reward) -> Any:
    if isinstance(specification, Reward):
        return specification
    name = specification.get("name")
    if name not in REWARDS:
        near = nearest_name(str(name), NAMES)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown reward {name!r}: known are {', '.join(NAMES)}{hint}")
    return REWARDS[name].model_validate(dict(specification))


def _function(reward: Any, max_completion_length: int | None) -> Function:
    parameters = reward.model_dump(exclude={"name", "weight"})
    limit = LIMITS.get(reward.name)
    if limit and parameters[limit] is None:
        if max_completion_length is None:
            raise ValueError(f"reward {reward.name!r} needs {limit}, or max_completion_length")
        parameters[limit] = max_completion_length
    if reward.name in MADE:
        return MADE[reward.name](**parameters)
    if reward.name in TAKES:
        return partial(TAKES[reward.name], **parameters)
    return PLAIN[reward.name]


@dataclass(frozen=True)
class Scores:
    """Rewards of B completions.

    totals: B weighted sums; None where the row could not be judged.
    parts: B unweighted values per reward, by name.
    """

    totals: list[float | None]
    parts: dict[str, list[float | None]]


def score(
    functions: Sequence[RewardFunction], weights: Sequence[float], completions: list, **columns: Any
) -> Scores:
    """Score B completions with several rewards: the weighted sum per row, and its parts.

    Args:
        functions: F reward functions, from `get_rewards`.
        weights: F weights.
        completions: TRL's completions, B strings or B conversations.
        columns: the dataset's columns (B values each), `prompts` and `completion_ids` as TRL passes them.

    Raises:
        ValueError: a reward needs a column that is missing.
    """
    parts = {function.name: function(completions, **columns) for function in functions}
    applies = [function.applies(len(completions), columns) for function in functions]
    verifies = [bool(function.needs) for function in functions]
    totals: list[float | None] = []
    for row in range(len(completions)):
        earned = [part[row] for part in parts.values()]
        judged = is_judged(earned, [applied[row] for applied in applies], verifies)
        pairs = zip(earned, weights, strict=True)
        totals.append(sum(part * weight for part, weight in pairs if part is not None) if judged else None)
    return Scores(totals, parts)


def is_judged(earned: Sequence[float | None], applies: Sequence[bool], verifies: Sequence[bool]) -> bool:
    """Decide whether a row may be trained on.

    Args:
        earned: F values, one per reward.
        applies: F flags: the reward applies to this row.
        verifies: F flags: the reward compares with a column of the dataset.
    """
    unjudged = any(applied and part is None for part, applied in zip(earned, applies, strict=True))
    verified = any(applied and checks for applied, checks in zip(applies, verifies, strict=True))
    return not unjudged and (verified or not any(verifies))
