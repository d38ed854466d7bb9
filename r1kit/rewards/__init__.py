"""Rewards: pure functions with TRL's signature `f(completions, **columns) -> list[float | None]`.

Each name is loaded when it is first used. None of them loads torch or math-verify at import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "NAMES": "registry",
    "Scores": "registry",
    "accuracy_reward": "accuracy",
    "binary_code_reward": "code",
    "code_reward": "code",
    "format_reward": "format",
    "get_code_format_reward": "code",
    "get_cosine_scaled_reward": "length",
    "get_language_consistency_reward": "format",
    "get_repetition_penalty_reward": "style",
    "get_rewards": "registry",
    "get_soft_overlong_punishment": "length",
    "len_reward": "length",
    "reasoning_steps_reward": "style",
    "score": "registry",
    "tag_count_reward": "format",
    "think_format_reward": "format",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
