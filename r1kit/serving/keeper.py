"""`python -m r1kit.serving.keeper SERVER/resolved.yaml`: start the vLLM servers, watch them, start dead ones
again.

It runs under our supervisor, so that nothing it starts outlives the notebook or command that asked for it.
What it knows is in `SERVER/server.json`, rewritten at every change:

    {"state": "starting|ready|restarting|failed|stopped", "message", "urls", "pids", "model", "fingerprint",
     "started", "restarts", "keeper", "log"}

Only a server that was ready once is started again: one that cannot start will not start the next time either.
A server may also be alive and stuck, with /health still answering. Then the trainer, who waits in vain, asks
for a restart through a file (`server.ask_restart`). SIGTERM ends the servers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from r1kit.runs import outcome, processes, weight_versions
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.weight_versions import model_fingerprint
from r1kit.serving import diagnosis
from r1kit.serving.command import make_secret, server_command, server_environment
from r1kit.serving.server import RESTART, STATE
from r1kit.serving.session import ServerTrouble, Session, healthy, served_model
from r1kit.settings import yaml_load
from r1kit.settings.machine import MachineSettings

LOOK_SECONDS = 0.25  # between two looks at the processes
ASK_STARTING_SECONDS, ASK_READY_SECONDS = 0.5, 2.0  # between two questions to /health
ANSWER_SECONDS = 5.0  # for one answer of /health
SWEEP_SECONDS = 10.0  # between two looks for weights that a killed trainer left
END_SECONDS = 10.0  # to end in order; vLLM took 1.7 (2026-11-24, two cores, an idle server)
HUNG_END_SECONDS = 2.0  # the same for a silent server
TRACKER_SECONDS = 3.0  # for Python's resource tracker after all others are gone
FAILED, BAD_SETTINGS, TIMED_OUT = 1, 2, 4  # exit codes


class ServingFailed(RuntimeError):
    """The servers cannot go on; `code` is the exit code."""

    def __init__(self, message: str, code: int = FAILED):
        super().__init__(message)
        self.code = code


@dataclass
class Replica:
    """One vLLM server process; times are of the monotonic clock.

    Attributes:
        log_path: where the process prints, together with the others; its own part begins at `log_offset`.
        asked: when /health was last asked; `answered`: when it last answered.
    """

    index: int
    port: int
    url: str
    log_path: Path
    session: Session
    process: subprocess.Popen | None = None
    log_offset: int = 0
    started: float = 0.0
    asked: float = 0.0
    answered: float = 0.0
    ready: bool = False

    def start(self, machine: MachineSettings, model: str, key: str) -> None:
        """Start the process; its output goes where ours goes."""
        self.log_offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        self.started, self.asked, self.ready = time.monotonic(), 0.0, False
        self.process = subprocess.Popen(
            server_command(machine, model, self.port),
            stdin=subprocess.DEVNULL,
            env=os.environ | server_environment(machine, self.index, key),
            start_new_session=True,  # its engine and workers are then one group, to be ended together
        )

    def healthy(self, timeout: float) -> bool:
        """Ask /health, wait for at most `timeout` seconds, and remember when."""
        alive = healthy(self.session, self.url, timeout)
        self.asked = time.monotonic()
        if alive:
            self.answered = self.asked
        return alive

    def log(self) -> str:
        """Return what was printed since the start."""
        return outcome.read_tail(self.log_path, offset=self.log_offset)

    def explain_end(self, how: str) -> str:
        """Return one paragraph: what happened to the process, why, and what to try."""
        when = "" if self.ready else " before it was ready"
        process = f"The vLLM server (replica {self.index}, process {self.process.pid})"
        return diagnosis.explain_end(self.log(), f"{process} {how}{when}")


@dataclass
class Keeper:
    """All replicas of one server."""

    folder: Path
    machine: MachineSettings
    model: str
    replicas: list[Replica] = field(default_factory=list)
    key: str = ""
    restarts: int = 0
    was_ready: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)
    swept: float = 0.0
    stop: bool = False

    def run(self) -> int:
        """Serve until SIGTERM; return the exit code."""
        code = 0
        (self.folder / RESTART).unlink(missing_ok=True)  # it concerns an earlier server
        try:
            self.key = make_secret(self.folder, self.machine.server.shared_secret)
            for index in range(self.machine.server.replicas):
                self.replicas.append(place(self.machine, index, self.folder / "train.log", self.key))
            for replica in self.replicas:
                self.start(replica)
            while not self.stop:
                time.sleep(LOOK_SECONDS)
                for replica in self.replicas:
                    self.look_at(replica)
                self.obey_trainer()
                self.sweep()
                self.write_state()
        except Exception as error:
            code = getattr(error, "code", FAILED)
            self.publish("failed", str(error))
            print(f"keeper: {error}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                write_json_atomic(self.folder / "exit.json", {"returncode": code, "message": str(error)})
        finally:
            end(*self.replicas)
            self.sweep(0.0)
        if code == 0:
            self.publish("stopped", "")
        return code

    def start(self, replica: Replica) -> None:
        """Start a replica's process and publish it."""
        replica.start(self.machine, self.model, self.key)
        self.publish("restarting" if self.was_ready else "starting", "loading the program")

    def look_at(self, replica: Replica) -> None:
        """Notice readiness, death and silence of a replica, and do what follows."""
        now, server = time.monotonic(), self.machine.server
        code = replica.process.poll()
        if code is not None:
            how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
            self.start_again(replica, how)
        elif now - replica.asked >= (ASK_READY_SECONDS if replica.ready else ASK_STARTING_SECONDS):
            alive = replica.healthy(min(ANSWER_SECONDS, server.health_seconds))
            silence = replica.asked - replica.answered
            if alive and not replica.ready:
                self.became_ready(replica)
            elif not alive and replica.ready and silence > server.health_seconds:
                self.start_again(replica, f"has not answered /health for {silence:.0f} s", TIMED_OUT)
            elif not alive and not replica.ready:
                if now - replica.started > server.start_seconds:
                    how = f"was still starting after {server.start_seconds:g} s (server.start_seconds)"
                    raise ServingFailed(replica.explain_end(how), TIMED_OUT)
                self.publish(self.state["state"], diagnosis.start_phase(replica.log()))

    def became_ready(self, replica: Replica) -> None:
        """Check that it is our server and our model that answered.

        Raises:
            ServingFailed: it is another.
        """
        try:
            found = served_model(replica.session, replica.url)
        except (ServerTrouble, ValueError, LookupError, TypeError) as error:
            found = f"something else ({error})"
        if found != self.model:
            raise ServingFailed(
                f"{replica.url} serves {found}, not {self.model}: another server took the port meanwhile. "
                "End it, or set server.port in machine.yaml to 0."
            )
        replica.ready = True
        seconds = time.monotonic() - replica.started
        print(f"keeper: server {replica.index} is ready at {replica.url} after {seconds:.0f} s", flush=True)
        if all(other.ready for other in self.replicas):
            self.was_ready = True
            self.publish("ready", "")

    def obey_trainer(self) -> None:
        """Start the replicas again whose trainer waits for them in vain, though they answer /health."""
        asked = read_json(self.folder / RESTART)
        if asked is None:
            return
        for replica in self.replicas:
            if replica.ready and replica.process.pid in asked.get("pids", []):
                self.start_again(replica, asked.get("reason", "does not answer"), TIMED_OUT)
        (self.folder / RESTART).unlink(missing_ok=True)

    def start_again(self, replica: Replica, how: str, code: int = FAILED) -> None:
        """End what is left of a replica and start it again.

        Raises:
            ServingFailed: with `code`, where that is not allowed or would not help.
        """
        server, why = self.machine.server, replica.explain_end(how)
        if not self.was_ready:
            raise ServingFailed(why, code)
        if not server.restart:
            why += " It is not started again: server.restart is false in machine.yaml."
            raise ServingFailed(why, code)
        if self.restarts >= server.restarts:
            why += f" It was started again {self.restarts} times already (server.restarts)."
            raise ServingFailed(why, code)
        self.restarts += 1
        print(f"keeper: {why} Starting it again ({self.restarts} of {server.restarts})", flush=True)
        self.publish("restarting", f"server {replica.index} {how}")
        end(replica, seconds=HUNG_END_SECONDS)
        self.start(replica)

    def sweep(self, every: float = SWEEP_SECONDS) -> None:
        """Delete weights whose trainer was killed, also where its own supervisor does not look."""
        if time.monotonic() - self.swept >= every:
            self.swept = time.monotonic()
            folder = self.machine.weight_sync.folder
            weight_versions.sweep(Path(folder) if folder else weight_versions.shared_root())

    def publish(self, state: str, message: str) -> None:
        """Write server.json if anything in it changed."""
        self.state = {
            "state": state,
            "message": message,
            "urls": [replica.url for replica in self.replicas],
            "pids": [replica.process.pid for replica in self.replicas if replica.process],
            "model": self.model,
            "fingerprint": self.state.get("fingerprint") or model_fingerprint(self.model),
            "started": self.state.get("started") or time.time(),
            "restarts": self.restarts,
            "keeper": os.getpid(),
            "log": "train.log",
        }
        self.write_state()

    def write_state(self) -> None:
        """Bring server.json up to date; a full disk must not end a server, the next look tries again."""
        if self.state != self.written:
            with contextlib.suppress(OSError):
                write_json_atomic(self.folder / STATE, self.state, durable=False)
                self.written = self.state


