"""What an evaluation asks: the embedded world's held-out problems, or a benchmark's, in one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from r1kit.data.format import user_prompt

Judge = Literal["reward", "answer", "letter", "code"]


@dataclass(frozen=True)
class Question:
    """One problem as it is asked and judged.

    problem: the problem's own text, by which rows of several evaluations are matched.
    solution: the gold answer; for a program the JSON of its test cases.
    level: a story's level, or the benchmark's name: scores are means over the problems of a level.
    prompt: the conversation that asks.
    judge: how an answer is judged (`judges.py`).
    samples: answers wanted; 0 means as many as the settings say.
    """

    problem: str
    solution: str
    level: int | str
    prompt: list[dict[str, str]] = field(hash=False)
    judge: Judge = "reward"
    samples: int = 0


def story_questions(heldout: Iterable[Mapping[str, Any]], per_level: int) -> list[Question]:
    """The first `per_level` held-out problems of each level.

    Raises:
        ValueError: a level has fewer.
    """
    return [story_question(row) for row in choose_problems(heldout, per_level)]


def story_question(row: Mapping[str, Any]) -> Question:
    """A held-out problem as a question."""
    return Question(row["problem"], str(row["solution"]), int(row["level"]), user_prompt(row["problem"]))


def choose_problems(heldout: Iterable[Mapping[str, Any]], per_level: int) -> list[Mapping[str, Any]]:
    """The first `per_level` problems of each level, so that every checkpoint is asked the same ones."""
    by_level: dict[int, list] = {}
    for row in heldout:
        by_level.setdefault(row["level"], []).append(row)
    for level, rows in by_level.items():
        if len(rows) < per_level:
            raise ValueError(
                f"level {level} has {len(rows)} held-out problems, problems_per_level is {per_level}"
            )
    return [row for level in sorted(by_level) for row in by_level[level][:per_level]]
