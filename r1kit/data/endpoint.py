"""One chat completion of an OpenAI-compatible endpoint: vLLM's server, or a hosted one.

What comes back, and the failures that may come instead, are `chat_answer`'s.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from r1kit.data.chat_answer import (
    Answer,
    EndpointFailure,
    NotAllowed,
    Refused,
    Transient,
    joined,
    said,
    whole,
)
from r1kit.settings.generation import GenerationSettings

if TYPE_CHECKING:
    import httpx

CONNECT = 10.0  # seconds; a machine that is there accepts within milliseconds
LONGEST_RETRY_AFTER = 3600.0  # seconds; a server that asks for more is not coming back today
LOOPBACK = ("localhost", "127.0.0.1", "::1")


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
            Transient, Refused, NotAllowed: see `chat_answer`.
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
