"""What a supervisor asks of the operating system. What only Linux has is behind one function each.

Without the Linux ways (macOS, or `LINUX = False` in a test) nothing is lost but speed: a job's processes
carry a token in their environment, by which psutil finds those that ran away from their parents.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable

import psutil

LINUX = sys.platform.startswith("linux")
TOKEN = "R1KIT_JOB_TOKEN"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def become_subreaper() -> bool:
    """Adopt orphaned descendants in place of init: setsid and double forks do not lead out of the tree then.

    Returns False where the system cannot do that; there only the token finds runaways.
    """
    return LINUX and _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(number: int = signal.SIGTERM) -> bool:
    """Have the kernel send `number` to this process when the thread that started it ends; False elsewhere."""
    return LINUX and _prctl(_PR_SET_PDEATHSIG, number)


def wait_handle_for(pid: int) -> int | None:
    """A file descriptor (pidfd) that becomes readable when process `pid` ends; None where there is none.

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
    """How many processes the kernel has killed for lack of memory since boot; 0 where it does not say."""
    if LINUX:
        with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/vmstat") as file:
            return int(next(line for line in file if line.startswith("oom_kill ")).split()[1])
    return 0


def descendants(pid: int) -> list[psutil.Process]:
    """The living children of `pid`, their children and so on; zombies are not alive."""
    try:
        return [process for process in psutil.Process(pid).children(recursive=True) if alive(process)]
    except psutil.NoSuchProcess:
        return []


def carrying(token: str) -> list[psutil.Process]:
    """Every living process of this user that was started with `token` as R1KIT_JOB_TOKEN."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(TOKEN) == token and alive(process):
                found.append(process)
    return found


def alive(process: psutil.Process) -> bool:
    """True while this very process (not another one with its number) runs; a zombie does not run."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """Signal each process, passing over those that are gone; a stopped one is woken up to hear it."""
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)
            if number != signal.SIGKILL:
                process.send_signal(signal.SIGCONT)


def locked(descriptor: int, seconds: float) -> bool:
    """Lock an open file as soon as no other holder is left; False if one is still there after `seconds`.

    The lock lives as long as any process that was given this descriptor.
    """
    import fcntl

    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        except OSError:  # some network disks have no locks
            return True


def _prctl(option: int, value: int) -> bool:
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False
