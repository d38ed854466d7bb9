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
from collections.abc import Callable

import psutil

PATIENCE = 10.0  # seconds to end by itself; vLLM took 1.7 (2026-11-24, two cores, an idle server)
TRACKER = 3.0  # seconds for the resource tracker after all others are gone


def members(*groups: int) -> list[psutil.Process]:
    """The living processes of some process groups."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_groups(leaders: list[subprocess.Popen], patience: float = PATIENCE) -> None:
    """End the groups that `leaders` lead: SIGTERM, after `patience` seconds SIGKILL, trackers last.

    A leader that is dead already gets no patience: without it, its engine has nobody to end it in order.
    """
    groups = [leader.pid for leader in leaders]
    orphaned = all(leader.poll() is not None for leader in leaders)
    _signal(groups, signal.SIGTERM)
    _until(leaders, lambda: not _workers(groups), 1.0 if orphaned else patience)
    for process in _workers(groups):
        with contextlib.suppress(psutil.Error):
            process.kill()
    _until(leaders, lambda: not members(*groups), TRACKER)
    _signal(groups, signal.SIGKILL)
    _until(leaders, lambda: not members(*groups), TRACKER)


def _workers(groups: list[int]) -> list[psutil.Process]:
    """The members that are no resource trackers."""
    return [process for process in members(*groups) if not _is_tracker(process)]


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def _signal(groups: list[int], number: int) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def _until(leaders: list[subprocess.Popen], condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        for leader in leaders:
            leader.poll()  # reap it
        time.sleep(0.05)
    for leader in leaders:
        leader.poll()