# Addresses


def place(machine: MachineSettings, index: int, log_path: Path, key: str) -> Replica:
    """Return a replica with an address that is free now.

    Raises:
        ServingFailed: the port of machine.yaml is taken; the message says by whom.
    """
    host, port = machine.server.host, machine.server.port
    port = port + index if port else free_port(host)
    if taken := port_taken(host, port):
        raise ServingFailed(
            f"The server cannot start: {taken}. End that one, or set server.port in machine.yaml to another "
            "port (0 takes a free one).",
            BAD_SETTINGS,
        )
    return Replica(index, port, base_url(host, port), log_path, Session(key=key))


def free_port(host: str) -> int:
    """Return a port that nobody uses now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def port_taken(host: str, port: int) -> str:
    """Return why `port` cannot be used, with who has it as far as that can be seen; "" if it is free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return f"cannot listen on {host}:{port}: {error.strerror}"
            return f"port {port} is taken by {_occupant(host, port)}"
    return ""


def _occupant(host: str, port: int) -> str:
    """Return who listens on a port: the process, and the model if it is a vLLM server."""
    found = "another process"
    with contextlib.suppress(psutil.Error):  # not ours to see
        pids = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
        ]
        if pids:
            found = f"process {pids[0]} ({' '.join(psutil.Process(pids[0]).cmdline())[:100]})"
    with contextlib.suppress(ServerTrouble, ValueError, LookupError, TypeError):
        return f"{found}, which serves {served_model(Session(), base_url(host, port), timeout=2.0)}"
    return found


