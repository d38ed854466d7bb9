"""A broker as its owner sees it: start it, ask it for a run, end it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from r1kit.sandbox import linux
from r1kit.sandbox.frames import Reply, Request, receive, receive_reply, send, send_request

PACKAGE_FOLDER = str(Path(__file__).parents[2])
_START = "import sys; sys.path.insert(0, sys.argv[1]); from r1kit.sandbox.broker import main; \
main(int(sys.argv[2]), int(sys.argv[3]))"
_START_SECONDS = 60  # half a second here, with an interpreter on a cold network disk much more
_GRACE_SECONDS = 60  # beyond a run's wall clock: starting and ending on a busy machine
_END_SECONDS = 15


class BrokerError(RuntimeError):
    """The broker cannot work here; the message says why."""


@dataclass(frozen=True)
class Configuration:
    """How a broker encloses programs: the tier, bubblewrap's path if it needs it, Pythons to try in order."""

    tier: str
    bubblewrap: str
    interpreters: tuple[str, ...]
    fork_server: bool = False


class Broker:
    """One broker process. Not for two threads at once.

    Raises:
        BrokerError: it started and says that it cannot work here.
        OSError, EOFError: it did not start.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            # -S: the broker needs nothing but the standard library and this package.
            python = [sys.executable, "-I", "-S", "-B", "-c", _START]
            self._process = subprocess.Popen(
                [*python, PACKAGE_FOLDER, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal is for its owner
            )
        try:
            self._connection.settimeout(_START_SECONDS)
            send(self._connection, vars(configuration))
            self.hello, _ = receive(self._connection)
        except BaseException:
            self.close()
            raise
        if "error" in self.hello:
            self.close()
            raise BrokerError(self.hello["error"])

    @property
    def pid(self) -> int:
        """The broker's process number."""
        return self._process.pid

    def ask(self, request: Request) -> Reply:
        """One run. Raises OSError or EOFError if the broker is lost; it is of no use then."""
        self._connection.settimeout(request.limits.wall_seconds + _GRACE_SECONDS)
        send_request(self._connection, request)
        return receive_reply(self._connection)

    def hang_up(self) -> None:
        """Make the broker end its run and itself; from any thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up and wait until it has ended everything under it; if it is lost, end that ourselves."""
        self.hang_up()
        if self._process.returncode is None:
            if not _ended(self._process.pid, _END_SECONDS):
                self._process.kill()
                _ended(self._process.pid, _END_SECONDS)
            linux.end_session(self._process.pid)  # before waiting frees the number of the session
            self._process.wait()
        self._connection.close()

    def forget(self) -> None:
        """In a forked child: the broker is the parent's. Closing the copy lets it notice the parent's end."""
        self._connection.close()
        self._process.returncode = 0  # not ours to wait for


def _ended(pid: int, seconds: float) -> bool:
    """True when the child has ended, which leaves it to be waited for; False if it does not in time."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _environment() -> dict[str, str]:
    """Nothing of ours, but what a Python of an environment module or conda needs to find its own library."""
    names = ("LD_LIBRARY_PATH", "PYTHONHOME")
    return {"PATH": os.defpath, "LANG": "C.UTF-8", **{n: os.environ[n] for n in names if n in os.environ}}
