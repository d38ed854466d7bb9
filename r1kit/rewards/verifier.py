"""math-verify in a few processes, bounded in time and memory, for any thread, notebook or training worker.

math-verify bounds its work with `signal.alarm`, which exists in the main thread only; TRL's way out (no
timeout elsewhere) lets one hostile answer hang a training. Here it runs in child processes that are replaced
when they hang or die. The first starts at the first pair that the exact rules don't decide; more, up to one
a core, when a batch brings enough of them. A fork starts its own.

The parent's side of one process with math-verify: start it, ask it, end it.
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
START_SECONDS = 120  # importing sympy takes one second here, a minute from a cold network disk
ANSWER_SECONDS = 60  # of wall time; the child bounds its CPU time far below, this is for a child that waits
_KILLED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT)


class Child:
    """One process with math-verify: `ask` it one pair at a time."""

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
        """The child's last byte (`n`, `0`, `1`; `g` if it hung or died over the answer, empty over the gold).

        The second value tells whether the child was killed from outside, so that its silence says nothing.
        """
        try:
            self.process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
        except OSError:
            return b"", True  # it had died before this request
        said = self._read(ANSWER_SECONDS)
        if said == b"g":
            said = self._read(ANSWER_SECONDS) or b"g"
        if said in (b"n", b"0", b"1"):
            return said, False
        try:
            return said, self.process.wait(0.5) in _KILLED_FROM_OUTSIDE
        except subprocess.TimeoutExpired:
            return said, False

    def end(self) -> None:
        """Kill the process and forget its pipes."""
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this side of the pipes."""
        self.process.stdin.close()
        self.process.stdout.close()

    def _read(self, seconds: float) -> bytes:
        """One byte; empty if the process ended or did not answer in time."""
        poll = select.poll()  # select() itself refuses descriptors beyond 1023
        poll.register(self.process.stdout, select.POLLIN)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                return self.process.stdout.read(1)
        return b""


MOST_WORKERS = 4
PAIRS_PER_WORKER = 24  # starting a process costs as much CPU time as some hundred verdicts
_MOST_REMEMBERED = 50_000

_log = logging.getLogger(__name__)
_lock = threading.Lock()  # guards the lists below, never held while a child works
_running: set[Child] = set()
_idle: list[Child] = []  # those of them that are not at work
_places = threading.BoundedSemaphore(MOST_WORKERS)  # however many threads judge at once
_verdicts: dict[tuple[str, str], float] = {}
_unjudgeable: dict[str, None] = {}


def verify(gold: str, answer: str) -> float | None:
    """`verify_all` of one pair."""
    return verify_all([(gold, answer)])[0]


def verify_all(pairs: Sequence[tuple[str, str]], workers: int | None = None) -> list[float | None]:
    """1.0 for each answer that equals its gold, 0.0 for one that does not, None if the gold isn't understood.

    An answer that takes too long or breaks the verifier is wrong (0.0): were it None, writing such answers
    would be a way out of a low reward. A gold that does is unjudgeable (None), and so is a row whose verifier
    was killed from outside twice: trouble of ours is never a 0.

    Args:
        pairs: (gold, answer) as texts; equal pairs are judged once, and verdicts are remembered.
        workers: processes to use at most; the cores this process may use, at most 4, if left out.

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
    """Processes for each training process: the cores shared by the local ones, at least 1, at most 4."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, min(MOST_WORKERS, cores() // max(1, int(local) if local.isdigit() else 1)))


def warm_up(workers: int | None = None) -> None:
    """Start processes now, at most 4 in all, so that no batch waits for them."""
    while len(children()) < min(workers or most_workers(), MOST_WORKERS):
        _idle.append(_started())


def stop() -> None:
    """End the processes that are not at work, and forget the verdicts; the next pair starts a new process."""
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
    """Process numbers of the verifiers that run now."""
    with _lock:
        return [child.process.pid for child in _running]


def _judged(pair: tuple[str, str]) -> float | None:
    gold, answer = pair
    for _ in range(2):  # once more if the child was killed by someone else
        if gold in _unjudgeable:
            return None
        child = _taken()
        said, killed = b"", True
        try:
            said, killed = child.ask(gold, answer)
        finally:
            _returned(child, sound=said in (b"n", b"0", b"1"))
        if not killed:
            return _remembered(pair, said)
    _log.warning("the verifier was killed twice: a row cannot be judged")
    return None


def _remembered(pair: tuple[str, str], said: bytes) -> float | None:
    if said in (b"n", b""):
        if not said:
            _log.warning("a gold solution took too long to understand: its rows cannot be judged")
        _unjudgeable[pair[0]] = None
        return None
    if said == b"g":
        _log.warning("an answer took too long to verify and counts as wrong")
    with _lock:
        if len(_verdicts) >= _MOST_REMEMBERED:
            for old in list(_verdicts)[: _MOST_REMEMBERED // 2]:
                del _verdicts[old]
        _verdicts[pair] = float(said == b"1")
    return float(said == b"1")


def _taken() -> Child:
    """An idle child that lives, or a new one; the caller's alone until `_returned`."""
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
    """In a fork: the children are the parent's, and a lock held by another thread would never be released."""
    global _lock, _places
    _lock, _places = threading.Lock(), threading.BoundedSemaphore(MOST_WORKERS)
    for child in _running:
        child.forget()
    _running.clear()
    _idle.clear()


atexit.register(stop)
os.register_at_fork(after_in_child=_forked)
