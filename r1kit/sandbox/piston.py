"""A Piston-compatible HTTP client: an optional remote back end, above all for C++ contests. Off by default.

Endpoints come from `PISTON_ENDPOINTS` (comma-separated, e.g. `http://node1:2000/api/v2`), requests at once to
each from `PISTON_MAX_REQUESTS_PER_ENDPOINT` (1), as in open-r1 (`competitive_programming/piston_client.py`).
Where we differ, and why:

- **Trouble of the service is `infra`, never a failed program**: 429, 5xx, no connection, an answer that
  hangs, ends early or is no JSON are tried again with growing pauses, elsewhere if possible; then the row is
  unjudged.
- An endpoint that fails twice in a row rests, is asked for its health (`GET /runtimes`), and comes back.
  There it is dropped for good.
- Endpoints are dealt out by RANK over WORLD_SIZE, and shared when there are fewer than ranks. There
  LOCAL_RANK met WORLD_SIZE: two nodes used half of them, and of eight ranks with one endpoint seven raised.
- "Resource temporarily unavailable" in a program's stderr is not read as an overloaded server: any program
  can print it, and would escape its 0.
- Blocking calls on threads, no event loop: works in Jupyter. `slurm` is no address here: write them out. The
  environment's proxies are not used.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from r1kit.sandbox.piston_protocol import (
    COMPILE_SECONDS,
    PistonError,
    execution,
    healthy,
    post,
    request_body,
)
from r1kit.sandbox.verdicts import Execution, Limits, Verdict


def client_from_environment(environment: Mapping[str, str] | None = None) -> PistonClient:
    """The client that PISTON_ENDPOINTS, RANK and WORLD_SIZE describe.

    Raises:
        ValueError: PISTON_ENDPOINTS is missing, or holds something else than http(s) addresses.
    """
    environment = os.environ if environment is None else environment
    endpoints = sorted({url.strip() for url in environment.get("PISTON_ENDPOINTS", "").split(",")} - {""})
    if not endpoints:
        raise ValueError("PISTON_ENDPOINTS is empty: it must list servers, e.g. http://node1:2000/api/v2")
    at_once = environment.get("PISTON_MAX_REQUESTS_PER_ENDPOINT", "1")
    if not at_once.isdigit() or int(at_once) < 1:
        raise ValueError(f"PISTON_MAX_REQUESTS_PER_ENDPOINT must be a whole number from 1, found {at_once!r}")
    rank, world = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    return PistonClient(endpoints_for_rank(endpoints, rank, world), at_once=int(at_once))


def endpoints_for_rank(endpoints: Sequence[str], rank: int, world: int) -> list[str]:
    """The endpoints of one process: every world-th one, or a shared one if there are fewer than processes."""
    return list(endpoints[rank::world]) or [endpoints[rank % len(endpoints)]]


@dataclass
class _Endpoint:
    url: str
    busy: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0


class PistonClient:
    """Runs programs on Piston servers. `execute` blocks, and may be called from many threads.

    at_once: requests to one endpoint at the same time. retries: further tries of a request. pause: seconds
    before the first of them, doubled each time. rest: seconds that a failing endpoint is left alone.
    margin: seconds that a server may take beyond the program's own and the compiler's (its queue).

    Raises:
        ValueError: no endpoints, or one that is no http(s) address.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        at_once: int = 1,
        retries: int = 5,
        pause: float = 1.0,
        rest: float = 10.0,
        margin: float = 30.0,
        limits: Limits | None = None,
    ) -> None:
        for url in endpoints:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise ValueError(f"a Piston endpoint is like http://node1:2000/api/v2, found {url!r}")
        if not endpoints:
            raise ValueError("a Piston client needs at least one endpoint")
        self.workers = at_once * len(endpoints)
        self.limits = limits or Limits()
        self._at_once, self._retries, self._pause, self._rest = at_once, retries, pause, rest
        self._margin = margin
        self._endpoints = [_Endpoint(url.rstrip("/")) for url in endpoints]
        self._changed = threading.Condition()
        self._gave_up = False  # while every endpoint rests, only the first requests wait for them

    def execute(self, language: str, source: str, stdin: bytes, limits: Limits | None = None) -> Execution:
        """Run a program ("python", or "cpp" compiled by the server); trouble of the service is `infra`."""
        limits = limits or self.limits
        try:
            body = request_body(language, source, stdin, limits)
        except UnicodeError:
            return Execution(Verdict.REFUSED, detail="the program or its input is not text")
        trouble = "every endpoint rests after failures"
        for attempt in range(self._retries + 1):
            endpoint, pause = self._take(), 0.0
            if endpoint is None and self._gave_up:
                break
            if endpoint is not None:
                try:
                    return self._execute_at(endpoint, body, limits)
                except PistonError as error:
                    trouble, pause = f"{endpoint.url}: {error}", error.pause
                    if not error.again:
                        break
            if attempt < self._retries:
                time.sleep(max(pause, self._pause * 2**attempt * random.uniform(0.75, 1.0)))
            else:
                self._gave_up = endpoint is None
        return Execution(Verdict.INFRA, detail=f"Piston: {trouble}")

    def health(self) -> dict[str, bool]:
        """Whether each endpoint lists its runtimes right now."""
        return {endpoint.url: healthy(endpoint.url) for endpoint in self._endpoints}

    def close(self) -> None:
        """Nothing is kept open; here so that a client can stand where a sandbox does."""

    def _execute_at(self, endpoint: _Endpoint, body: bytes, limits: Limits) -> Execution:
        """One try at one endpoint, which is given back whatever happens."""
        started, failed = time.monotonic(), False
        try:
            answer = post(endpoint.url, body, limits.wall_seconds + COMPILE_SECONDS + self._margin)
            return execution(answer, time.monotonic() - started, limits)
        except PistonError as error:
            failed = error.fault
            raise
        finally:
            self._give_back(endpoint, failed=failed)

    def _take(self) -> _Endpoint | None:
        """The least busy endpoint once one has room; None while all of them rest."""
        with self._changed:
            while True:
                awake = [e for e in self._endpoints if time.monotonic() >= e.rests_until]
                free = [e for e in awake if e.busy < self._at_once]
                if free or not awake:
                    break
                self._changed.wait(timeout=self._rest)
            if not free:
                return None
            endpoint = min(free, key=lambda e: (e.failures, e.busy, random.random()))
            endpoint.busy += 1
            rested = endpoint.rests_until > 0
        if rested and not healthy(endpoint.url):
            self._give_back(endpoint, failed=True)
            return self._take()
        return endpoint

    def _give_back(self, endpoint: _Endpoint, *, failed: bool) -> None:
        with self._changed:
            endpoint.busy -= 1
            endpoint.failures = endpoint.failures + 1 if failed else 0
            if not failed:
                endpoint.rests_until, self._gave_up = 0.0, False
            elif endpoint.failures >= 2:
                endpoint.rests_until = time.monotonic() + self._rest
            self._changed.notify_all()
