"""Runs through a fork server: one warm interpreter in one enclosure, forked for each program.

It saves the largest costs of a run: namespaces and the start of Python. In exchange:

- Runs of one server share the namespaces of processes and users. A program has no /proc (so no
  /dev/stdin either), cannot signal any process but itself, and has a mount namespace, a scratch disk and
  limits of its own.
- They share the server's hash seed and memory layout: a program that knows one run's addresses knows the next
  run's.
- The tier without namespaces has no scratch disk, as in a one-shot run.

The server is replaced after RUNS_PER_SERVER runs, and when it does not answer. Binaries and compilers get a
fresh enclosure each (`OneShotRunner`).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from r1kit.sandbox import kernel
from r1kit.sandbox.enclosure import STATUS, Enclosure
from r1kit.sandbox.execution import MIB, Execution, Limits, Reply, Request, Verdict
from r1kit.sandbox.one_shot import OneShotRunner, execution_of, watch

SERVER = Path(__file__).with_name("fork_server.py")
RUNS_PER_SERVER = 500
_START_SECONDS, _ANSWER_SECONDS = 30, 5
_CONTROL = 3


class ForkingRunner:
    """Runs Python programs in children of a fork server, everything else in a fresh enclosure.

    boot, server: the texts of BOOT and SERVER.
    """

    def __init__(self, enclosure: Enclosure, boot: str, server: str) -> None:
        self.enclosure, self.server = enclosure, server
        self.one_shot = OneShotRunner(enclosure, boot)
        self._control: socket.socket | None = None
        self._runs = 0

    def run(self, request: Request, owners: Mapping[int, int]) -> Reply:
        """Run once, as `OneShotRunner.run` does."""
        if request.kind != "python":
            self.close()  # `OneShotRunner` ends everything under this process, the server too
            return self.one_shot.run(request, owners)
        try:
            return self._run(request, owners)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the server and what it runs."""
        if self._control is not None:
            self._control.close()
            self._control = None
            kernel.reap()

    def _run(self, request: Request, owners: Mapping[int, int]) -> Reply:
        if self._runs >= RUNS_PER_SERVER:
            self.close()
        control = self._control or self._start()
        self._runs += 1
        with contextlib.ExitStack() as cleanup:
            payload = kernel.memory_file(request.payload or b"\n")
            stdin = kernel.memory_file(request.stdin)
            (stdout, program_stdout), (stderr, program_stderr) = os.pipe(), os.pipe()
            for descriptor in (payload, stdin, stdout, stderr):
                cleanup.callback(os.close, descriptor)
            scratch = request.limits.scratch_bytes if self.enclosure.scratch else 0
            order = {"limits": self.enclosure.limits(request.limits), "scratch": scratch}
            order["files"] = request.limits.scratch_files
            starved_before, began = kernel.oom_kills(), time.monotonic()
            try:
                streams = [stdin, program_stdout, program_stderr, payload]
                socket.send_fds(control, [json.dumps(order).encode()], streams)
            finally:
                os.close(program_stdout)
                os.close(program_stderr)
            watched = watch(stdout, stderr, control.fileno(), request.limits, owners)
            seconds = time.monotonic() - began
            if watched.cause != "ended":
                control.send(b"kill")
            status, used = json.loads(self._answer(control, _ANSWER_SECONDS))
            code = os.waitstatus_to_exitcode(status)
            if os.lseek(payload, 0, os.SEEK_CUR) == 0:
                said = watched.stderr.decode("utf-8", "replace")[-300:] or f"exit code {code}"
                return Reply(Execution(Verdict.INFRA, seconds=seconds, detail=f"did not start: {said}"))
            starved = kernel.oom_kills() > starved_before
            return Reply(
                execution_of(watched, code, request.limits, seconds=seconds, used=used, starved=starved)
            )

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = os.open(os.devnull, os.O_RDWR)
        errors = kernel.memory_file(sealed=False)
        # Runs of one server share its process numbers in any tier.
        filter_ = kernel.build_filter(shared_pids=True, shared_files=not self.enclosure.namespaces)
        arguments = [filter_.hex(), str(kernel.PID_PLACEHOLDER), str(kernel.CAPSET[platform.machine()])]
        arguments += [":".join(self.enclosure.interpreter.packages)]
        try:
            self.enclosure.start(
                self.server,
                arguments,
                {0: null, 1: null, 2: errors, _CONTROL: theirs.fileno(), STATUS: errors},
                limits=Limits(scratch_bytes=MIB),
                forks=True,
            )
            theirs.close()
            try:
                self._answer(ours, _START_SECONDS)
            except EOFError:
                said = os.pread(errors, 1 << 16, 0).decode("utf-8", "replace").strip()[-300:]
                raise OSError(f"the fork server did not start: {said}") from None
        except BaseException:
            ours.close()
            kernel.reap()
            raise
        finally:
            theirs.close()
            os.close(null)
            os.close(errors)
        self._control, self._runs = ours, 0
        return ours

    def _answer(self, control: socket.socket, seconds: float) -> bytes:
        if not select.select([control], [], [], seconds)[0]:
            raise TimeoutError(f"the fork server did not answer in {seconds} s")
        answer = control.recv(1 << 16)
        if not answer:
            raise EOFError("the fork server ended")
        return answer
