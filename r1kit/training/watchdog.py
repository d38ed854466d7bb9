"""A training that stops making progress ends within a bound and explains why in one paragraph.

Without the watchdog a dead rank costs `ddp_timeout` (30 minutes by default) and a stuck collective leaves a
stack of C++ frames. Every process writes its phase to `ranks/<n>.json`; a thread in each checks whether its
own phase has lasted too long, and whether a sibling has died. Then the training ends with exit code 4, the
paragraph in exit.json (read by the supervisor) and the stacks of all threads in train.log.

A thread that never releases Python's lock also stops the watchdog. Then the siblings' watchdogs see a process
without progress, and the last resort is the launcher's timeout.
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
SIBLING_GRACE_SECONDS = 4.0  # a rank may notice a dead sibling and exit cleanly within this time
OTHER_RANKS_FACTOR = 1.25  # rank 0 knows more, so the other ranks wait this much longer


class Stopped(RuntimeError):
    """The training cannot continue; the message is one paragraph for people. Raised on every rank alike.

    `returncode` is 4 if something died or timed out, 1 if it gave a wrong answer.
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
        self.host = socket.gethostname()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._gone_since: dict[int, float] = {}
        self._set("start", None)

    def start(self) -> Watchdog:
        """Start the thread."""
        threading.Thread(target=self._look, name="watchdog", daemon=True).start()
        return self

    def beat(self, step: int) -> None:
        """Report progress: a step begins or ends, and the next report is due within `step_seconds`."""
        self.step = step
        self._set("step", self.step_seconds)

    @contextlib.contextmanager
    def phase(self, name: str, bound: float | None) -> Iterator[None]:
        """Set a bound for the work inside the block, such as "generate"; then restore the phase before it."""
        starting = self.state["phase"] == "start"
        self._set(name, bound)
        try:
            yield
        finally:
            self._set(*(("start", None) if starting else ("step", self.step_seconds)))

    def finish(self) -> None:
        """Lift the bound: after the training loop, writing the final model has none."""
        self._set("end", None)

    def close(self, returncode: int = 0, message: str = "") -> None:
        """Record that this process ends by itself, so that siblings do not report its death."""
        self._closed.set()
        self._write({**self.state, "ended": returncode, "message": message})

    def _set(self, phase: str, bound: float | None) -> None:
        with self._lock:
            self.state = {
                "rank": self.rank, "pid": os.getpid(), "phase": phase, "step": self.step,
                "since": time.time(), "bound": bound, "host": self.host,
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
        """Return why this process's phase has lasted too long; "" if it has not."""
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
        group = ""
        if state["phase"] == "preflight":
            group = (
                "Trainer and server did not form a group to move weights; weight_sync.transport: file needs "
                "no group. "
            )
        others = " ".join(self.describe(other) for other in self.siblings().values())
        return (
            f"Process {self.rank} (pid {os.getpid()}) has been in phase '{state['phase']}' of step "
            f"{state['step']} for {seconds:.0f} s; {hint} in machine.yaml allows {state['bound']:g}. "
            f"{others} {group}The stacks of this process are in train.log. A stopped or dead process, "
            "another device mask or a collective that not all processes reach is the usual cause; if the "
            "work is just slow, raise the bound. The last complete checkpoint is kept: start the stage again "
            "to resume from it."
        )

    def dead_sibling(self) -> str:
        """Describe a sibling that died more than `SIBLING_GRACE_SECONDS` ago; "" if none did."""
        for rank, state in self.siblings().items():
            if "ended" in state or processes.alive(state["pid"]):
                self._gone_since.pop(rank, None)
                continue
            gone = time.monotonic() - self._gone_since.setdefault(rank, time.monotonic())
            if gone >= SIBLING_GRACE_SECONDS:
                return self.death_of(state)
        return ""

    def first_cause(self) -> tuple[int, str] | None:
        """Return (exit code, paragraph) of the sibling that made this process fail; None if none did."""
        deadline = time.monotonic() + SIBLING_GRACE_SECONDS / 2
        while self.world > 1:
            for state in self.siblings().values():
                if state.get("ended"):
                    return state["ended"], state["message"]
                if "ended" not in state and not processes.alive(state["pid"]):
                    return ExitCode.HUNG, self.death_of(state)
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)  # the sibling may still be writing its end
        return None

    def death_of(self, state: dict[str, Any]) -> str:
        """Return the paragraph for a dead sibling."""
        return (
            f"Process {state['rank']} of the training (pid {state['pid']}) died in phase '{state['phase']}' "
            f"of step {state['step']} without a message: it was killed, or crashed in native code (see the "
            "end of train.log; dmesg names the kernel's memory killer). The other processes were ended. The "
            "last complete checkpoint is kept: start the stage again to resume from it; if the machine ran "
            "out of memory, lower the batch first."
        )

    def siblings(self) -> dict[int, dict[str, Any]]:
        """Return the newest state of the other ranks of this training on this machine."""
        found = {}
        for rank in range(self.world):
            state = files.read_json(self.folder / f"{rank}.json", {}) if rank != self.rank else {}
            if state.get("pid") and state.get("host") == self.host:
                found[rank] = state
        return found

    def describe(self, state: dict[str, Any]) -> str:
        """Describe a sibling in one sentence."""
        try:
            condition = psutil.Process(state["pid"]).status()
        except psutil.Error:
            condition = "gone"
        return (
            f"Process {state['rank']} (pid {state['pid']}) is {condition}, in phase '{state['phase']}' of "
            f"step {state['step']} since {time.time() - state['since']:.0f} s."
        )

    def end(self, reason: str) -> None:
        """Print the reason and all stacks, and end this process and its stuck siblings at once."""
        print(f"watchdog: {reason}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        write_exit_reason(self.job, ExitCode.HUNG, reason)
        for state in self.siblings().values():
            if "ended" not in state:
                with contextlib.suppress(OSError):
                    os.kill(state["pid"], signal.SIGKILL)
        os._exit(ExitCode.HUNG)


def start_watchdog(job: Path, step_seconds: float | None) -> Watchdog:
    """Start the watchdog of this process; torchrun numbers the processes in RANK."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folder = Path(job) / "ranks"
    if rank == 0:
        (Path(job) / "exit.json").unlink(missing_ok=True)
        for path in folder.glob("*.json"):  # of an earlier attempt; its pids mean nothing now
            if not processes.alive(files.read_json(path, {}).get("pid")):
                path.unlink(missing_ok=True)
    return Watchdog(job, rank, world, step_seconds).start()


def write_exit_reason(job: Path, returncode: int, message: str) -> None:
    """Write exit.json unless a sibling has done so within a minute: the first cause counts."""
    path = Path(job) / "exit.json"
    if path.exists() and time.time() - path.stat().st_mtime < 60:
        return
    with contextlib.suppress(OSError):
        files.write_json_atomic(path, {"returncode": returncode, "message": message})
