"""Rows for the tests of curation: problems, traces, and their bad twins."""

from __future__ import annotations

import json
import random

SUBJECTS = [
    "farmer",
    "baker",
    "sailor",
    "teacher",
    "painter",
    "doctor",
    "miller",
    "tailor",
    "weaver",
    "hunter",
]
VERBS = ["sells", "buys", "counts", "paints", "carries", "stacks", "plants", "grinds", "sorts", "weighs"]
THINGS = ["apples", "boxes", "ropes", "books", "walls", "stones", "trees", "sacks", "coins", "letters"]
PLACES = [
    "market",
    "harbour",
    "garden",
    "school",
    "tower",
    "bridge",
    "valley",
    "village",
    "station",
    "forest",
]


def problem(number: int) -> str:
    """A problem whose words and numbers follow from `number`; no two share 8 words in a row or are near."""
    rng = random.Random(number)
    name = "".join(chr(ord("a") + int(digit)) for digit in str(number)) + "son"
    said = [
        f"The {rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.randint(100, 999)} {rng.choice(THINGS)} "
        f"of {name} at the {rng.choice(PLACES)} before {name} the {rng.choice(SUBJECTS)} arrives with {name}."
        for _ in range(4)
    ]
    return " ".join(said) + f" What remains of the {rng.choice(THINGS)}?"


def trace(number: int) -> str:
    """A completion with some reasoning in English that does not repeat itself."""
    rng = random.Random(-number - 1)
    steps = [
        f"Let me look at the {rng.choice(THINGS)} of the {rng.choice(SUBJECTS)}: {rng.randint(10, 99)} plus "
        f"{rng.randint(10, 99)} after the {rng.choice(PLACES)}."
        for _ in range(5)
    ]
    return "<think>\n" + "\n".join(steps) + f"\n</think>\n<answer>\n\\boxed{{{number}}}\n</answer>"


def row(number: int, **columns: object) -> dict:
    """A verified trace row."""
    asked = columns.pop("problem", problem(number))
    said = columns.pop("trace", trace(number))
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    base = {"problem": asked, "messages": messages, "solution": str(number)}
    return {**base, "verified": True, "pass_rate": 0.5, **columns}


def write_jsonl(path, rows):
    """The rows as a JSONL file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
