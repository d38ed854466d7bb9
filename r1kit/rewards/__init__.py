"""Rewards: pure functions with TRL's signature `f(completions, **columns) -> list[float | None]`.

Importing this room loads neither torch nor math-verify.
"""

from __future__ import annotations

from r1kit.rewards.accuracy import accuracy_reward
from r1kit.rewards.format import format_reward, tag_count_reward
from r1kit.rewards.registry import NAMES, get_rewards

__all__ = ["NAMES", "accuracy_reward", "format_reward", "get_rewards", "tag_count_reward"]
