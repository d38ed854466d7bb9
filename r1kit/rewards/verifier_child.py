"""The parent's side of one process with math-verify: start it, ask it, end it."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

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
