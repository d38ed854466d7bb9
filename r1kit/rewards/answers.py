r"""What a completion answers: the text after the reasoning, and the boxes in it."""

from __future__ import annotations

import re

from r1kit.data.format import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE
from r1kit.rewards.equivalence import read
from r1kit.rewards.equivalence.text import LONGEST_ANSWER

_ANSWER_BLOCK = re.compile(rf"{ANSWER_OPEN}(.*?){ANSWER_CLOSE}", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MOST_BLOCKS = 8  # thousands of unclosed blocks would make the pattern's search quadratic
_MOST_BOXES = 16


def answer_after_reasoning(text: str) -> str | None:
    r"""The one answer given after the reasoning closes; None if there is none, or several that differ.

    Everything after `</think>` that claims to be the answer counts: each `<answer>` block (the `\boxed{}` in
    it if there is one, else its text) and each box outside them. If they are not all the same value, there is
    no answer. A bare number needs the `<answer>` block.
    """
    _, closed, rest = text.partition(THINK_CLOSE)
    opened = rest.count(ANSWER_OPEN)
    if not closed or THINK_CLOSE in rest or opened > _MOST_BLOCKS:
        return None
    blocks = _ANSWER_BLOCK.findall(rest)
    if blocks and opened != len(blocks):
        return None
    answers = boxed(_ANSWER_BLOCK.sub(" ", rest))
    for block in blocks:
        answers += boxed(block) or [block]
    if not answers or len(answers) > _MOST_BOXES:
        return None
    first = answers[0].strip()
    if any(answer.strip() != first and not _alike(answer, first) for answer in answers):
        return None
    return first


def boxed(text: str) -> list[str]:
    r"""Contents of every complete `\boxed{...}` (or `\fbox{...}`) in text, braces balanced, in order."""
    found, start = [], _BOX.search(text)
    while start:
        depth, at = 1, start.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        if depth:
            break
        found.append(text[start.end() : at - 1])
        start = _BOX.search(text, at)
    return found


def _alike(one: str, other: str) -> bool:
    return max(len(one), len(other)) <= LONGEST_ANSWER and read(one) == read(other)
