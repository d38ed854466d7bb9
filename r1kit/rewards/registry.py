"""Rewards by name, as `grpo.yaml` writes them: `rewards: [{name: accuracy, weight: 1.0}, ...]`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from r1kit.rewards.accuracy import accuracy_reward
from r1kit.rewards.format import format_reward, tag_count_reward

# The function's __name__ is what TRL calls its metric: rewards/<__name__>/mean.
REWARDS: dict[str, Callable] = {
    "accuracy": accuracy_reward,
    "format": format_reward,
    "tag_count": tag_count_reward,
}
NAMES = tuple(REWARDS)


def get_rewards(specifications: Iterable) -> tuple[list[Callable], list[float]]:
    """Reward functions and their weights, in the order given.

    Args:
        specifications: mappings or objects with `name` and `weight` (1.0 if left out).

    Raises:
        ValueError: an unknown name (the nearest known one is named), or one that occurs twice.
    """
    functions, weights = [], []
    for specification in specifications:
        read = specification.get if isinstance(specification, Mapping) else specification.__getattribute__
        name = read("name")
        if name not in REWARDS:
            near = difflib.get_close_matches(str(name), NAMES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown reward {name!r}: known are {', '.join(NAMES)}{hint}")
        if REWARDS[name] in functions:
            raise ValueError(f"reward {name!r} is listed twice: give it one entry and one weight")
        functions.append(REWARDS[name])
        weight = read("weight", 1.0) if isinstance(specification, Mapping) else read("weight")
        weights.append(float(weight))
    return functions, weights
