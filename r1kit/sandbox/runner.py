"""`Sandbox`: a bounded number of isolated runs at once, for any thread of any process.

It uses plain blocking calls only: no event loop, no signal handler, no subreaper in the caller. So it works
in a Jupyter kernel, in threads, under `accelerate`, and after a fork, where the child starts its own brokers.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import weakref
from collections import Counter
from collections.abc import Sequence

from r1kit.sandbox import tiers
from r1kit.sandbox.broker import Broker, BrokerError
from r1kit.sandbox.execution import GIB, MIB, Execution, Limits, Request, Verdict

MOST_WORKERS = 32
COMPILER_LIMITS = Limits(
    cpu_seconds=20, wall_seconds=40, memory_bytes=2 * GIB, file_bytes=64 * MIB, scratch_bytes=128 * MIB
)
_alive: weakref.WeakSet[Sandbox] = weakref.WeakSet()


class SandboxError(RuntimeError):
    """No tier of isolation works on this machine, or not the requested one."""


class Sandbox:
    """Runs model-written programs; `run` blocks, and may be called from any number of threads.

    Args:
        workers: runs at the same time; None means all but two of the cores this process may use.
        tier: "auto", or the name of one tier, which then must work.
        unsafe: where no tier works, run programs with resource limits only.
        fork_server: keep a warm interpreter per worker and fork it for each Python program (`forking.py`
            lists the costs; the unsafe tier has none).
        limits: for runs without their own.

    The attribute `tier` is the isolation in use, with the reason. `counts` has the number of runs by verdict,
    of runs retried after a failure of the sandbox (`retried`), and of leftover processes that were killed
    (`leaked`).

    Raises:
        SandboxError: no tier works here and `unsafe` is not set, or the requested one does not work.
        ValueError: a setting that is not allowed.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        tier: str = "auto",
        fork_server: bool = False,
        unsafe: bool = False,
        limits: Limits | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"sandbox workers: found {workers}, allowed is 1 or more")
        self.workers = workers or default_workers()
        self.limits = limits or Limits()
        self.counts: Counter[str] = Counter()
        try:
            self.tier = tiers.choose(tier, unsafe=unsafe, fork_server=fork_server)
        except LookupError as error:
            raise SandboxError(str(error)) from None
        self._configuration = tiers.configuration(self.tier, fork_server)
        self._start_afresh()
        _alive.add(self)

    def run(self, source: str | bytes, stdin: bytes = b"", *, limits: Limits | None = None) -> Execution:
        """Run a Python program with `stdin`. Never raise for anything the program is or does."""
        limits = limits or self.limits
        payload = _text(source, limits)
        if isinstance(payload, Execution):
            return payload
        return self._run(Request("python", payload, stdin, limits))[0]

    def run_binary(self, binary: bytes, stdin: bytes = b"", *, limits: Limits | None = None) -> Execution:
        """Run a compiled program, as returned by `compile`."""
        return self._run(Request("binary", binary, stdin, limits or self.limits))[0]

    def compile(
        self,
        source: str | bytes,
        compiler: str = "g++",
        flags: Sequence[str] = ("-O2", "-std=c++17"),
        *,
        suffix: str = ".cpp",
        limits: Limits | None = None,
    ) -> tuple[bytes | None, Execution]:
        """Compile inside the sandbox; return the binary as bytes, or None with the compiler's error.

        Verdicts: `ok`, `error` (it does not compile), `timeout`, `cpu`, `memory` and `output` (beyond the
        limits, by default COMPILER_LIMITS), `infra` (this machine has no such compiler).
        """
        limits = limits or COMPILER_LIMITS
        payload = _text(source, limits)
        if isinstance(payload, Execution):
            return None, payload
        path = shutil.which(compiler)
        if path is None:
            return None, Execution(Verdict.INFRA, detail=f"no {compiler} on this machine")
        command = (path, *flags, "-o", "program", "main" + suffix)
        execution, product = self._run(Request("compile", payload, b"", limits, command))
        return (product if execution.verdict is Verdict.OK else None), execution

    def close(self) -> None:
        """End every process of this sandbox. Runs in progress end as `infra`, and so do later ones."""
        self._closed = True
        with self._lock:
            brokers = list(self._brokers)
        for broker in brokers:
            broker.hang_up()
        for _ in range(self.workers):  # a slot comes back when its run has ended
            self._end(self._slots.get())
        for _ in range(self.workers):
            self._slots.put(None)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def broker_pids(self) -> list[int]:
        """The process ids of the workers that have run something."""
        with self._lock:
            return [broker.pid for broker in self._brokers]

    def _start_afresh(self) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._brokers: set[Broker] = set()
        self._slots: queue.LifoQueue[Broker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._slots.put(None)

    def _run(self, request: Request) -> tuple[Execution, bytes]:
        broker = self._slots.get()
        execution, product = Execution(Verdict.INFRA, detail="the sandbox was closed"), b""
        try:
            for attempt in range(2):
                if self._closed:
                    break
                try:
                    if broker is None:
                        broker = self._begin()
                    reply = broker.ask(request)
                    execution, product = reply.execution, reply.product
                    self._count("leaked", reply.leaked)
                except BrokerError as error:
                    execution = Execution(Verdict.INFRA, detail=str(error))
                except (OSError, EOFError) as error:
                    execution = Execution(Verdict.INFRA, detail=f"the sandbox lost its broker: {error}")
                    broker = self._end(broker)
                if execution.verdict is not Verdict.INFRA:
                    break
                self._count("retried", 1 - attempt)
            self._count(execution.verdict)
            return execution, product
        except BaseException:  # Ctrl-C: the next run must not receive this run's reply
            broker = self._end(broker)
            raise
        finally:
            self._slots.put(broker)

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def _begin(self) -> Broker:
        broker = Broker(self._configuration)
        with self._lock:
            self._brokers.add(broker)
        return broker

    def _end(self, broker: Broker | None) -> None:
        if broker is not None:
            broker.close()
            with self._lock:
                self._brokers.discard(broker)


def default_workers() -> int:
    """Return the cores that this process may use minus two, at least 2 and at most MOST_WORKERS."""
    try:
        from r1kit.machine.resources import cores  # counts a container's quota, but needs psutil

        usable = cores()
    except ImportError:
        usable = len(os.sched_getaffinity(0))
    return max(2, min(usable - 2, MOST_WORKERS))


def _text(source: str | bytes, limits: Limits) -> bytes | Execution:
    """Return the source as bytes, or a refusal with the reason."""
    try:
        payload = source.encode() if isinstance(source, str) else source
    except UnicodeEncodeError as error:
        return Execution(Verdict.REFUSED, detail=f"not a text: {error.reason} at {error.start}")
    if len(payload) > limits.source_bytes:
        return Execution(Verdict.REFUSED, detail=f"{len(payload)} bytes, allowed are {limits.source_bytes}")
    if b"\0" in payload:
        return Execution(Verdict.REFUSED, detail="a NUL in the source")
    return payload


def _after_fork() -> None:
    """Start afresh in a forked child, which must share neither locks nor brokers with its parent."""
    for sandbox in list(_alive):
        for broker in sandbox._brokers:
            broker.forget()
        sandbox._start_afresh()


os.register_at_fork(after_in_child=_after_fork)
