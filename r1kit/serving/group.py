"""Ending a vLLM server with its engine and workers, so that neither processes nor shared memory stay.

The server is the leader of its own process group. Killing the whole group at one stroke would leak: vLLM's
blocks of shared memory are removed by a small process of Python's (the resource tracker) once the others are
gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import psutil

PATIENCE = 10.0  # seconds to end by itself; vLLM took 1.7 (2026-11-24, two cores, an idle server)
TRACKER = 3.0  # seconds for the resource tracker after all others are gone


def members(group: int) -> list[psutil.Process]:
    """The living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_group(leader: subprocess.Popen, patience: float = PATIENCE) -> None:
    """End the group that `leader` leads: SIGTERM, after `patience` seconds SIGKILL, trackers last.

    A leader that is dead already gets no patience: without it, its engine has nobody to end it in order.
    """
    group = leader.pid
    orphaned = leader.poll() is not None
    _signal(group, signal.SIGTERM)
    _until(leader, lambda: not _workers(group), 1.0 if orphaned else patience)
    for process in _workers(group):
        with contextlib.suppress(psutil.Error):
            process.kill()
    _until(leader, lambda: not members(group), TRACKER)
    _signal(group, signal.SIGKILL)
    _until(leader, lambda: not members(group), TRACKER)


def _workers(group: int) -> list[psutil.Process]:
    """The members that are no resource trackers."""
    return [process for process in members(group) if not _is_tracker(process)]


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _until(leader: subprocess.Popen, condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        leader.poll()  # reap it
        time.sleep(0.05)
    leader.poll()
