"""Processes: check whether one is alive, find those of a job, end a whole tree.

Each Linux feature is behind one function. Without it (macOS, or `LINUX = False` in a test) only speed is
lost: a job's processes carry a token in their environment, by which psutil finds those that left their
parents' tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable

import psutil

LINUX = sys.platform.startswith("linux")
TOKEN = "R1KIT_JOB_TOKEN"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def become_subreaper() -> bool:
    """Adopt orphaned descendants in place of init, so that setsid and double forks stay in the tree.

    Returns False where the system cannot do that; there only the token finds them.
    """
    return LINUX and _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(number: int = signal.SIGTERM) -> bool:
    """Have the kernel send `number` to this process when its parent thread ends; False if unsupported."""
    return LINUX and _prctl(_PR_SET_PDEATHSIG, number)


def wait_handle_for(pid: int) -> int | None:
    """Return a file descriptor (pidfd) that becomes readable when process `pid` ends; None if unsupported.

    Raises:
        ProcessLookupError: the process is gone already.
    """
    if not LINUX or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # kernel before 5.3, or a sandbox that filters the call
        return None


def oom_kills() -> int:
    """Count the processes that the kernel has killed for lack of memory since boot; 0 where unknown."""
    if LINUX:
        with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/vmstat") as file:
            return int(next(line for line in file if line.startswith("oom_kill ")).split()[1])
    return 0


def descendants(pid: int) -> list[psutil.Process]:
    """Return the living children of `pid`, their children and so on; zombies are not alive."""
    try:
        return [process for process in psutil.Process(pid).children(recursive=True) if alive(process)]
    except psutil.NoSuchProcess:
        return []


def carrying(token: str) -> list[psutil.Process]:
    """Return every living process of this user that was started with `token` as R1KIT_JOB_TOKEN."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(TOKEN) == token and alive(process):
                members.append(process)
    return members


def alive(process: psutil.Process | int | None) -> bool:
    """Return True while a process runs; a zombie does not run.

    Args:
        process: a Process (False once another process has got its pid), a pid, or None.
    """
    try:
        if not isinstance(process, psutil.Process):
            if not process:
                return False
            process = psutil.Process(process)
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's process, but a process
        return True


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """Signal each process that still exists, and continue stopped ones so that they receive it."""
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)
            if number != signal.SIGKILL:
                process.send_signal(signal.SIGCONT)


def _prctl(option: int, value: int) -> bool:
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


class Tree:
    """All processes that a job started, from the view of the process that started the job.

    With adoption (`adopts`) these are this process's descendants. Without it, they are also the processes
    noticed before, and those that carry the job's token in their environment.
    """

    def __init__(self, token: str, adopts: bool) -> None:
        self.token, self.adopts = token, adopts
        self.exit_codes: dict[int, int] = {}  # of the children reaped so far; negative: a signal
        self.rss_bytes = self.peak_rss_bytes = 0
        self._seen: dict[int, psutil.Process] = {}

    def processes(self) -> list[psutil.Process]:
        """Return the living members."""
        members = {process.pid: process for process in descendants(os.getpid())}
        if not self.adopts:
            members |= {pid: process for pid, process in self._seen.items() if alive(process)}
            members |= {process.pid: process for process in carrying(self.token)}
        return list(members.values())

    def sample(self) -> None:
        """Record members and memory (bytes). Shared pages count in each process: an upper bound."""
        total = 0
        # Not `processes()`: reading every environment on the machine each second costs too much.
        for process in descendants(os.getpid()):
            self._seen[process.pid] = process
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self.rss_bytes, self.peak_rss_bytes = total, max(self.peak_rss_bytes, total)

    def reap(self) -> None:
        """Collect the exit codes of all children that have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, state = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                self.exit_codes[pid] = os.waitstatus_to_exitcode(state)

    def generations(self, pid: int, depth: int) -> list[psutil.Process]:
        """Return the `depth`-th generation from the member `pid` on (1: itself), or the last generation.

        A launcher in between must not get the signal: torchrun's agent would pass it on a second time, and
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
        """End all processes; return True if none is left.

        SIGTERM goes to the `main` processes first, so that a trainer can write its checkpoint while its
        helpers still run. Once they are gone, the rest gets SIGTERM and two seconds; if `grace` seconds were
        not enough for the main processes, all are killed at once. The tree is read again before each signal,
        because processes may fork while they end.
        """
        send(main, signal.SIGTERM)
        if self._until(lambda: not any(map(alive, main)), grace):
            send(self.processes(), signal.SIGTERM)
            self._until(lambda: not self.processes(), min(2.0, grace))
        return self._until(self._kill_all, 10.0)

    def _kill_all(self) -> bool:
        left = self.processes()
        send(left, signal.SIGKILL)
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
