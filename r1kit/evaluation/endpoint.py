"""One request to an OpenAI-compatible server for one completion: bounded, retried, its failures typed.

Conversations go to `/chat/completions`, streamed or whole. Token ids go to `/completions`, and the
completion's token ids come back with their log-probabilities (only vLLM does that). `server_sampler` makes
the requests of a whole sampling with an `Endpoint`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from r1kit.evaluation.sampler import Prompt
from r1kit.settings.data import PatienceSettings, SamplingSettings

if TYPE_CHECKING:
    import httpx
    import tenacity

CONNECT_SECONDS = 10.0  # a machine that is there accepts within milliseconds
LONGEST_RETRY_AFTER = 3600.0  # seconds; a server that asks for more is not coming back today
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHOWN = 300  # characters of an error's text

Answer = dict[str, Any]
"""A server's answer as it is logged: `content` (tags untouched), `reasoning` (from a field of its own, "" if
the server has none), `finish_reason`, `prompt_tokens`, `completion_tokens`; and `token_ids` and `logprobs` if
the prompt was sent as token ids.
"""


class EndpointFailure(RuntimeError):
    """A request brought no answer; `reason` is one word for counting."""

    def __init__(self, reason: str, detail: str, retry_after: float | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.retry_after = reason, detail[:SHOWN], retry_after


class Transient(EndpointFailure):
    """The same request may succeed later, after `retry_after` seconds if the server said so: 429, 5xx, a cut
    or garbled answer, silence, no connection.
    """


class Refused(EndpointFailure):
    """The server will not answer this request: 400, a prompt too long."""


class NotAllowed(EndpointFailure):
    """The server will not answer any request: key, model or address are wrong."""


class Endpoint:
    """Requests completions from one server; used as `async with`. The key is only in the client's headers."""

    def __init__(self, url: str, sampling: SamplingSettings, patience: PatienceSettings, key: str = ""):
        self.url, self.sampling, self.patience, self.key = url.rstrip("/"), sampling, patience, key
        self.closed_until = 0.0
        self.client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Endpoint:
        import httpx

        self.client = httpx.AsyncClient(
            headers=_authorization(self.key),
            limits=httpx.Limits(max_connections=self.patience.concurrency),
            verify=self.url.startswith("https"),  # http needs no certificates, which take 46 ms to read
            trust_env=not _is_local(self.url),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def ask(self, prompt: Prompt, seed: int | None = None) -> Answer:
        """Make one request for one completion.

        Raises:
            Transient, Refused, NotAllowed: the request failed.
        """
        import httpx

        # A rate limit holds for all requests, including those that were not refused yet.
        await asyncio.sleep(self.closed_until - time.monotonic())
        try:
            async with asyncio.timeout(self.patience.timeout):
                return await self._post(*self._request(prompt, seed))
        except Transient as error:
            if error.retry_after:
                self.closed_until = max(self.closed_until, time.monotonic() + error.retry_after)
            raise
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise Transient("timeout", f"no answer in time ({type(error).__name__})") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Transient("unreachable", str(error) or "no connection in time") from error
        except httpx.RequestError as error:
            raise Transient("cut", f"{type(error).__name__}: {error}") from error

    def retrying(self) -> tenacity.AsyncRetrying:
        """Return a caller of `ask` that repeats transient failures and raises the last one.

        It waits as long as the server asks for, plus a random time below a limit that doubles, so that
        requests that were refused together are not repeated together.
        """
        import tenacity

        backoff = tenacity.wait_random_exponential(self.patience.first_wait, self.patience.longest_wait)
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(self.patience.attempts),
            wait=lambda state: (state.outcome.exception().retry_after or 0.0) + backoff(state),
            reraise=True,
        )

    def _request(self, prompt: Prompt, seed: int | None) -> tuple[str, dict[str, Any]]:
        """Return path and body."""
        sampling, stream = self.sampling, self.patience.stream
        body: dict[str, Any] = {"model": sampling.model}
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"max_tokens": sampling.max_tokens} if sampling.max_tokens else {}
        body |= {"seed": seed} if seed is not None else {}
        if isinstance(prompt[0], int):
            body |= {"prompt": [prompt], "n": 1, "return_token_ids": True, "logprobs": 0}
            # vLLM takes missing values from the model's generation_config.json (Qwen's has top_k 20).
            body |= {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
            return "/completions", body | sampling.extra
        body |= {"messages": with_instruction(prompt, sampling), "stream": stream}
        body |= {"stream_options": {"include_usage": True}} if stream else {}
        return "/chat/completions", body | sampling.extra

    async def _post(self, path: str, body: dict[str, Any]) -> Answer:
        import httpx

        # Token ids come in one piece, so the server is silent for as long as it generates.
        silence = self.patience.silence if "messages" in body else self.patience.timeout
        timeout = httpx.Timeout(silence, connect=CONNECT_SECONDS, pool=None)
        async with self.client.stream("POST", self.url + path, json=body, timeout=timeout) as response:
            if response.status_code != 200:
                raise _failure(response, (await response.aread()).decode(errors="replace"))
            if "text/event-stream" in response.headers.get("content-type", ""):
                return await _streamed_answer(response.aiter_lines())
            return _whole_answer(await response.aread())


def only_model(url: str, key: str = "") -> str:
    """Return the name of the one model that the server at `url` serves.

    Raises:
        NotAllowed: the server does not say, or serves several; the message names them.
    """
    import httpx

    try:
        response = httpx.get(
            url.rstrip("/") + "/models", headers=_authorization(key), timeout=CONNECT_SECONDS,
            trust_env=not _is_local(url),
        ).raise_for_status()  # fmt: skip
        names = [model["id"] for model in response.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise NotAllowed("models", f"{url} does not say which model it serves ({reason})") from error
    if len(names) != 1:
        raise NotAllowed("models", f"{url} serves {', '.join(names) or 'no model'}: name one")
    return names[0]


def with_instruction(messages: list[dict[str, str]], sampling: SamplingSettings) -> list[dict[str, str]]:
    """Add the system prompt, and the instruction after the last question."""
    *before, last = messages
    if sampling.instruction:
        last = {**last, "content": f"{last['content']}\n\n{sampling.instruction}"}
    return [*([{"role": "system", "content": sampling.system}] if sampling.system else []), *before, last]


def retry_after(header: str) -> float | None:
    """Return the seconds that `Retry-After` asks for, as a number or a date (RFC 9110, 10.2.3).

    None if it cannot be read.
    """
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else None


def _is_local(url: str) -> bool:
    # Requests to this machine must not go through a proxy of the environment.
    return urlsplit(url).hostname in LOOPBACK


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _failure(response: httpx.Response, text: str) -> EndpointFailure:
    status = response.status_code
    detail = f"{status} {_error_text(text)}"
    if status in (401, 403, 404, 405):
        return NotAllowed("not_allowed", detail)
    if status in (408, 409, 425, 429) or status >= 500:
        reason = "rate_limit" if status == 429 else "server_error"
        return Transient(reason, detail, retry_after(response.headers.get("retry-after", "")))
    return Refused("refused", detail)


def _error_text(text: str) -> str:
    """Return the message of an error's body, or its beginning."""
    try:
        error = json.loads(text).get("error", text)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:SHOWN]
    except (ValueError, AttributeError):
        return " ".join(text.split())[:SHOWN]


def _whole_answer(body: bytes) -> Answer:
    try:
        response = json.loads(body)
        choice = response["choices"][0]
        if "message" in choice:
            message = choice["message"]
            return _answer(_text(message, "content"), _reasoning(message), choice, response.get("usage"))
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Transient("garbled", f"no completion: {body[:SHOWN]!r}") from error
    usage = {"prompt_tokens": len(choice.get("prompt_token_ids") or ()), "completion_tokens": len(ids)}
    return _answer(_text(choice, "text"), "", choice, usage) | {"token_ids": ids, "logprobs": logprobs}


async def _streamed_answer(lines: AsyncIterator[str]) -> Answer:
    """Join the server-sent events of a chat completion."""
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
                raise Transient("server_error", _error_text(data))
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
    finish = str(choice.get("finish_reason") or "")
    counts = usage if isinstance(usage, dict) else {}
    return {"content": content, "reasoning": reasoning, "finish_reason": finish} | {
        name: counts.get(name) for name in ("prompt_tokens", "completion_tokens")
    }


def _reasoning(message: dict[str, Any]) -> str:
    # DeepSeek and older vLLM say `reasoning_content`, OpenRouter and newer vLLM `reasoning`.
    return _text(message, "reasoning_content", "reasoning")


def _text(message: dict[str, Any], *names: str) -> str:
    return next((message[name] for name in names if isinstance(message.get(name), str)), "")
