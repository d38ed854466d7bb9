"""What an OpenAI-compatible endpoint says: an answer, whole or as server-sent events, or a failure.

Two kinds of failure concern one request: `Transient` (ask again: 429, 5xx, a cut or garbled answer, silence,
nobody there) and `Refused` (asking again gets the same: 400, a prompt too long). A third, `NotAllowed`, ends
everything: a wrong key or an unknown model fails for every prompt.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

SHOWN = 300  # characters of an error's text


class EndpointFailure(RuntimeError):
    """A request that brought no answer; `reason` is one word for counting."""

    def __init__(self, reason: str, detail: str, retry_after: float | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.retry_after = reason, detail[:SHOWN], retry_after


class Transient(EndpointFailure):
    """The same request may succeed later, after `retry_after` seconds if the server said so."""


class Refused(EndpointFailure):
    """The server will not answer this request."""


class NotAllowed(EndpointFailure):
    """The server will answer no request of ours: key, model or address are wrong."""


@dataclass(frozen=True)
class Answer:
    """What came back, as it came: the tags of `content` are untouched."""

    content: str
    reasoning: str
    """From a `reasoning_content` or `reasoning` field; "" where the server has none."""
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


def whole(body: bytes) -> Answer:
    """The answer of a request without streaming. Raises Transient for what is none."""
    try:
        found = json.loads(body)
        choice = found["choices"][0]
        message = choice["message"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Transient("garbled", f"no chat completion: {body[:SHOWN]!r}") from error
    return _answer(_text(message, "content"), _reasoning(message), choice, found.get("usage"))


async def joined(lines: AsyncIterator[str]) -> Answer:
    """The answer that server-sent events spell. Raises Transient where they are garbled or end too early."""
    content: list[str] = []
    reasoning: list[str] = []
    last: dict[str, Any] = {}
    usage: dict[str, Any] | None = None
    async for line in lines:
        kind, _, data = line.partition(":")
        if kind != "data" or data.strip() == "[DONE]":  # comments keep the line alive
            continue
        try:
            event = json.loads(data)
            if "error" in event:
                raise Transient("server_error", said(data))
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                delta = choice.get("delta") or {}
                content.append(_text(delta, "content"))
                reasoning.append(_reasoning(delta))
                last = choice if choice.get("finish_reason") else last
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Transient("garbled", f"no event of a stream: {data[:SHOWN]!r}") from error
    if not last:
        raise Transient("cut", f"the stream ended after {sum(map(len, content + reasoning))} characters")
    return _answer("".join(content), "".join(reasoning), last, usage)


def _answer(content: str, reasoning: str, choice: dict[str, Any], usage: Any) -> Answer:
    counts = usage if isinstance(usage, dict) else {}
    finish = str(choice.get("finish_reason") or "")
    return Answer(content, reasoning, finish, counts.get("prompt_tokens"), counts.get("completion_tokens"))


def _text(message: dict[str, Any], *names: str) -> str:
    return next((message[name] for name in names if isinstance(message.get(name), str)), "")


def _reasoning(message: dict[str, Any]) -> str:
    # DeepSeek and older vLLM say `reasoning_content`, OpenRouter and newer vLLM `reasoning`.
    return _text(message, "reasoning_content", "reasoning")


def said(text: str) -> str:
    """The message of an error's body, or its beginning."""
    try:
        error = json.loads(text).get("error", text)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:SHOWN]
    except (ValueError, AttributeError):
        return " ".join(text.split())[:SHOWN]
