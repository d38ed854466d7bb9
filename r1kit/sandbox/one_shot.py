"""Run a request in a process of its own, follow it until it ends, and leave nothing of it behind.

`OneShotRunner.run` starts a fresh enclosure; `watch` and `execution_of`, which the fork server's runs share,
follow a run and turn its end into a verdict.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from r1kit.sandbox import kernel
from r1kit.sandbox.enclosure import BOX, STATUS, Enclosure
from r1kit.sandbox.execution import Execution, Limits, Reply, Request, Verdict

PAYLOAD, PRODUCT = 3, 4  # as in boot.py
BOOT = Path(__file__).with_name("boot.py")
_KILL_SECONDS = 2

_CHECK_SECONDS = 0.25


class Abandoned(Exception):
    """The owner of this run is gone."""


class OneShotRunner:
    """Runs requests one after the other, each in a fresh enclosure. boot: the text of BOOT."""

    def __init__(self, enclosure: Enclosure, boot: str) -> None:
        self.enclosure, self.boot = enclosure, boot

    def run(self, request: Request, owners: Mapping[int, int]) -> Reply:
        """Run once. Everything that the program started has ended when this returns.

        Raises:
            Abandoned: the owner is gone; the program has been ended.
            OSError, TimeoutError: the run failed through no fault of the program.
        """
        compiles = request.kind == "compile"
        folder = (
            tempfile.mkdtemp(prefix="r1kit-compile-") if compiles and not self.enclosure.scratch else None
        )
        with contextlib.ExitStack() as cleanup:
            if folder:
                cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
            return self._run(request, owners, folder, cleanup)

    def close(self) -> None:
        """Do nothing, since nothing outlives a run; a `ForkingRunner` has a server to end."""

    def _run(
        self, request: Request, owners: Mapping[int, int], folder: str | None, cleanup: contextlib.ExitStack
    ) -> Reply:
        def kept(descriptor: int) -> int:
            cleanup.callback(os.close, descriptor)
            return descriptor

        payload = kept(kernel.memory_file(request.payload or b"\n"))
        product = kept(kernel.memory_file(sealed=False))
        stdin = kept(kernel.memory_file(request.stdin))
        (stdout, program_stdout), (stderr, program_stderr), (status, program_status) = (
            os.pipe(), os.pipe(), os.pipe(),
        )  # fmt: skip
        for descriptor in (stdout, stderr, status):
            kept(descriptor)
        descriptors = {
            0: stdin,
            1: program_stdout,
            2: program_stderr,
            PAYLOAD: payload,
            STATUS: program_status,
        }
        if request.kind == "compile":
            descriptors[PRODUCT] = product
        packages = ":".join(self.enclosure.interpreter.packages)
        starved_before, began = kernel.oom_kills(), time.monotonic()
        try:
            pid = self.enclosure.start(
                self.boot,
                [request.kind, packages, *self.enclosure.limits(request.limits), "--", *request.command],
                descriptors,
                limits=request.limits,
                children=request.kind == "compile",
                folder=folder,
            )
        finally:
            for descriptor in (program_stdout, program_stderr, program_status):
                os.close(descriptor)
        ended = kept(os.pidfd_open(pid))
        report = _Report(status)
        cause = "abandoned"
        try:
            watched = watch(
                stdout, stderr, ended, request.limits, owners,
                lambda: _files(report.inner()) > request.limits.scratch_files,
            )  # fmt: skip
            cause = watched.cause
        finally:
            seconds = time.monotonic() - began
            if cause != "ended":
                _end(pid, report.inner(), ended)
            statuses, used, left = kernel.reap(report.inner())
        code = report.exit_code() if self.enclosure.namespaces else os.waitstatus_to_exitcode(statuses[pid])
        starved = kernel.oom_kills() > starved_before
        if os.lseek(payload, 0, os.SEEK_CUR) == 0 and cause != "output":
            said = report.trouble() or watched.stderr.decode("utf-8", "replace").strip()[-300:]
            detail = f"the program did not start within {seconds:.1f} s: {said or f'exit code {code}'}"
            return Reply(Execution(Verdict.INFRA, seconds=seconds, detail=detail))
        result = execution_of(watched, code, request.limits, seconds=seconds, used=used, starved=starved)
        made = b""
        if request.kind == "compile" and result.verdict is Verdict.OK:
            made = os.pread(product, os.fstat(product).st_size, 0)
        return Reply(result, made, left if cause == "ended" else 0)


class _Report:
    """The text at STATUS: JSON from bubblewrap, or the error of a failed start."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._text = descriptor, b""
        os.set_blocking(descriptor, False)

    def inner(self) -> int | None:
        """Return the pid of the enclosure's init; None without one."""
        return self._value(b"child-pid")

    def exit_code(self) -> int | None:
        """Return the program's exit code, or minus the signal that ended it; None if unknown."""
        code = self._value(b"exit-code")
        return code if code is None or not 128 < code <= 128 + signal.NSIG else 128 - code

    def trouble(self) -> str:
        """Return the error that kept the program from starting, or ""."""
        self._read()
        return "" if self._text.startswith(b"{") else self._text.decode("utf-8", "replace")

    def _value(self, key: bytes) -> int | None:
        self._read()
        found = re.search(rb'"%s": *(\d+)[\s,}]' % key, self._text)
        return int(found[1]) if found else None

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._descriptor, 65536):
                self._text += part


