"""Groups: the completions of one prompt, which GRPO compares with each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch

EQUAL = 1e-6
"""Rewards of a group that differ by less are the same: 16 x (1.0 + 0.2) varies by 1e-7 in float32."""


@dataclass
class Group:
    """The completions of one prompt and what they earned.

    Attributes:
        prompt: its index in the dataset.
        rows: of each completion, prompt ids, completion ids, text and log-probabilities as TRL has them.
        parts: rewards [group size, functions], NaN where a function could not judge.
        rewards: weighted sums of those that were judged.
    """

    prompt: int
    rows: list[tuple]
    parts: torch.Tensor
    rewards: torch.Tensor

    @property
    def useful(self) -> bool:
        """Whether its completions earned differently, so that it gives a gradient."""
        return len(self.rewards) > 1 and (self.rewards.max() - self.rewards.min()).item() > EQUAL

    @property
    def tokens(self) -> int:
        """Tokens of all its completions."""
        return sum(len(row[1]) for row in self.rows)

    @property
    def all_tokens(self) -> int:
        """Tokens of all its completions, each with its prompt."""
        return sum(len(row[0]) + len(row[1]) for row in self.rows)


def completion_metrics(completions: list[list[int]], stops: list[int]) -> dict[str, float]:
    """TRL's `completions/...` metrics of completions [N][tokens]; those that end in no stop token are cut."""
    lengths = [len(ids) for ids in completions]
    ended = [len(ids) for ids in completions if ids[-1] in stops]
    found = {"completions/clipped_ratio": 1 - len(ended) / len(lengths)}
    for name, values in (("", lengths), ("terminated_", ended or [0])):
        found[f"completions/mean_{name}length"] = sum(values) / len(values)
        found[f"completions/min_{name}length"] = float(min(values))
        found[f"completions/max_{name}length"] = float(max(values))
    return found
