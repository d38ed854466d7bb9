"""Completions that could not be judged: kept out of the gradient, and when there are too many, the end.

The rule of `r1kit.rewards.total` for a whole batch, and a callback that stops a training whose rewards have
failed. A broken sandbox or a dataset with unreadable solutions would otherwise train on what little is left.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

MOST = 0.02
"""Share of completions that may be left unjudged."""

GROUPS = 50
"""Over so many groups at least the share is taken: one unreadable solution makes a whole group unjudged."""


class TooManyUnjudged(RuntimeError):
    """More completions than `MOST` could not be judged."""


def leave_out_unjudged(
    parts: torch.Tensor, applies: torch.Tensor, verifies: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(parts with every row NaN that must not be trained on, judged [N]); see `rewards.total.is_judged`.

    Args:
        parts: rewards [N, F], NaN where a function gave None.
        applies: bool [N, F], whether the row is that reward's task.
        verifies: bool [F], whether the reward compares with something in the dataset.
    """
    silent = (parts.isnan() & applies).any(dim=1)
    verified = (applies & verifies).any(dim=1) | ~verifies.any()
    judged = verified & ~silent
    return torch.where(judged[:, None], parts, torch.nan), judged


class UnjudgedWatch(TrainerCallback):
    """Counts unjudged completions, and stops with a checkpoint when their share passes `MOST`."""

    def __init__(self, group_size: int):
        self.group_size = group_size
        self.recent: deque[tuple[int, int]] = deque()  # (unjudged, completions) of each generation
        self.example = ""

    def add(self, unjudged: int, completions: int, example: str = "") -> None:
        """What one generation came to, over all processes; `example` describes an unjudged row."""
        self.recent.append((unjudged, completions))
        while len(self.recent) > 1 and sum(n for _, n in self.recent) - self.recent[0][1] >= self.rows:
            self.recent.popleft()
        self.example = example or self.example

    @property
    def rows(self) -> int:
        """Completions over which the share is taken: `GROUPS` groups, or one generation if that is more."""
        return max(GROUPS * self.group_size, self.recent[-1][1] if self.recent else 0)

    @property
    def message(self) -> str:
        """Why the training must stop; empty while it need not."""
        unjudged = sum(count for count, _ in self.recent)
        if unjudged <= MOST * self.rows:
            return ""
        seen = sum(count for _, count in self.recent)
        return (
            f"{unjudged} of the last {seen} completions could not be judged, more than {MOST:.0%} of "
            f"{self.rows}. The first: {self.example or 'on another process'}. Rewards of None come from "
            "solutions or test cases that cannot be read, or from a sandbox that fails: see train.log."
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Save and leave the loop; unjudged rows had no advantage, so the step itself did no harm."""
        if self.message:
            control.should_save = control.should_log = control.should_training_stop = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say so, before a final model is written."""
        if self.message:
            raise TooManyUnjudged(self.message)