def _files(inner: int | None) -> int:
    """Count the files on the scratch disk of the enclosure with this init: bubblewrap sets no limit."""
    try:
        disk = os.statvfs(f"/proc/{inner}/root{BOX}")
    except OSError:  # no such disk, or it is not there yet, or no longer
        return 0
    return disk.f_files - disk.f_ffree


def _end(pid: int, inner: int | None, ended: int) -> None:
    """Kill the enclosure's init first: bubblewrap then ends by itself and leaves no zombie."""
    with contextlib.suppress(ProcessLookupError):
        if inner is not None:
            os.kill(inner, signal.SIGKILL)
            select.select([ended], [], [], _KILL_SECONDS)
        os.killpg(pid, signal.SIGKILL)


@dataclass
class Watched:
    """The output of a run, and why it is over: "ended", "timeout", "output" or "files"."""

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

    The run is over when its process is, not at the end of its outputs: another process may hold the pipes
    open. owners: the poll events, by descriptor, that mean that the owner is gone. too_many_files: called
    four times per second.

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
    for descriptor, buffer in kept.items():  # output of the last moment
        while len(buffer) <= most[descriptor] and _read(descriptor, buffer):
            pass
        if cause == "ended" and len(buffer) > most[descriptor]:
            cause = "output"
    return Watched(cause, *(bytes(kept[d][: most[d]]) for d in (stdout, stderr)))


def execution_of(
    watched: Watched, code: int | None, limits: Limits, *, seconds: float, used: float, starved: bool
) -> Execution:
    """Return the verdict on a run that started.

    code: exit code, or minus a signal's number; None if unknown. used: processor seconds. starved: the kernel
    ran out of memory meanwhile. A program killed then was within its limits, so the machine is at fault.
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
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if number == signal.SIGXCPU or (number == signal.SIGKILL and used >= limits.cpu_seconds):
            return Verdict.CPU, f"used {limits.cpu_seconds} s of processor time"
        if number == signal.SIGKILL and starved:
            return Verdict.INFRA, "killed by the kernel: this machine ran out of memory (fewer workers?)"
        if b"bad_alloc" in watched.stderr:
            return Verdict.MEMORY, last
        return Verdict.SIGNAL, f"ended by {name}"
    if last.startswith("MemoryError") or b"out of memory" in watched.stderr[-2000:]:
        return Verdict.MEMORY, last
    return Verdict.ERROR, last or f"exit code {code}"


def _read(descriptor: int, buffer: bytearray) -> bool:
    """Append what can be read; False if nothing can, or at the end."""
    with contextlib.suppress(BlockingIOError):
        part = os.read(descriptor, 65536)
        buffer += part
        return bool(part)
    return False
