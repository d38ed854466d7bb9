"""Following one run until it ends, and putting into words how it did."""

from __future__ import annotations

import contextlib
import os
import select
import signal as signals
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from r1kit.sandbox.verdicts import Execution, Limits, Verdict

_CHECK_SECONDS = 0.25


class Abandoned(Exception):
    """Nobody waits for this run any more."""


@dataclass
class Watched:
    """What came out of a run: cause is "ended", "timeout", "output" or "files"."""

    cause: str
    stdout: bytes
    stderr: bytes


def watch(
    stdout: int,
    stderr: int,
    ended: int,
    limits: Limits,
    owners: Mapping[int, int],
    too_many_files: Callable[[], bool] = lambda: False,
) -> Watched:
    """Read both outputs until `ended` is readable, a limit is passed or the wall clock runs out.

    One poll loop for everything. The run is over when its process is, not at the end of its outputs: somebody
    else may hold the pipes open.

    owners: the poll events, by descriptor, that mean that nobody waits for the result. too_many_files: asked
    four times a second.

    Raises:
        Abandoned: one of those events came.
    """
    kept = {stdout: bytearray(), stderr: bytearray()}
    most = {stdout: limits.output_bytes, stderr: limits.error_bytes}
    poll = select.poll()
    for descriptor in kept:
        os.set_blocking(descriptor, False)
    for descriptor, events in {
        stdout: select.POLLIN,
        stderr: select.POLLIN,
        ended: select.POLLIN,
        **owners,
    }.items():
        poll.register(descriptor, events)
    check = time.monotonic() + _CHECK_SECONDS
    deadline = time.monotonic() + limits.wall_seconds
    cause = ""
    while not cause:
        now = time.monotonic()
        events = poll.poll(max(min(deadline, check) - now, 0) * 1000)
        if not events and now >= deadline:
            cause = "timeout"
        if now >= check:
            check = now + _CHECK_SECONDS
            cause = cause or ("files" if too_many_files() else "")
        for descriptor, event in events:
            if descriptor == ended:
                cause = cause or "ended"
            elif descriptor not in kept:
                raise Abandoned(f"event {event}")
            elif not _read(descriptor, kept[descriptor]):
                poll.unregister(descriptor)
            if descriptor in kept and len(kept[descriptor]) > most[descriptor]:
                cause = "output"
    for descriptor, buffer in kept.items():  # what was written in the last moment
        while len(buffer) <= most[descriptor] and _read(descriptor, buffer):
            pass
        if cause == "ended" and len(buffer) > most[descriptor]:
            cause = "output"
    return Watched(cause, *(bytes(kept[d][: most[d]]) for d in (stdout, stderr)))


def execution_of(
    watched: Watched, code: int | None, limits: Limits, *, seconds: float, used: float, starved: bool
) -> Execution:
    """The verdict on a run that started.

    code: exit code, or a signal's number with a minus; None if it was not known. used: processor seconds.
    starved: the kernel ran out of memory meanwhile. A program killed then was promised that memory, so the
    trouble is ours.
    """
    verdict, detail = _verdict(watched, code, limits, used, starved)
    return Execution(
        verdict,
        watched.stdout,
        watched.stderr,
        exit_code=code if code is not None and code >= 0 and watched.cause == "ended" else None,
        signal=-code if code is not None and code < 0 and watched.cause == "ended" else None,
        seconds=round(seconds, 6),
        detail=detail,
    )


def _verdict(
    watched: Watched, code: int | None, limits: Limits, used: float, starved: bool
) -> tuple[Verdict, str]:
    if watched.cause == "timeout":
        return Verdict.TIMEOUT, f"still running after {limits.wall_seconds:g} s"
    if watched.cause == "files":
        return Verdict.OUTPUT, f"more than {limits.scratch_files} files"
    if watched.cause == "output":
        over_errors = len(watched.stderr) >= limits.error_bytes
        name, most = ("stderr", limits.error_bytes) if over_errors else ("stdout", limits.output_bytes)
        return Verdict.OUTPUT, f"more than {most} bytes on {name}"
    if code is None:
        return Verdict.INFRA, "ended without saying how"
    if code == 0:
        return Verdict.OK, ""
    last = watched.stderr.rstrip().rpartition(b"\n")[2].decode("utf-8", "replace")[:200]
    if code < 0:
        number = -code
        name = signals.Signals(number).name if number in set(signals.Signals) else f"signal {number}"
        if number == signals.SIGXCPU or (number == signals.SIGKILL and used >= limits.cpu_seconds):
            return Verdict.CPU, f"used {limits.cpu_seconds} s of processor time"
        if number == signals.SIGKILL and starved:
            return Verdict.INFRA, "killed by the kernel: this machine ran out of memory (fewer workers?)"
        if b"bad_alloc" in watched.stderr:
            return Verdict.MEMORY, last
        return Verdict.SIGNAL, f"ended by {name}"
    if last.startswith("MemoryError") or b"out of memory" in watched.stderr[-2000:]:
        return Verdict.MEMORY, last
    return Verdict.ERROR, last or f"exit code {code}"


def _read(descriptor: int, buffer: bytearray) -> bool:
    """Append what is there; False if nothing is, or at the end."""
    with contextlib.suppress(BlockingIOError):
        part = os.read(descriptor, 65536)
        buffer += part
        return bool(part)
    return False
