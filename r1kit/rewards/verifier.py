"""math-verify in a few child processes, bounded in time and memory, for any thread, notebook or trainer.

math-verify limits its time with `signal.alarm`, which works in the main thread only; TRL's workaround (no
timeout elsewhere) lets one hostile answer hang a training. Here it runs in processes (`verifier_process.py`)
that are replaced when they hang or die. The first one starts with the first pair that the exact rules cannot
decide; further ones, up to one per core, start when a batch has enough such pairs. The child of a fork starts
processes of its own. `verify_all` is the entry point.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from r1kit.machine.resources import cores

PROGRAM = Path(__file__).with_name("verifier_process.py")
START_SECONDS = 120  # importing sympy can take a minute from a cold network disk
ANSWER_SECONDS = 60  # of wall time, for a child that waits; the child itself bounds its CPU time far below
_KILLED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT)


MOST_WORKERS = 4
PAIRS_PER_WORKER = 24  # starting a process costs as much CPU time as about a hundred verdicts
_MOST_REMEMBERED = 50_000

_log = logging.getLogger(__name__)
_lock = threading.Lock()  # guards the lists below, never held while a child works
_running: set[Child] = set()
_idle: list[Child] = []  # the children in _running that are not at work
_places = threading.BoundedSemaphore(MOST_WORKERS)  # bounds the children for any number of threads
_verdicts: dict[tuple[str, str], float] = {}
_unjudgeable: dict[str, None] = {}


def verify(gold: str, answer: str) -> float | None:
    """Judge one pair; see `verify_all`."""
    return verify_all([(gold, answer)])[0]


def verify_all(pairs: Sequence[tuple[str, str]], workers: int | None = None) -> list[float | None]:
    """Judge pairs: 1.0 if the answer equals its gold, 0.0 if not, None if the gold cannot be understood.

    An answer that takes too long or breaks the verifier is wrong (0.0): with None, a model could write such
    answers to avoid a low reward. A gold that does so is unjudgeable (None), and so is a pair whose verifier
    was killed from outside twice: the machine's fault must not become a 0.

    Args:
        pairs: (gold, answer) texts; equal pairs are judged once, and verdicts are remembered.
        workers: the most processes to use; None means `most_workers()`.

    Raises:
        ImportError: math-verify is not installed, or its process cannot start.
    """
    pending = [pair for pair in dict.fromkeys(pairs) if pair not in _verdicts and pair[0] not in _unjudgeable]
    found: dict[tuple[str, str], float | None] = {}
    with _lock:
        running = len(_idle)
    wanted = max(1 + len(pending) // PAIRS_PER_WORKER, min(running, len(pending)))
    wanted = min(workers or most_workers(), wanted)
    if wanted > 1:
        with ThreadPoolExecutor(wanted, thread_name_prefix="verifier") as threads:
            found.update(zip(pending, threads.map(_judged, pending), strict=True))
    else:
        found.update((pair, _judged(pair)) for pair in pending)
    return [found[pair] if pair in found else _verdicts.get(pair) for pair in pairs]


def most_workers() -> int:
    """Return this process's share of the cores, at least 1 and at most 4."""
    return max(1, min(MOST_WORKERS, cores() // local_processes()))


def local_processes() -> int:
    """Return how many training processes share this host (LOCAL_WORLD_SIZE), at least 1."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(local) if local.isdigit() else 1)


def warm_up(workers: int | None = None) -> None:
    """Start processes now, up to 4 in total, so that no batch waits for them."""
    while len(children()) < min(workers or most_workers(), MOST_WORKERS):
        _idle.append(_started())


def stop() -> None:
    """End the idle processes and forget all verdicts; the next pair starts a new process."""
    forget()
    with _lock:
        ended, _idle[:] = _idle[:], []
    for child in ended:
        _end(child)


def forget() -> None:
    """Forget all verdicts."""
    with _lock:
        _verdicts.clear()
        _unjudgeable.clear()


def children() -> list[int]:
    """Return the process ids of the verifiers that run now."""
    with _lock:
        return [child.process.pid for child in _running]


def _judged(pair: tuple[str, str]) -> float | None:
    for _ in range(2):  # a second time if the child was killed from outside
        if pair[0] in _unjudgeable:
            return None
        child = _taken()
        byte, killed = b"", True
        try:
            byte, killed = child.ask(*pair)
        finally:
            _returned(child, sound=byte in (b"n", b"0", b"1"))
        if not killed:
            return _remembered(pair, byte)
    _log.warning("the verifier was killed twice: a row cannot be judged")
    return None


def _remembered(pair: tuple[str, str], byte: bytes) -> float | None:
    if byte in (b"n", b""):
        if not byte:
            _log.warning("a gold solution took too long to understand: its rows cannot be judged")
        _unjudgeable[pair[0]] = None
        return None
    if byte == b"g":
        _log.warning("an answer took too long to verify and counts as wrong")
    with _lock:
        if len(_verdicts) >= _MOST_REMEMBERED:
            for old in list(_verdicts)[: _MOST_REMEMBERED // 2]:
                del _verdicts[old]
        _verdicts[pair] = float(byte == b"1")
    return float(byte == b"1")


def _taken() -> Child:
    _places.acquire()
    try:
        while True:
            with _lock:
                child = _idle.pop() if _idle else None
            if child is None:
                return _started()
            if child.process.poll() is None:
                return child
            _end(child)
    except BaseException:
        _places.release()
        raise


def _returned(child: Child, sound: bool) -> None:
    if sound:
        with _lock:
            _idle.append(child)
    else:
        _end(child)
    _places.release()


def _started() -> Child:
    child = Child()
    with _lock:
        _running.add(child)
    return child


def _end(child: Child) -> None:
    with _lock:
        _running.discard(child)
    child.end()


def _forked() -> None:
    """In the child of a fork: the processes are the parent's, and another thread may have held the lock."""
    global _lock, _places
    _lock, _places = threading.Lock(), threading.BoundedSemaphore(MOST_WORKERS)
    for child in _running:
        child.close_pipes()
    _running.clear()
    _idle.clear()


class Child:
    """One process with math-verify, which judges one pair at a time."""

    def __init__(self) -> None:
        # -P: the program's own folder holds a format.py that must not shadow anything.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip
        if self._read(START_SECONDS) != b"r":
            self.end()
            raise ImportError(
                f"math-verify could not be started (`{sys.executable} -P {PROGRAM}` shows why); "
                "install it with `pip install math-verify`"
            )

    def ask(self, gold: str, answer: str) -> tuple[bytes, bool]:
        """Return the child's last byte, and whether it was killed from outside.

        `n`: the gold cannot be understood. `1` or `0`: equal or not. `g`: the child hung or died over the
        answer. Empty: over the gold. If it was killed from outside, the missing verdict says nothing.
        """
        try:
            self.process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
        except OSError:
            return b"", True  # it had died before this request
        byte = self._read(ANSWER_SECONDS)
        if byte == b"g":
            byte = self._read(ANSWER_SECONDS) or b"g"
        if byte in (b"n", b"0", b"1"):
            return byte, False
        try:
            return byte, self.process.wait(0.5) in _KILLED_FROM_OUTSIDE
        except subprocess.TimeoutExpired:
            return byte, False

    def end(self) -> None:
        """Kill the process and close the pipes to it."""
        self.process.kill()
        self.process.wait()
        self.close_pipes()

    def close_pipes(self) -> None:
        """Close this side of the pipes."""
        self.process.stdin.close()
        self.process.stdout.close()

    def _read(self, seconds: float) -> bytes:
        """Read one byte; empty if the process ended or did not answer in time."""
        poll = select.poll()  # select() itself refuses descriptors beyond 1023
        poll.register(self.process.stdout, select.POLLIN)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                return self.process.stdout.read(1)
        return b""


atexit.register(stop)
os.register_at_fork(after_in_child=_forked)
