"""What verifiers say of answers: each reward that applies to a row, and what follows from all of them.

The rewards themselves are passed in; they live on a floor above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Verdicts = dict[str, float | None]
Judge = Callable[[list[str], list[Mapping[str, Any]]], list[Verdicts]]
"""Completions and their rows -> for each the rewards that apply; 1.0 and more is right, None not judged."""

WRONG, UNJUDGED, UNCHECKED = "wrong", "not judged", "nothing to check against"


def reason_of(verdicts: Verdicts) -> str:
    """Why an answer is not verified; "" where at least one reward applies and all that do are 1 or more."""
    if not verdicts:
        return UNCHECKED
    if any(value is not None and value < 1 for value in verdicts.values()):
        return WRONG
    return UNJUDGED if None in verdicts.values() else ""


def reward_judge(functions: Mapping[str, Any]) -> Judge:
    """A judge that asks rewards by name, each about the rows it applies to (`applies(rows, columns)`)."""

    def judge(completions: list[str], rows: list[Mapping[str, Any]]) -> list[Verdicts]:
        # Prepared sets have one type a column, so a gold that is not there is an empty text.
        columns = {name: [None if row[name] == "" else row[name] for row in rows] for name in _names(rows)}
        said = [[{"role": "assistant", "content": completion}] for completion in completions]
        found: list[Verdicts] = [{} for _ in rows]
        for name, function in functions.items():
            own = [n for n, applies in enumerate(function.applies(len(rows), columns)) if applies]
            values = function(said, **columns) if own else []
            for n in own:
                found[n][name] = values[n]
        return found

    return judge


def _names(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    # `prompts` and `completions` are the rewards' own arguments; rows of one file have the same columns.
    return (name for name in rows[0] if name not in ("completions", "prompts"))
