r"""The program of a completion: which of its fenced blocks a reader would run.

open-r1 (`utils/code_providers.py`, `extract_code`) takes the last "```python ... ```" anywhere in the text: a
block drafted in the reasoning counts, and "```py", an unlabelled block, CRLF line ends or a block cut off by
the completion limit count as no program at all. Here:

- Reasoning is not read: where `</think>` stands, the text after it counts; where reasoning was begun and
  never closed, reopened, or closed twice, nothing does. Inside `<answer>`, if there is one; two are none.
- Of the blocks with one of the language's labels **the last complete one wins**, else the last one if the
  text ends inside it, else the same among blocks without a label. Other languages' blocks never count.
- A fence follows CommonMark: three or more backticks on a line of their own, closed by at least as many, so a
  fence indented inside a docstring closes nothing. As models write it, an opening fence may follow text
  ("Solution: ```python"), a closing one may end a line of code, and a labelled fence begins a new block even
  if the one before was not closed.

One pass over the lines and no regular expression over the whole: linear time on megabytes of backticks.
"""

from __future__ import annotations

from dataclasses import dataclass

# The tags of r1kit/data/format.py, which lies on the same floor and cannot be imported.
THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = "<think>", "</think>", "<answer>", "</answer>"

LABELS = {
    "python": frozenset({"python", "py", "python3", "py3"}),
    "cpp": frozenset({"cpp", "c++", "cc", "cxx", "c++11", "c++14", "c++17", "c++20", "cpp17", "cpp20"}),
}
_LANGUAGE_OF = {label: language for language, labels in LABELS.items() for label in labels}
_FENCE = "```"


@dataclass(frozen=True)
class Block:
    """A fenced block: the label's language ("python", "cpp", another label as it stands, "" for none)."""

    language: str
    text: str
    closed: bool


def language_name(name: str) -> str:
    """Our name of a language ("python", "cpp") for any of its labels.

    Raises:
        ValueError: a language that cannot be run here.
    """
    label = str(name).strip().lower()
    if label not in _LANGUAGE_OF:
        from r1kit.settings.errors import nearest_name

        near = nearest_name(label, _LANGUAGE_OF)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown language {name!r}: programs are judged in {', '.join(LABELS)}{hint}")
    return _LANGUAGE_OF[label]


def program(text: str, language: str = "python", *, reasoning: bool = False) -> str | None:
    """The program that a completion answers with, or None.

    Args:
        text: the completion.
        language: "python" or "cpp", or another label of these.
        reasoning: the completion continues reasoning that the prompt began (a chat template that ends in
            `<think>`): then nothing counts until `</think>`.
    """
    language = language_name(language)
    answer = answer_part(text, reasoning=reasoning)
    if answer is None:
        return None
    found = blocks(answer)
    for label in (language, ""):
        candidates = [block for block in found if block.language == label and block.text.strip()]
        complete = [block for block in candidates if block.closed]
        if complete or candidates:
            return (complete or candidates)[-1].text
    return None


def answer_part(text: str, *, reasoning: bool = False) -> str | None:
    """What a completion says after its reasoning (inside `<answer>` if there is one); None if nothing."""
    before, closed, rest = text.partition(THINK_CLOSE)
    if not closed:
        if reasoning or THINK_OPEN in before:
            return None
        rest = before
    if THINK_OPEN in rest or THINK_CLOSE in rest or rest.count(ANSWER_OPEN) > 1:
        return None
    _, opened, answer = rest.partition(ANSWER_OPEN)
    return answer.partition(ANSWER_CLOSE)[0] if opened else rest


def blocks(text: str) -> list[Block]:
    """All fenced blocks of text in order; the last one is not closed if the text ends inside it."""
    found: list[Block] = []
    lines: list[str] | None = None  # of the open block
    language, size, indent = "", 0, 0
    for line in text.replace("\r\n", "\n").split("\n"):
        before, ticks, label = _fence(line)
        closes = lines is not None and ticks >= size and not label
        if closes and (before.strip() or len(before) <= indent + 3):
            if before.strip():
                lines.append(_dedent(before, indent))
            found.append(Block(language, "\n".join(lines) + "\n", closed=True))
            lines = None
        elif ticks and _opens(before, label, inside=lines is not None, size=size, ticks=ticks, indent=indent):
            if lines is not None:
                found.append(Block(language, "\n".join(lines) + "\n", closed=False))
            language, size, lines = _LANGUAGE_OF.get(label, label), ticks, []
            indent = len(before) if not before.strip() else 0
        elif lines is not None:
            lines.append(_dedent(line, indent))
    if lines is not None:
        found.append(Block(language, "\n".join(lines), closed=False))
    return found


def _fence(line: str) -> tuple[str, int, str]:
    """(text before, number of backticks, label) of the one fence of a line; no backticks if it has none."""
    at = line.find(_FENCE)
    if at == -1 or "`" in line[:at]:
        return line, 0, ""
    after = line[at:].lstrip("`")
    if "`" in after:
        return line, 0, ""
    words = after.split(maxsplit=1)
    return line[:at], len(line) - at - len(after), words[0].lower() if words else ""


def _opens(before: str, label: str, *, inside: bool, size: int, ticks: int, indent: int) -> bool:
    """Whether a line with a fence that closes nothing begins a block."""
    known = label in _LANGUAGE_OF
    if inside:
        return known and not before.strip() and ticks == size and len(before) <= indent + 3
    return known or not before.strip()


def _dedent(line: str, indent: int) -> str:
    """The line without the indentation of its fence (a block inside a list)."""
    return line[min(indent, len(line) - len(line.lstrip(" \t"))) :]
