"""Rewards: pure functions with TRL's signature `f(completions, **columns) -> list[float | None]`.

Importing this room loads neither torch nor math-verify.
"""

from __future__ import annotations

from r1kit.rewards.accuracy import accuracy_reward
from r1kit.rewards.code import binary_code_reward, code_reward, get_code_format_reward
from r1kit.rewards.format import (
    format_reward,
    get_language_consistency_reward,
    tag_count_reward,
    think_format_reward,
)
from r1kit.rewards.length import get_cosine_scaled_reward, get_soft_overlong_punishment, len_reward
from r1kit.rewards.registry import NAMES, Scores, get_rewards, score
from r1kit.rewards.style import get_repetition_penalty_reward, reasoning_steps_reward

__all__ = [
    "NAMES",
    "Scores",
    "accuracy_reward",
    "binary_code_reward",
    "code_reward",
    "format_reward",
    "get_code_format_reward",
    "get_cosine_scaled_reward",
    "get_language_consistency_reward",
    "get_repetition_penalty_reward",
    "get_rewards",
    "get_soft_overlong_punishment",
    "len_reward",
    "reasoning_steps_reward",
    "score",
    "tag_count_reward",
    "think_format_reward",
]
