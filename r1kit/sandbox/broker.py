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
from r1kit.sandbox.alone import Alone
from r1kit.sandbox.enclosure import UNSAFE, Enclosure, Interpreter
from r1kit.sandbox.forking import Forking
from r1kit.sandbox.frames import Reply, receive, receive_request, send, send_reply
from r1kit.sandbox.spawn import STATUS, spawn
from r1kit.sandbox.verdicts import Execution, Verdict
from r1kit.sandbox.watch import Abandoned

_ASK = "import json, os, sys; v = sys.version_info; print(json.dumps([os.path.realpath(sys.executable), \
f'{v[0]}.{v[1]}.{v[2]}', sys.base_prefix, sys.base_exec_prefix]))"
_OOM_SCORE = 500  # if memory runs out, a program goes before the training


def main(descriptor: int, parent: int) -> None:
    """Serve runs over the socket `descriptor` until `parent` hangs up or ends."""
    connection = socket.socket(fileno=descriptor)
    owner = os.pidfd_open(parent)
    if os.getppid() != parent:
        return
    owners = {connection.fileno(): select.POLLRDHUP, owner: select.POLLIN}
    configuration, _ = receive(connection)
    linux.become_subreaper()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(_OOM_SCORE))
    worker = None
    try:
        user = linux.become_spare_user()
        interpreter = find_interpreter(configuration["interpreters"], user)
        enclosure = Enclosure(configuration["tier"], interpreter, configuration["bubblewrap"])
        forks = configuration["fork_server"] and enclosure.tier != UNSAFE
        worker = Forking(enclosure) if forks else Alone(enclosure)
        send(connection, {"user": user, "interpreter": interpreter.path, "version": interpreter.version})
        while True:
            _wait(connection, owner)
            request = receive_request(connection)
            try:
                reply = worker.run(request, owners)
            except (OSError, ValueError, EOFError) as error:
                detail = f"{type(error).__name__}: {error}"
                reply = Reply(Execution(Verdict.INFRA, detail=detail))
            send_reply(connection, reply)
    except LookupError as error:
        send(connection, {"error": str(error)})
    except (Abandoned, EOFError, ConnectionError):
        pass  # the other side is gone, and that is how a broker's life ends
    finally:
        if worker is not None:
            worker.close()
        linux.reap()


def find_interpreter(candidates: list[str], user: str) -> Interpreter:
    """The first Python of `candidates` that this process's user can start.

    A virtual environment's Python may lie in root's closed home, where a spare user cannot reach it.

    Raises:
        LookupError: there is none.
    """
    for path in candidates:
        answer = _output([path, "-I", "-S", "-c", _ASK])
        with contextlib.suppress(ValueError):
            real, version, *prefixes = json.loads(answer)
            folders = [os.path.join(prefix, name) for prefix in prefixes for name in ("lib", "lib64")]
            roots = [
                folder
                for folder in dict.fromkeys(map(os.path.realpath, folders))
                if os.path.isdir(folder) and folder not in ("/usr/lib", "/usr/lib64")
            ]
            return Interpreter(real, version, tuple(roots))
    raise LookupError(
        f"no Python that {user} can start (tried {', '.join(candidates)}): install the system's python3, "
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
