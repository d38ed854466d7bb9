"""A run in a process of its own: started, followed, ended, and nothing left of it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from r1kit.sandbox import linux
from r1kit.sandbox.bubblewrap import BOX
from r1kit.sandbox.enclosure import Enclosure
from r1kit.sandbox.frames import Reply, Request
from r1kit.sandbox.spawn import STATUS
from r1kit.sandbox.verdicts import Execution, Verdict
from r1kit.sandbox.watch import execution_of, watch

PAYLOAD, PRODUCT = 3, 4  # as in boot.py
BOOT = Path(__file__).with_name("boot.py")
_KILL_SECONDS = 2


class OneShotRunner:
    """Runs requests one after the other, each in a fresh enclosure. boot: the text of BOOT."""

    def __init__(self, enclosure: Enclosure, boot: str) -> None:
        self.enclosure, self.boot = enclosure, boot

    def run(self, request: Request, owners: Mapping[int, int]) -> Reply:
        """Run once. Whatever the program started is gone when this returns.

        Raises:
            Abandoned: nobody waits for the result; the program has been ended.
            OSError, TimeoutError: trouble of ours.
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
        """Nothing outlives a run."""

    def _run(
        self, request: Request, owners: Mapping[int, int], folder: str | None, cleanup: contextlib.ExitStack
    ) -> Reply:
        def kept(descriptor: int) -> int:
            cleanup.callback(os.close, descriptor)
            return descriptor

        payload = kept(linux.memory_file(request.payload or b"\n"))
        product = kept(linux.memory_file(sealed=False))
        stdin = kept(linux.memory_file(request.stdin))
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
        starved_before, began = linux.oom_kills(), time.monotonic()
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
            statuses, used, left = linux.reap(report.inner())
        code = report.exit_code() if self.enclosure.namespaces else os.waitstatus_to_exitcode(statuses[pid])
        starved = linux.oom_kills() > starved_before
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
    """What bubblewrap (JSON), or a start that failed (an error's text), wrote to STATUS."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._text = descriptor, b""
        os.set_blocking(descriptor, False)

    def inner(self) -> int | None:
        """The pid of the enclosure's init; None without one."""
        return self._value(b"child-pid")

    def exit_code(self) -> int | None:
        """The program's exit code, or minus the signal that ended it; None if there was none."""
        code = self._value(b"exit-code")
        return code if code is None or not 128 < code <= 128 + signal.NSIG else 128 - code

    def trouble(self) -> str:
        """What kept the program from being started."""
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
    """How many files are on the scratch disk of the enclosure with this init: bubblewrap sets no limit."""
    try:
        disk = os.statvfs(f"/proc/{inner}/root{BOX}")
    except OSError:  # no such disk, or it is not there yet, or no longer
        return 0
    return disk.f_files - disk.f_ffree


def _end(pid: int, inner: int | None, ended: int) -> None:
    """Kill the enclosure's init first: bubblewrap then ends by itself and leaves no zombie to others."""
    with contextlib.suppress(ProcessLookupError):
        if inner is not None:
            os.kill(inner, signal.SIGKILL)
            select.select([ended], [], [], _KILL_SECONDS)
        os.killpg(pid, signal.SIGKILL)
