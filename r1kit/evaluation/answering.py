"""What answering questions is; `InProcess` (a model here) and `Served` (OpenAI-compatible servers) do it.

Both keep what they wrote in `answers.jsonl`, a line an answer, synced to disk before the next is asked. After
a kill the same call goes on with what is missing and ends with the same answers. Answers to other questions,
settings or weights have another identity and are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from r1kit.evaluation.questions import Question
from r1kit.settings.generation import SamplingSettings

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """One answer: its text, its tokens (None where a server does not count), whether it ended by itself."""

    text: str
    tokens: int | None
    finished: bool


@dataclass(frozen=True)
class Answers:
    """Answers of P questions, [P][samples], and how long those took that were not on disk before."""

    written: list[list[Written]]
    seconds: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Of what was generated now; 0.0 if nothing was."""
        return self.tokens / self.seconds if self.seconds and self.tokens else 0.0


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int = 0

    def request(self, model: str) -> SamplingSettings:
        """The same for `data/generation.py`."""
        top_p = self.top_p if self.temperature else 1.0
        return SamplingSettings(
            model=model,
            temperature=self.temperature,
            top_p=top_p,
            max_tokens=self.max_new_tokens,
            seed=self.seed,
        )


class Answering(Protocol):
    """A model that can be asked."""

    def answer(
        self, questions: Sequence[Question], sampling: Sampling, folder: Path | None, progress: Progress
    ) -> Answers:
        """`question.samples` answers to each question; `folder` keeps them (None: nothing is kept)."""
