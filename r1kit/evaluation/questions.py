"""What an evaluation asks: the embedded world's held-out problems, or a benchmark's, in one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    return [
        Question(row["problem"], str(row["solution"]), int(row["level"]), user_prompt(row["problem"]))
        for row in choose_problems(heldout, per_level)
    ]


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


def questions_of(settings: Any, heldout: Any = None, mirror: str | None = None) -> list[Question]:
    """The questions that evaluation.yaml asks for.

    Args:
        settings: evaluation.yaml, typed: with `benchmarks`, or with `problems_per_level`.
        heldout: for the embedded world: rows with `problem`, `solution`, `level`, or the folder where they
            are saved.
        mirror: a folder with copies of the benchmarks' datasets (data.yaml's `mirror`).

    Raises:
        BenchmarkError: a benchmark's dataset is not there or is not what is expected.
        ValueError: too few held-out problems.
    """
    if hasattr(settings, "benchmarks"):
        from r1kit.evaluation.benchmarks import benchmark_questions

        return [
            question
            for name, samples in settings.benchmarks.items()
            for question in benchmark_questions(
                name, samples=samples, most=settings.most, mirror=mirror, window=settings.lcb_window
            )
        ]
    if isinstance(heldout, Iterable) and not isinstance(heldout, (str, bytes)):
        rows = heldout
    else:
        from r1kit.data import datasets

        rows = datasets.load(heldout)
    questions = story_questions(rows, settings.problems_per_level)
    return [replace(question, samples=settings.samples) for question in questions]
