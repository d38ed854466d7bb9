"""A training that stops making progress ends within a bound, and says in one paragraph why.

Without it a dead rank costs `ddp_timeout` (30 minutes by default) and a stuck collective leaves a stack of
C++ frames. Every process writes what it is doing into `ranks/<n>.json`; a thread in each looks whether its
own phase has lasted too long, and whether a sibling has died without a word. The end is exit code 4, the
paragraph in exit.json (read by the supervisor) and the stacks of all threads in train.log.

What it cannot see: a thread that holds Python's lock for ever also stops the watchdog. Then the siblings'
watchdogs see a process that does not move on, and the last resort is the launcher's timeout.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from r1kit.runs import files, processes
from r1kit.runs.outcome import ExitCode

LOOK_SECONDS = 0.5
SIBLING_GRACE_SECONDS = 4.0  # for a rank to notice a sibling's death by itself, and to end in its own way

OTHER_RANKS_FACTOR = 1.25  # rank 0 knows more, so the other ranks wait this much longer


class Stopped(RuntimeError):
    """The training cannot go on; the message is one paragraph for people. Raised on every rank alike.

    `returncode` is 4 for what died or never answered, 1 for what answered wrongly.
    """

    def __init__(self, message: str, returncode: int = ExitCode.HUNG):
        super().__init__(message)
        self.returncode = returncode


class Watchdog:
    """Watches this process and its siblings on this machine; `start` it once, `close` it at the end."""

    def __init__(self, job: Path, rank: int = 0, world: int = 1, step_seconds: float | None = None):
        self.folder = Path(job) / "ranks"
        self.job, self.rank, self.world, self.step_seconds = Path(job), rank, world, step_seconds
        self.state: dict[str, Any] = {}
        self.step = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._gone_since: dict[int, float] = {}
        self.host = socket.gethostname()
        self._set("start", None)

    def start(self) -> Watchdog:
        """Begin to look."""
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def finish(self) -> None:
        """The training loop is over; what follows (the final model) has no bound."""
        self._set("end", None)

    def close(self, returncode: int = 0, message: str = "") -> None:
        """This process ends in its own way; siblings must not take that for a death."""
        self._closed.set()
        self._write({**self.state, "ended": returncode, "message": message})

    def beat(self, step: int) -> None:
        """Progress: a step begins or ends, and may take `step_seconds` from now."""
        self.step = step
        self._set("step", self.step_seconds)

    @contextlib.contextmanager
    def phase(self, name: str, bound: float | None) -> Iterator[None]:
        """Something with a bound of its own, such as "generate"; what was before goes on after it."""
        starting = self.state["phase"] == "start"
        self._set(name, bound)
        try:
            yield
        finally:
            self._set(*(("start", None) if starting else ("step", self.step_seconds)))

    def _set(self, phase: str, bound: float | None) -> None:
        now = time.time()
        with self._lock:
            self.state = {
                "rank": self.rank, "pid": os.getpid(), "phase": phase, "step": self.step, "since": now,
                "bound": bound, "host": self.host,
            }  # fmt: skip
        self._write(self.state)

    def _write(self, state: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the training
            files.write_json_atomic(self.folder / f"{self.rank}.json", state, durable=False)

    def _look(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            if reason := self.dead_sibling() or self.overdue():
                self.end(reason)

    def overdue(self) -> str:
        """Why this process's phase has lasted too long; empty while it has not."""
        with self._lock:
            state = dict(self.state)
        if state["bound"] is None:
            return ""
        # The request's own timeout comes first: the main thread then explains more.
        allowed = state["bound"] + 5.0 if state["phase"] != "step" else state["bound"]
        seconds = time.time() - state["since"]
        if seconds <= allowed * (1.0 if self.rank == 0 else OTHER_RANKS_FACTOR):
            return ""
        hint = {
            "generate": "server.generation_seconds", "sync": "server.sync_seconds",
            "restart": "server.start_seconds", "preflight": "server.sync_seconds",
        }.get(state["phase"], "step_seconds")  # fmt: skip
        group = (
            "Trainer and server did not come together to move weights: weight_sync.transport: file needs no "
            "group of both. "
        ) * (state["phase"] == "preflight")
        others = " ".join(self.describe(other) for other in self.siblings().values())
        return (
            f"Process {self.rank} (pid {os.getpid()}) has been in phase '{state['phase']}' of step "
            f"{state['step']} for {seconds:.0f} s; {hint} in machine.yaml allows {state['bound']:g}. "
            f"{others} {group}The stacks of this process are in train.log. A stopped or dead process, "
            "another device mask or a collective that not all processes reach is the usual cause; if the "
            "work is just slow, raise the bound. The last complete checkpoint is kept: start the stage again "
            "to go on from it."
        )

    def dead_sibling(self) -> str:
        """Who died without a word more than `SIBLING_GRACE_SECONDS` ago; empty if nobody did."""
        for rank, state in self.siblings().items():
            if "ended" in state or processes.alive(state["pid"]):
                self._gone_since.pop(rank, None)
                continue
            gone = time.monotonic() - self._gone_since.setdefault(rank, time.monotonic())
            if gone >= SIBLING_GRACE_SECONDS:
                return self.death_of(state)
        return ""

    def first_cause(self) -> tuple[int, str] | None:
        """(exit code, paragraph) of the sibling whose end made this process fail; None if there is none."""
        deadline = time.monotonic() + SIBLING_GRACE_SECONDS / 2
        while self.world > 1:
            for state in self.siblings().values():
                if state.get("ended"):
                    return state["ended"], state["message"]
                if "ended" not in state and not processes.alive(state["pid"]):
                    return ExitCode.HUNG, self.death_of(state)
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)  # the other's last words may still be on their way
        return None

    def death_of(self, state: dict[str, Any]) -> str:
        """The paragraph for a sibling that is gone."""
        return (
            f"Process {state['rank']} of the training (pid {state['pid']}) died in phase '{state['phase']}' "
            f"of step {state['step']} without a word: it was killed, or crashed in native code (see the end "
            "of train.log; dmesg names the kernel's memory killer). The other processes were ended. The last "
            "complete checkpoint is kept: start the stage again to go on from it; if the machine ran out of "
            "memory, lower the batch first."
        )

    def siblings(self) -> dict[int, dict[str, Any]]:
        """What the other ranks of this training on this machine last said."""
        found = {}
        for rank in range(self.world):
            state = files.read_json(self.folder / f"{rank}.json", {}) if rank != self.rank else {}
            if state.get("pid") and state.get("host") == self.host:
                found[rank] = state
        return found

    def describe(self, state: dict[str, Any]) -> str:
        """A sibling in one sentence."""
        try:
            condition = psutil.Process(state["pid"]).status()
        except psutil.Error:
            condition = "gone"
        return (
            f"Process {state['rank']} (pid {state['pid']}) is {condition}, in phase '{state['phase']}' of "
            f"step {state['step']} since {time.time() - state['since']:.0f} s."
        )

    def end(self, reason: str) -> None:
        """Say why, with all stacks, and end this process and its stuck siblings at once."""
        print(f"watchdog: {reason}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        write_exit_reason(self.job, ExitCode.HUNG, reason)
        for state in self.siblings().values():
            if "ended" not in state:
                with contextlib.suppress(OSError):
                    os.kill(state["pid"], signal.SIGKILL)
        os._exit(ExitCode.HUNG)


def start_watchdog(job: Path, step_seconds: float | None) -> Watchdog:
    """The watchdog of this process, as torchrun numbers it."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folder = Path(job) / "ranks"
    if rank == 0:
        (Path(job) / "exit.json").unlink(missing_ok=True)
        for path in folder.glob("*.json"):  # of an earlier attempt; its pids mean nothing now
            if not processes.alive(files.read_json(path, {}).get("pid")):
                path.unlink(missing_ok=True)
    return Watchdog(job, rank, world, step_seconds).start()


def write_exit_reason(job: Path, returncode: int, message: str) -> None:
    """Write exit.json unless a sibling has done so just now: the first cause is the cause."""
    path = Path(job) / "exit.json"
    if path.exists() and time.time() - path.stat().st_mtime < 60:
        return
    with contextlib.suppress(OSError):
        files.write_json_atomic(path, {"returncode": returncode, "message": message})
