"""The process tree of one job: who belongs to it, what it uses, and how all of it is ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import psutil

from r1kit.runs import processes


class Tree:
    """All processes that a job started, seen from the process that started the job.

    With adoption (`adopts`) these are this process's descendants, whatever they did. Without it, they are
    also those that were seen before, and those that carry the job's token in their environment.
    """

    def __init__(self, token: str, adopts: bool) -> None:
        self.token, self.adopts = token, adopts
        self.exit_codes: dict[int, int] = {}  # of the children reaped so far; negative: a signal
        self.rss_bytes = self.peak_rss_bytes = 0
        self._seen: dict[int, psutil.Process] = {}

    def processes(self) -> list[psutil.Process]:
        """The living members."""
        found = {process.pid: process for process in processes.descendants(os.getpid())}
        if not self.adopts:
            found |= {pid: process for pid, process in self._seen.items() if processes.alive(process)}
            found |= {process.pid: process for process in processes.carrying(self.token)}
        return list(found.values())

    def sample(self) -> None:
        """Note members and memory (bytes). Shared pages count in each process: the sum is an upper bound."""
        total = 0
        # Not `processes()`: reading every environment on the machine is too dear to do each second.
        for process in processes.descendants(os.getpid()):
            self._seen[process.pid] = process
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self.rss_bytes, self.peak_rss_bytes = total, max(self.peak_rss_bytes, total)

    def reap(self) -> None:
        """Collect every child that has ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, state = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                self.exit_codes[pid] = os.waitstatus_to_exitcode(state)

    def generations(self, pid: int, depth: int) -> list[psutil.Process]:
        """The `depth`-th generation from the member `pid` on (1: itself), or the last generation there is.

        A launcher in between hears nothing: torchrun's agent would pass the signal on a second time, and
        kill its processes 30 seconds later, checkpoint or not.
        """
        try:
            generation = [psutil.Process(pid)]
        except psutil.NoSuchProcess:
            return []
        for _ in range(depth - 1):
            with contextlib.suppress(psutil.NoSuchProcess):
                generation = [child for parent in generation for child in parent.children()] or generation
        return generation

    def end(self, main: list[psutil.Process], grace: float) -> bool:
        """End everything; True if nothing is left.

        SIGTERM goes to the `main` processes first, so that a trainer can write its checkpoint while its
        helpers still live. Once they are gone, the rest gets SIGTERM and two seconds; when `grace` seconds
        were not enough for the main ones, everything is killed at once. The tree is read again before each
        blow, because the dying may fork.
        """
        processes.send(main, signal.SIGTERM)
        if self._until(lambda: not any(map(processes.alive, main)), grace):
            left = self.processes()
            processes.send(left, signal.SIGTERM)
            if left:
                self._until(lambda: not self.processes(), min(2.0, grace))
        return self._until(self._killed, 10.0)

    def _killed(self) -> bool:
        left = self.processes()
        processes.send(left, signal.SIGKILL)
        return not left

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            self.reap()
            if condition():
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.03)
