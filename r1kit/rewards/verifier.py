"""math-verify behind a pipe: bounded in time and memory, from any thread, in Jupyter and in training workers.

math-verify bounds its work with `signal.alarm`, which exists in the main thread only; TRL's way out (no
timeout elsewhere) lets one hostile answer hang a training. Here it runs in a child process that is replaced
when it hangs or dies. One child per process, started at the first answer that is not a plain number.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

PROGRAM = Path(__file__).with_name("verifier_process.py")
START_SECONDS = 120  # importing sympy takes one second here, a minute from a cold network disk
ANSWER_SECONDS = 12  # a little more than the child allows itself

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_child: subprocess.Popen | None = None
_owner = 0


def verify(gold: str, answer: str) -> float | None:
    """1.0 if answer equals gold, 0.0 if it does not, None if gold cannot be parsed.

    An answer that takes too long or breaks the verifier is wrong (0.0): were it None, writing such answers
    would be a way out of a low reward. A gold that does is unjudgeable (None), and so is every row when the
    verifier cannot be reached: trouble of ours is never a 0.

    Raises:
        ImportError: math-verify is not installed, or its process cannot start.
    """
    request = json.dumps({"gold": gold, "answer": answer}).encode() + b"\n"
    with _lock:
        for _ in range(2):  # once more if the child had died since its last request
            child = _running()
            try:
                child.stdin.write(request)
                child.stdin.flush()
            except OSError:
                stop()
                continue
            first = _read(child, ANSWER_SECONDS)
            if first == b"n":
                return None
            if first == b"g":
                second = _read(child, ANSWER_SECONDS)
                if second not in (b"0", b"1"):
                    stop()
                    _log.warning("an answer was not verified in %d s and counts as wrong", ANSWER_SECONDS)
                return 1.0 if second == b"1" else 0.0
            stop()
        _log.warning("a gold solution could not be parsed: its row cannot be judged")
        return None


def stop() -> None:
    """End the child process, if any; the next `verify` starts a new one."""
    global _child
    if _child is not None and _owner == os.getpid():
        _child.kill()
        _child.wait()
        _child.stdin.close()
        _child.stdout.close()
    _child = None


def _running() -> subprocess.Popen:
    """The live child of this very process (a fork inherits the handle, but must not share the pipe)."""
    global _child, _owner
    if _child is not None and _owner == os.getpid() and _child.poll() is None:
        return _child
    stop()
    # -P: the program's own folder holds a format.py that must not shadow anything.
    _child = subprocess.Popen(
        [sys.executable, "-P", str(PROGRAM)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=-1,
    )  # fmt: skip
    _owner = os.getpid()
    if _read(_child, START_SECONDS) != b"r":
        stop()
        raise ImportError(
            f"math-verify could not be started (`{sys.executable} -P {PROGRAM}` shows why); "
            "install it with `pip install math-verify`"
        )
    return _child


def _forked() -> None:
    """A fork may happen while another thread holds the lock, and its copy would never be released."""
    global _lock
    _lock = threading.Lock()


def _read(child: subprocess.Popen, seconds: float) -> bytes:
    """One byte from the child; empty if it ended or did not answer in time."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([child.stdout], [], [], left)[0]:
            return os.read(child.stdout.fileno(), 1)
    return b""


atexit.register(stop)
os.register_at_fork(after_in_child=_forked)
