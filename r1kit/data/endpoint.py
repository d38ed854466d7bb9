"""One chat completion of an OpenAI-compatible endpoint: vLLM's server, or a hosted one.

Two kinds of failure leave this module: `Transient` (ask again: 429, 5xx, a cut or garbled answer, silence,
nobody there) and `Refused` (asking again gets the same: 400, a prompt too long). A third, `NotAllowed`, ends
everything: a wrong key or an unknown model fails for every prompt.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from r1kit.settings.generation import GenerationSettings

if TYPE_CHECKING:
    import httpx

CONNECT = 10.0  # seconds; a machine that is there accepts within milliseconds
LONGEST_RETRY_AFTER = 3600.0  # seconds; a server that asks for more is not coming back today
SHOWN = 300  # characters of an error's text
LOOPBACK = ("localhost", "127.0.0.1", "::1")


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


class Endpoint:
    """Asks for completions; to be used as `async with`. The key lives in the client's headers alone."""

    def __init__(self, settings: GenerationSettings, key: str = ""):
        self.settings, self.key = settings, key
        self.url = settings.url.rstrip("/") + "/chat/completions"
        self.closed_until = 0.0
        self.client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Endpoint:
        import httpx

        patience = self.settings.patience
        timeout = httpx.Timeout(patience.silence, connect=CONNECT, pool=None)
        self.client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=timeout,
            limits=httpx.Limits(max_connections=patience.concurrency),
            verify=self.url.startswith("https"),  # http needs no certificates, which take 46 ms to read
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,  # a proxy must not see 127.0.0.1
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def ask(self, messages: list[dict[str, str]], seed: int | None = None) -> Answer:
        """One answer to a conversation.

        Raises:
            Transient, Refused, NotAllowed: see above.
        """
        import httpx

        # A rate limit holds for all requests: those that were not refused yet wait too.
        await asyncio.sleep(self.closed_until - time.monotonic())
        try:
            async with asyncio.timeout(self.settings.patience.timeout):
                return await self._ask(self._body(messages, seed))
        except Transient as error:
            if error.retry_after:
                self.closed_until = max(self.closed_until, time.monotonic() + error.retry_after)
            raise
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise Transient("timeout", f"no answer in time ({type(error).__name__})") from error
        except httpx.ConnectError as error:
            raise Transient("unreachable", str(error)) from error
        except httpx.ConnectTimeout as error:
            raise Transient("unreachable", "no connection in time") from error
        except httpx.RequestError as error:
            raise Transient("cut", f"{type(error).__name__}: {error}") from error

    def _body(self, messages: list[dict[str, str]], seed: int | None) -> dict[str, Any]:
        sampling, stream = self.settings.sampling, self.settings.patience.stream
        body: dict[str, Any] = {"model": sampling.model, "messages": messages}
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "stream": stream}
        body |= {"max_tokens": sampling.max_tokens} if sampling.max_tokens else {}
        body |= {"seed": seed} if seed is not None else {}
        body |= {"stream_options": {"include_usage": True}} if stream else {}
        return body | sampling.extra

    async def _ask(self, body: dict[str, Any]) -> Answer:
        async with self.client.stream("POST", self.url, json=body) as response:
            if response.status_code != 200:
                raise failure(response, (await response.aread()).decode(errors="replace"))
            if "text/event-stream" in response.headers.get("content-type", ""):
                return await joined(response.aiter_lines())
            return whole(await response.aread())


def only_model(url: str, key: str = "") -> str:
    """The name of the one model that the endpoint serves.

    Raises:
        NotAllowed: it does not say, or it serves several; the message names them.
    """
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    local = urlsplit(url).hostname in LOOPBACK
    try:
        found = httpx.get(
            url.rstrip("/") + "/models", headers=headers, timeout=CONNECT, trust_env=not local
        ).raise_for_status()
        names = [model["id"] for model in found.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise NotAllowed(
            "models", f"{url} does not say which model it serves ({str(error).splitlines()[0]})"
        ) from error
    if len(names) != 1:
        raise NotAllowed("models", f"{url} serves {', '.join(names) or 'no model'}: name one")
    return names[0]


def failure(response: httpx.Response, text: str) -> EndpointFailure:
    """The failure that a status other than 200 stands for."""
    status = response.status_code
    detail = f"{status} {said(text)}"
    if status in (401, 403, 404, 405):
        return NotAllowed("not_allowed", detail)
    if status in (408, 409, 425, 429) or status >= 500:
        reason = "rate_limit" if status == 429 else "server_error"
        return Transient(reason, detail, retry_after(response.headers.get("retry-after", "")))
    return Refused("refused", detail)


def said(text: str) -> str:
    """The message of an error's body, or its beginning."""
    try:
        error = json.loads(text).get("error", text)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:SHOWN]
    except (ValueError, AttributeError):
        return " ".join(text.split())[:SHOWN]


def retry_after(header: str) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or a date (RFC 9110, 10.2.3); None if it says nothing
    that can be read.
    """
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else None


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
