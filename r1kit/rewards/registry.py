"""Rewards by name, as `grpo.yaml` writes them: `rewards: [{name: accuracy, weight: 1.0}, ...]`.

The name in the settings, in `metrics.jsonl` (`rewards/<name>_reward/mean`), in the rollout files
(`reward_<name>`) and in the lessons is the same. It is open-r1's where open-r1 has the reward.

The weighted sum of several rewards, with its parts, and the rows that must not be trained on.

None means "could not be judged": the gold is unreadable, or the sandbox had trouble. Such a row must not be
ranked among its group. TRL (1.16) leaves a row out only if *every* reward is None; where one is a number,
`nansum` counts the others as 0, and a completion whose code could not be run would be punished for it. So
here one None makes the whole row None. A reward that is not about a row at all (no `verification_info` in a
row of mathematics) says nothing either way, but a row that no verifying reward is about earns nothing for its
form.
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
"""Functions that make the reward from its parameters."""

TAKES: dict[str, Function] = {"code": code_reward, "binary_code": binary_code_reward}
"""Rewards that take their parameters at every call, as open-r1's do."""

NEEDS = {
    "accuracy": ("solution",),
    "length": ("solution",),
    "cosine": ("solution",),
    "code": ("verification_info",),
    "binary_code": ("verification_info",),
    "naive_accuracy": ("solution",),
    "naive_code": ("solution",),
}
"""Dataset columns that a reward compares with: rows that lack them are not its task."""

LIMITS = {"cosine": "max_len", "soft_overlong_punishment": "max_completion_len"}
"""Parameters that are `max_completion_length` where the settings leave them empty."""

NAMES = tuple(REWARDS)


@dataclass(frozen=True)
class RewardFunction:
    """A reward as TRL calls it, under its name, asked only about the rows that are its task."""

    name: str
    function: Function
    needs: tuple[str, ...] = ()

    @property
    def __name__(self) -> str:
        """What TRL calls its metric."""
        return f"{self.name}_reward"

    def applies(self, rows: int, columns: Mapping[str, Any]) -> list[bool]:
        """For each row whether it has what this reward compares with.

        Raises:
            ValueError: the dataset has no such column at all.
        """
        for need in self.needs:
            if need not in columns:
                have = ", ".join(sorted(columns)) or "none"
                raise ValueError(f"the reward {self.name} needs the column {need!r}; there are: {have}")
        return [all(columns[need][row] is not None for need in self.needs) for row in range(rows)]

    def __call__(self, completions: list, **columns: Any) -> list[float | None]:
        """Rewards of B completions; None for a row that is not this reward's task or cannot be judged."""
        applies = self.applies(len(completions), columns)
        rows = [row for row, own in enumerate(applies) if own]
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
    """Reward functions and their weights, in the order given.

    Args:
        specifications: entries of `rewards` in grpo.yaml, as mappings or typed.
        max_completion_length: the limit of generation in tokens, for rewards that shape lengths.
        reasoning_begun: the chat template itself opens `<think>`, so that completions begin within it.

    Raises:
        ValueError: an unknown name (the nearest known one is named), one that occurs twice, a parameter that
            its reward doesn't have or that has the wrong type, or a limit that is neither given nor known.
    """
    functions: list[RewardFunction] = []
    weights: list[float] = []
    for specification in specifications:
        reward = typed(specification)
        if reward.name in [function.name for function in functions]:
            raise ValueError(f"reward {reward.name!r} is listed twice: give it one entry and one weight")
        if reasoning_begun and "require_reasoning" in type(reward).model_fields:
            reward = reward.model_copy(update={"require_reasoning": True})
        function = _function(reward, max_completion_length)
        functions.append(RewardFunction(reward.name, function, NEEDS.get(reward.name, ())))
        weights.append(float(reward.weight))
    return functions, weights


def typed(specification: Mapping[str, Any] | Reward) -> Any:
    """The specification as its settings model, defaults filled in; ValueError for what that refuses."""
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