def base_url(host: str, port: int) -> str:
    """Return the address for clients. A server on all interfaces is reached by the machine's name."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
        try:
            socket.getaddrinfo(host, port)
        except OSError:  # a machine that does not know its own name
            host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# Ending a server with its engine and workers


def end(*replicas: Replica, seconds: float = END_SECONDS) -> None:
    """End replicas and all that they started: SIGTERM, after `seconds` SIGKILL, resource trackers last.

    Each server leads its own process group. Killing the whole group at one stroke would leak: vLLM's blocks
    of shared memory are removed by a small process of Python's, the resource tracker, once the others are
    gone. A server that is dead already gets one second: without it, nobody ends its engine in order.
    """
    leaders = [replica.process for replica in replicas if replica.process is not None]
    groups = [leader.pid for leader in leaders]

    def signal_all(number: int) -> None:
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)

    def wait(left: Callable[[], list[psutil.Process]], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while left() and time.monotonic() < deadline:
            reap()
            time.sleep(0.05)
        reap()

    def reap() -> list[bool]:
        return [leader.poll() is not None for leader in leaders]

    def workers() -> list[psutil.Process]:
        return [process for process in members(*groups) if not _is_tracker(process)]

    orphaned = all(reap())
    signal_all(signal.SIGTERM)
    wait(workers, 1.0 if orphaned else seconds)
    processes.send(workers(), signal.SIGKILL)
    wait(lambda: members(*groups), TRACKER_SECONDS)
    signal_all(signal.SIGKILL)
    wait(lambda: members(*groups), TRACKER_SECONDS)
    for replica in replicas:
        replica.process = None


def members(*groups: int) -> list[psutil.Process]:
    """Return the living processes of some process groups."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) in groups and processes.alive(process):
                found.append(process)
    return found


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def read_keeper(path: str | Path) -> Keeper:
    """Return the keeper of a server's resolved.yaml: `machine` with its `server`, and `inputs.model`.

    Raises:
        ValueError: it has no server, or no model.
    """
    path = Path(path).resolve()
    content = yaml_load(path.read_text(encoding="utf-8"))
    machine = MachineSettings.model_validate(content["machine"])
    if machine.server is None:
        raise ValueError(f"{path}: machine.yaml has no `server`")
    model = content["inputs"]["model"]
    local = path.parent / model
    return Keeper(path.parent, machine, str(local.resolve()) if local.exists() else model)


def main(arguments: list[str] | None = None) -> int:
    """Run the keeper of the file in `arguments`; return the exit code."""
    keeper = read_keeper((sys.argv[1:] if arguments is None else arguments)[0])

    def on_signal(*_: Any) -> None:
        keeper.stop = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return keeper.run()


if __name__ == "__main__":
    sys.exit(main())
