r"""The texts of a row (its problem and its trace), and how curation normalises and compares them.

Two texts are the same problem if they differ only in letter case, spaces, punctuation or LaTeX typography:
`\dfrac{1}{2}` and `\frac12` are the same fraction, `\left(` is a bracket, `$` and `\,` mean nothing.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Japanese and Chinese are written without spaces: each of their characters is a word.
CHARACTERS = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{CHARACTERS}]|[^\W\d_{CHARACTERS}]+|\d+")
_SAME = re.compile(r"\\(?:left|right|[bB]igg?|displaystyle|q?quad|limits)(?![a-zA-Z])|\\[,;:! ]|~")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_BARE_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")  # TeX takes one digit each
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_FORMULA = re.compile(r"\$\$.{1,2000}?\$\$|\$[^$\n]{1,400}\$|\\\(.{1,400}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL)
_PROGRAM = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_COMMAND = re.compile(r"\\[a-zA-Z]+\*?|https?://\S+|</?[a-zA-Z_]+>")


def problem_text(row: Mapping[str, Any]) -> str:
    """Return a row's question: its `problem`, else the last user turn of `prompt` or the first of `messages`.

    Raises:
        KeyError: the row has none of these columns.
    """
    if row.get("problem") is not None:
        return row["problem"]
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return prompt
    for turns, which in ((prompt, -1), (row.get("messages"), 0)):
        questions = [turn["content"] for turn in turns or () if turn["role"] == "user"]
        if questions:
            return questions[which]
    raise KeyError("a row needs a column problem, prompt or messages; it has " + ", ".join(sorted(row)))


def trace_text(row: Mapping[str, Any]) -> str:
    """Return a row's answer: the last turn of `messages` if it is the assistant's; "" for a prompt."""
    turns = row.get("messages") or ()
    return (turns[-1]["content"] or "") if turns and turns[-1]["role"] == "assistant" else ""


def row_text(row: Mapping[str, Any], text: str) -> str:
    """Return the row's `problem` or its `trace`, by this name."""
    return problem_text(row) if text == "problem" else trace_text(row)


@functools.lru_cache(maxsize=16)  # every step that looks at a row asks for the same few texts
def words(text: str) -> tuple[str, ...]:
    """Return the normalised words of a text: case-folded, compatible characters made equal (NFKC).

    A number is one word, and so is each Chinese or Japanese character.
    """
    text = _BARE_FRACTION.sub(r" frac \1 \2 ", _FRACTION.sub(r"\\frac", _SAME.sub(" ", text)))
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def ngrams(sequence: Sequence[str], n: int) -> Iterator[str]:
    """Yield every run of `n` words as one text, in order; nothing if there are fewer than `n`."""
    return map(" ".join, zip(*(sequence[first:] for first in range(n)), strict=False))


def numbers(text: str) -> list[str]:
    """Return the numbers of a text in order, as they are written."""
    return _NUMBER.findall(unicodedata.normalize("NFKC", text))


def prose(text: str) -> str:
    """Remove formulas, programs, commands, tags and addresses, which belong to no language."""
    return _COMMAND.sub(" ", _FORMULA.sub(" ", _PROGRAM.sub(" ", text)))
