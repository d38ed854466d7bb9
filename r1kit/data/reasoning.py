"""Answers of other models in the one form of a completion (`data.format`): `<think>`, reasoning, `</think>`,
then what is said to the reader.

Where the reasoning arrives differs from server to server: in a field of its own (`reasoning_content`,
`reasoning`), between tags, or before a closing tag whose opening one the chat template wrote. What cannot be
brought into the form is not guessed at: the answer is kept with the reason.
"""

from __future__ import annotations

from r1kit.data.chat_answer import Answer
from r1kit.data.format import THINK_CLOSE, THINK_OPEN


class NoTrace(ValueError):
    """An answer from which nobody can learn to reason; the message is the reason, in a word or two."""


def completion_of(answer: Answer) -> str:
    """The answer as a completion.

    Raises:
        NoTrace: it was cut off (`truncated`) or stopped by a filter, it is `empty`, it has `no reasoning` or
            `no answer` after it, or its tags are `malformed`.
    """
    if answer.finish_reason == "length":
        raise NoTrace("truncated")
    if answer.finish_reason not in ("stop", "eos", ""):
        raise NoTrace(f"finish: {answer.finish_reason}")
    content, reasoning = answer.content.strip(), answer.reasoning.strip()
    if not content and not reasoning:
        raise NoTrace("empty")
    if not reasoning:
        reasoning, content = _split(content)
    reasoning = reasoning.removeprefix(THINK_OPEN).removesuffix(THINK_CLOSE).strip()
    content = content.removeprefix(f"{THINK_OPEN}{THINK_CLOSE}").strip()
    if any(tag in part for tag in (THINK_OPEN, THINK_CLOSE) for part in (reasoning, content)):
        raise NoTrace("malformed")
    if not reasoning:
        raise NoTrace("no reasoning")
    if not content:
        raise NoTrace("no answer")
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}\n{content}"


def _split(content: str) -> tuple[str, str]:
    before, closed, after = content.partition(THINK_CLOSE)
    if closed:
        return before.strip(), after.strip()
    if THINK_OPEN in content:
        raise NoTrace("malformed")
    return "", content
