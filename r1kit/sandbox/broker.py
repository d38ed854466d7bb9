"""The process that stands between a training and the programs it runs, one for each worker.

To find every process that a program started, somebody must adopt orphans (a subreaper) and wait for whatever
ends; a training or a Jupyter kernel that did so would also wait for children of others. So a broker does it,
one run at a time. It is root no longer when it starts a program, its environment is empty, and it ends, with
everything under it, when whoever started it hangs up or dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket

from r1kit.sandbox import linux
from r1kit.sandbox.alone import BOOT, OneShotRunner
from r1kit.sandbox.enclosure import UNSAFE, Enclosure, Interpreter
from r1kit.sandbox.forking import SERVER, ForkingRunner
from r1kit.sandbox.frames import Reply, receive, receive_request, send, send_reply
from r1kit.sandbox.spawn import STATUS, spawn
from r1kit.sandbox.verdicts import Execution, Verdict
from r1kit.sandbox.watch import Abandoned

_ASK = (
    "import json, os, site, sys; v = sys.version_info; print(json.dumps([os.path.realpath(sys.executable), \
v[:3], site.getsitepackages(), sys.base_prefix, sys.base_exec_prefix]))"
)
OLDEST = (3, 9)  # with what boot.py and fork_server.py use
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
        pass  # the other side is gone, and that is how a broker's life ends
    finally:
        worker.close()
        linux.reap()


def _prepare(connection: socket.socket) -> OneShotRunner | ForkingRunner:
    """Give up what a broker must not have, and find out what it needs."""
    configuration, _ = receive(connection)
    boot, server = BOOT.read_text(), SERVER.read_text()  # perhaps from a home that is closed to others
    linux.become_subreaper()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(_OOM_SCORE))
    user = linux.become_spare_user()
    interpreter = find_interpreter(configuration["interpreters"], user)
    enclosure = Enclosure(configuration["tier"], interpreter, configuration["bubblewrap"])
    forks = configuration["fork_server"] and enclosure.tier != UNSAFE
    worker = ForkingRunner(enclosure, boot, server) if forks else OneShotRunner(enclosure, boot)
    send(connection, {"user": user, "interpreter": interpreter.path, "version": interpreter.version})
    return worker


def find_interpreter(candidates: list[str], user: str) -> Interpreter:
    """The first Python of `candidates` that this process's user can start.

    A virtual environment's Python may lie in root's closed home, where a spare user cannot reach it.

    Raises:
        LookupError: there is none.
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
    """Until a request comes. Raises EOFError if the owner ended: another process may hold its socket."""
    ready, _, _ = select.select([connection, owner], [], [])
    if owner in ready:
        raise EOFError("the owner ended")
