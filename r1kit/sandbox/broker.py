"""The process between a training and the programs it runs, one per worker: `Broker` starts and uses one.

To find every process that a program started, a process must adopt orphans (as a subreaper) and wait for all
of them; a training or a Jupyter kernel that did so would also wait for children of other code. So a broker
does it, one run at a time. It gives up root before it starts a program, its environment is empty, and when
its owner hangs up or dies, it ends together with everything under it. `main` is the broker's own side.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from r1kit.sandbox import kernel
from r1kit.sandbox.enclosure import STATUS, UNSAFE, Enclosure, Interpreter, spawn
from r1kit.sandbox.execution import (
    Execution,
    Reply,
    Request,
    Verdict,
    receive,
    receive_reply,
    receive_request,
    send,
    send_reply,
    send_request,
)
from r1kit.sandbox.forking import SERVER, ForkingRunner
from r1kit.sandbox.one_shot import BOOT, Abandoned, OneShotRunner

PACKAGE_FOLDER = str(Path(__file__).parents[2])
_START = "import sys; sys.path.insert(0, sys.argv[1]); from r1kit.sandbox.broker import main; \
main(int(sys.argv[2]), int(sys.argv[3]))"
_START_SECONDS = 60  # usually half a second, much more on a cold network disk
_GRACE_SECONDS = 60  # beyond a run's wall clock: starting and ending on a busy machine
_END_SECONDS = 15


class BrokerError(RuntimeError):
    """The broker cannot work here; the message says why."""


@dataclass(frozen=True)
class Configuration:
    """How a broker encloses programs. bubblewrap: its path, or "". interpreters: Pythons to try, in order."""

    tier: str
    bubblewrap: str
    interpreters: tuple[str, ...]
    fork_server: bool = False


class Broker:
    """One broker process, as its owner sees it. Only one thread may use it at a time.

    Raises:
        BrokerError: it started but cannot work here; the message is its reason.
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
                start_new_session=True,  # Ctrl-C in a terminal goes to the owner only
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
        """Run once. Raise OSError or EOFError if the broker is lost, which makes it unusable."""
        self._connection.settimeout(request.limits.wall_seconds + _GRACE_SECONDS)
        send_request(self._connection, request)
        return receive_reply(self._connection)

    def hang_up(self) -> None:
        """Make the broker end its run and itself; callable from any thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up and wait until it has ended everything under it; if it fails to, kill all of that here."""
        self.hang_up()
        if self._process.returncode is None:
            if not _ended(self._process.pid, _END_SECONDS):
                self._process.kill()
                _ended(self._process.pid, _END_SECONDS)
            kernel.end_session(self._process.pid)  # before waiting frees the number of the session
            self._process.wait()
        self._connection.close()

    def forget(self) -> None:
        """Drop the parent's broker in a forked child; an open copy would hide the parent's end from it."""
        self._connection.close()
        self._process.returncode = 0  # the parent waits for it


def _ended(pid: int, seconds: float) -> bool:
    """Check that the child ends in time, without reaping it."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _environment() -> dict[str, str]:
    """Minimal environment: only what a module or conda Python needs to find libpython."""
    names = ("LD_LIBRARY_PATH", "PYTHONHOME")
    return {"PATH": os.defpath, "LANG": "C.UTF-8", **{n: os.environ[n] for n in names if n in os.environ}}


_ASK = (
    "import json, os, site, sys; v = sys.version_info; print(json.dumps([os.path.realpath(sys.executable), \
v[:3], site.getsitepackages(), sys.base_prefix, sys.base_exec_prefix]))"
)
OLDEST = (3, 9)  # has all that boot.py and fork_server.py use
_OOM_SCORE = 500  # if memory runs out, a program goes before the training


def main(descriptor: int, parent: int) -> None:
    """Serve runs over the socket `descriptor` until `parent` hangs up or ends."""
    os.set_inheritable(descriptor, False)  # a program that had it could ask for runs
    connection = socket.socket(fileno=descriptor)
    try:
        owner = os.pidfd_open(parent)
        if os.getppid() != parent:
            return
        worker = _prepare(connection)
    except (LookupError, OSError) as error:
        send(connection, {"error": str(error)})
        return
    owners = {connection.fileno(): select.POLLRDHUP, owner: select.POLLIN}
    try:
        while True:
            _wait(connection, owner)
            request = receive_request(connection)
            try:
                reply = worker.run(request, owners)
            except (OSError, ValueError, EOFError) as error:
                detail = f"{type(error).__name__}: {error}"
                reply = Reply(Execution(Verdict.INFRA, detail=detail))
            send_reply(connection, reply)
    except (Abandoned, EOFError, ConnectionError):
        pass  # the owner is gone, and the broker ends
    finally:
        worker.close()
        kernel.reap()


def _prepare(connection: socket.socket) -> OneShotRunner | ForkingRunner:
    """Receive the configuration, give up root, and make the runner."""
    configuration, _ = receive(connection)
    boot, server = (
        BOOT.read_text(),
        SERVER.read_text(),
    )  # while still root: the folder may be closed to others
    kernel.become_subreaper()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(_OOM_SCORE))
    user = kernel.become_spare_user()
    interpreter = find_interpreter(configuration["interpreters"], user)
    enclosure = Enclosure(configuration["tier"], interpreter, configuration["bubblewrap"])
    forks = configuration["fork_server"] and enclosure.tier != UNSAFE
    worker = ForkingRunner(enclosure, boot, server) if forks else OneShotRunner(enclosure, boot)
    send(connection, {"user": user, "interpreter": interpreter.path, "version": interpreter.version})
    return worker


def find_interpreter(candidates: list[str], user: str) -> Interpreter:
    """Return the first Python of `candidates` that this process's user can start.

    A virtual environment's Python may be in root's closed home, which a spare user cannot reach.

    Raises:
        LookupError: none can be started.
    """
    for path in candidates:
        answer = _output([path, "-I", "-S", "-c", _ASK])
        with contextlib.suppress(ValueError):
            real, version, packages, *prefixes = json.loads(answer)
            if tuple(version) < OLDEST:
                continue
            packages = [folder for folder in packages if os.path.isdir(folder)]
            folders = [os.path.join(prefix, name) for prefix in prefixes for name in ("lib", "lib64")]
            folders += packages
            roots = [
                folder
                for folder in dict.fromkeys(map(os.path.realpath, folders))
                if os.path.isdir(folder) and not f"{folder}/".startswith(("/usr/lib/", "/usr/lib64/"))
            ]
            return Interpreter(real, ".".join(map(str, version)), tuple(roots), tuple(packages))
    oldest, tried = ".".join(map(str, OLDEST)), ", ".join(candidates)
    raise LookupError(
        f"no Python from {oldest} on that {user} can start (tried {tried}): install the system's python3, "
        "or start r1kit as an ordinary user"
    )


def _output(command: list[str]) -> bytes:
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        pid = spawn(command, {"PATH": "/usr/bin:/bin"}, {0: null, 1: write, 2: null, STATUS: null})
        os.close(write)
        with open(read, "rb") as file:
            text = file.read()
        os.waitpid(pid, 0)
        return text
    finally:
        os.close(null)


def _wait(connection: socket.socket, owner: int) -> None:
    """Wait for a request. Raise EOFError if the owner ended: another process may hold its socket open."""
    ready, _, _ = select.select([connection, owner], [], [])
    if owner in ready:
        raise EOFError("the owner ended")
