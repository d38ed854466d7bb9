"""A vLLM server as a notebook or the command line holds it: start, wait until it is ready, restart, stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from r1kit.runs.files import read_json
from r1kit.runs.launch import Job, JobFailed
from r1kit.runs.nodes import ask_anew
from r1kit.runs.server_files import KEY, STATE
from r1kit.serving.group import members
from r1kit.serving.health import is_loopback
from r1kit.settings.machine import MachineSettings

GRACE = 25.0  # seconds the keeper has to end engines and workers in order
PAUSE = 0.25  # seconds between two looks at server.json


@dataclass
class Server:
    """One or several replicas of a model, kept by a supervised process; all that is known is in `folder`.

    Attributes:
        job: the keeper; `job.stop()` ends everything.
        tell: gets a line whenever there is news of a start.
        node: the Slurm node that it has to itself; "" if it runs beside us.
    """

    job: Job
    machine: MachineSettings
    tell: Callable[[str], None] = print
    node: str = ""

    @property
    def folder(self) -> Path:
        """Folder of server.json, train.log and api_key."""
        return self.job.folder

    @property
    def state(self) -> dict[str, Any]:
        """What the keeper last wrote (see `keeper`); {} before it runs."""
        return read_json(self.folder / STATE, {})

    @property
    def urls(self) -> list[str]:
        """The replicas' addresses."""
        return self.state.get("urls", [])

    @property
    def key(self) -> str:
        """The shared secret for /v1; "" if there is none."""
        path = self.folder / KEY
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""

    def line(self) -> str:
        """The server now, in one line: state, memory and CPU time of its processes, restarts."""
        state = self.state
        if self.node:  # its processes are not among those of this machine
            return f"server {state.get('state', 'not there')} on {self.node}"
        processes = members(*state.get("pids", []))
        memory, seconds = 0, 0.0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                memory += process.memory_info().rss
                seconds += sum(process.cpu_times()[:2])
        restarts = f", {state['restarts']} restarts" if state.get("restarts") else ""
        used = f"{len(processes)} processes, {memory / 2**30:.1f} GB, {seconds:.0f} s of CPU"
        return f"server {state.get('state', 'not there')}: {used}{restarts}"

    async def ready(self) -> Server:
        """Wait until every replica answers; the notebook's widgets go on living meanwhile.

        Raises:
            JobFailed: it cannot start, or took longer than `start_seconds`; with the reason and the log's
            end.
        """
        try:
            for _ in self._waiting():
                await asyncio.sleep(PAUSE)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self) -> Server:
        """As `ready`, blocking."""
        try:
            for _ in self._waiting():
                time.sleep(PAUSE)
        except BaseException:
            self.stop()
            raise
        return self

    def restart(self) -> None:
        """Start every replica anew at its address, with the weights of the start; `ready()` waits for it.

        Raises:
            JobFailed: the keeper does not run.
        """
        before = self.state
        if self.job.poll() is not None or not before.get("keeper"):
            raise JobFailed(1, "The server does not run, so it cannot be restarted: start it with serve")
        if self.node:
            ask_anew(self.folder)
        else:
            os.kill(before["keeper"], signal.SIGUSR1)
        deadline = time.monotonic() + 2 * GRACE
        while self.job.poll() is None and self.state.get("pids") == before["pids"]:
            if time.monotonic() > deadline:
                raise JobFailed(4, f"The keeper did not restart the server within {2 * GRACE:g} s")
            time.sleep(PAUSE)

    def stop(self) -> None:
        """End the servers and all they started; returns when they are gone."""
        self.job.stop()

    def _waiting(self) -> Iterator[None]:
        """Yields while the server is not ready, telling news; raises when it cannot be."""
        start, said = time.monotonic(), ""
        while (state := self.state).get("state") != "ready":
            if self.job.poll() is not None:
                message = state.get("message") or "The server ended before it was ready"
                tail = self.job.log_tail(12)
                raise JobFailed(self.job.poll() or 1, f"{message} Its log: {self.folder / 'train.log'}", tail)
            words = state.get("message", "")
            if words and words != said:
                self.tell(f"{time.monotonic() - start:4.0f} s  {words}")
                said = words
            yield
        urls = " ".join(state["urls"])
        self.tell(f"{time.monotonic() - start:4.0f} s  ready at {urls}")
        if not is_loopback(self.machine.server.host):
            self.tell(exposure(self.machine))


@dataclass
class NoServer:
    """What stands in a server's place where the profile has none; a lesson's cells are then the same.

    Attributes:
        reason: why there is none, told where a server would tell of its start.
    """

    reason: str
    tell: Callable[[str], None] = print

    @property
    def urls(self) -> list[str]:
        """No addresses."""
        return []

    def line(self) -> str:
        """Nothing to say beside a training."""
        return ""

    async def ready(self) -> NoServer:
        """Say why there is no server."""
        self.tell(self.reason)
        return self

    def stop(self) -> None:
        """There is nothing to end."""


def exposure(machine: MachineSettings) -> str:
    """What others can do where the server listens on more than loopback; "" otherwise."""
    host = machine.server.host
    if is_loopback(host):
        return ""
    guard = "the key guards only /v1" if machine.server.shared_secret else "no key guards it"
    return (
        f"The server listens on {host}. Its development endpoints (/collective_rpc, /update_weights, "
        "/pause, ...) are "
        f"open, and {guard}: whoever reaches the port can replace the weights and run the worker's "
        "functions. "
        "Keep it in a private network."
    )
