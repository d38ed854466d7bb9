"""`python -m r1kit.serving.keeper SERVER/resolved.yaml`: start, watch and restart vLLM servers.

It runs under `r1kit.runs.supervise`, so that its processes end with the notebook or command that started it.
Its state is in `SERVER/server.json`, rewritten at every change:

    {"state": "starting|ready|restarting|failed|stopped", "message", "urls", "pids", "model", "fingerprint",
     "started", "restarts", "keeper", "log"}

It restarts only servers that were ready once: one that could not start would fail again. A server may also be
stuck while /health still answers; the trainer then requests a restart through a file (`server.ask_restart`).
SIGTERM ends the servers.
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
from r1kit.runs.outcome import ExitCode
from r1kit.runs.weight_versions import model_fingerprint
from r1kit.serving import diagnosis
from r1kit.serving.command import server_command, server_environment
from r1kit.serving.server import RESTART, STATE, make_secret
from r1kit.serving.session import ServerTrouble, Session, healthy, served_model
from r1kit.settings import yaml_load
from r1kit.settings.machine import MachineSettings

POLL_SECONDS = 0.25  # between two checks of the processes
HEALTH_STARTING_SECONDS, HEALTH_READY_SECONDS = 0.5, 2.0  # between two requests to /health
HEALTH_TIMEOUT_SECONDS = 5.0  # for one response of /health
SWEEP_SECONDS = 10.0  # between two sweeps of weights that a killed trainer left
END_SECONDS = 10.0  # to end cleanly; vLLM took 1.7 (2026-11-24, two cores, an idle server)
HUNG_END_SECONDS = 2.0  # the same for a silent server
TRACKER_SECONDS = 3.0  # for Python's resource tracker once all others are gone


class ServingFailed(RuntimeError):
    """The servers cannot run; `code` is the exit code."""

    def __init__(self, message: str, code: int = ExitCode.FAILED):
        super().__init__(message)
        self.code = code


@dataclass
class Replica:
    """One vLLM server process; times are of the monotonic clock.

    Attributes:
        log_path: the log of all replicas; this process's output begins at `log_offset`.
        requested: when /health was last requested; `answered`: when it last answered.
    """

    index: int
    port: int
    url: str
    log_path: Path
    session: Session
    process: subprocess.Popen | None = None
    log_offset: int = 0
    started: float = 0.0
    requested: float = 0.0
    answered: float = 0.0
    ready: bool = False

    def start(self, machine: MachineSettings, model: str, key: str) -> None:
        """Start the process; its output goes to the keeper's."""
        self.log_offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        self.started, self.requested, self.ready = time.monotonic(), 0.0, False
        self.process = subprocess.Popen(
            server_command(machine, model, self.port),
            stdin=subprocess.DEVNULL,
            env=os.environ | server_environment(machine, self.index, key),
            start_new_session=True,  # its engine and workers are then one group, and end together
        )

    def healthy(self, timeout: float) -> bool:
        """Request /health, wait for at most `timeout` seconds, and record when."""
        alive = healthy(self.session, self.url, timeout)
        self.requested = time.monotonic()
        if alive:
            self.answered = self.requested
        return alive

    def log(self) -> str:
        """Return the output since the start."""
        return outcome.read_tail(self.log_path, offset=self.log_offset)

    def explain_end(self, how: str) -> str:
        """Return one paragraph about the end of the process: how, why, and what to try."""
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
        code = ExitCode.DONE
        (self.folder / RESTART).unlink(missing_ok=True)  # for an earlier server
        try:
            self.key = make_secret(self.folder, self.machine.server.shared_secret)
            for index in range(self.machine.server.replicas):
                self.replicas.append(place(self.machine, index, self.folder / "train.log", self.key))
            for replica in self.replicas:
                self.start(replica)
            while not self.stop:
                time.sleep(POLL_SECONDS)
                for replica in self.replicas:
                    self.check(replica)
                self.serve_restart_request()
                self.sweep()
                self.write_state()
        except Exception as error:
            code = getattr(error, "code", ExitCode.FAILED)
            self.publish("failed", str(error))
            print(f"keeper: {error}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                write_json_atomic(self.folder / "exit.json", {"returncode": code, "message": str(error)})
        finally:
            end(*self.replicas)
            self.sweep(0.0)
        if code == ExitCode.DONE:
            self.publish("stopped", "")
        return code

    def start(self, replica: Replica) -> None:
        """Start a replica's process and publish it."""
        replica.start(self.machine, self.model, self.key)
        self.publish("restarting" if self.was_ready else "starting", "loading the program")

    def check(self, replica: Replica) -> None:
        """Handle a replica that has become ready, has died or does not answer."""
        now, server = time.monotonic(), self.machine.server
        code = replica.process.poll()
        if code is not None:
            how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
            self.start_again(replica, how)
        elif now - replica.requested >= (HEALTH_READY_SECONDS if replica.ready else HEALTH_STARTING_SECONDS):
            alive = replica.healthy(min(HEALTH_TIMEOUT_SECONDS, server.health_seconds))
            silence = replica.requested - replica.answered
            if alive and not replica.ready:
                self.became_ready(replica)
            elif not alive and replica.ready and silence > server.health_seconds:
                self.start_again(replica, f"has not answered /health for {silence:.0f} s", ExitCode.HUNG)
            elif not alive and not replica.ready:
                if now - replica.started > server.start_seconds:
                    how = f"was still starting after {server.start_seconds:g} s (server.start_seconds)"
                    raise ServingFailed(replica.explain_end(how), ExitCode.HUNG)
                self.publish(self.state["state"], diagnosis.start_phase(replica.log()))

    def became_ready(self, replica: Replica) -> None:
        """Check that the right model answers, and publish that the replica is ready.

        Raises:
            ServingFailed: another server answers.
        """
        try:
            served = served_model(replica.session, replica.url)
        except (ServerTrouble, ValueError, LookupError, TypeError) as error:
            served = f"something else ({error})"
        if served != self.model:
            raise ServingFailed(
                f"{replica.url} serves {served}, not {self.model}: another server took the port meanwhile. "
                "End it, or set server.port in machine.yaml to 0."
            )
        replica.ready = True
        seconds = time.monotonic() - replica.started
        print(f"keeper: server {replica.index} is ready at {replica.url} after {seconds:.0f} s", flush=True)
        if all(other.ready for other in self.replicas):
            self.was_ready = True
            self.publish("ready", "")

    def serve_restart_request(self) -> None:
        """Restart the replicas that their trainer reports as stuck."""
        request = read_json(self.folder / RESTART)
        if request is None:
            return
        for replica in self.replicas:
            if replica.ready and replica.process.pid in request.get("pids", []):
                self.start_again(replica, request.get("reason", "does not answer"), ExitCode.HUNG)
        (self.folder / RESTART).unlink(missing_ok=True)

    def start_again(self, replica: Replica, how: str, code: int = ExitCode.FAILED) -> None:
        """End what is left of a replica and start it again.

        Raises:
            ServingFailed: with `code`, if a restart is not allowed or would not help.
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
        """Delete weights of killed trainers, also in a folder that their supervisors do not sweep."""
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
        """Bring server.json up to date; a full disk must not end a server, the next call tries again."""
        if self.state != self.written:
            with contextlib.suppress(OSError):
                write_json_atomic(self.folder / STATE, self.state, durable=False)
                self.written = self.state


# Addresses


def place(machine: MachineSettings, index: int, log_path: Path, key: str) -> Replica:
    """Return a replica with a free address.

    Raises:
        ServingFailed: the port of machine.yaml is taken; the message names the process.
    """
    host, port = machine.server.host, machine.server.port
    port = port + index if port else free_port(host)
    if taken := port_taken(host, port):
        raise ServingFailed(
            f"The server cannot start: {taken}. End that one, or set server.port in machine.yaml to another "
            "port (0 takes a free one).",
            ExitCode.BAD_INPUT,
        )
    return Replica(index, port, base_url(host, port), log_path, Session(key=key))


def free_port(host: str) -> int:
    """Return a free port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def port_taken(host: str, port: int) -> str:
    """Return why `port` cannot be used, with the process that has it if visible; "" if it is free."""
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
    occupant = "another process"
    with contextlib.suppress(psutil.Error):  # another user's process
        pids = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
        ]
        if pids:
            occupant = f"process {pids[0]} ({' '.join(psutil.Process(pids[0]).cmdline())[:100]})"
    with contextlib.suppress(ServerTrouble, ValueError, LookupError, TypeError):
        return f"{occupant}, which serves {served_model(Session(), base_url(host, port), timeout=2.0)}"
    return occupant


def base_url(host: str, port: int) -> str:
    """Return the address for clients. A server on all interfaces is reached by the machine's name."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
        try:
            socket.getaddrinfo(host, port)
        except OSError:  # the machine's own name does not resolve
            host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# Ending a server with its engine and workers


def end(*replicas: Replica, seconds: float = END_SECONDS) -> None:
    """End replicas and their processes: SIGTERM, after `seconds` SIGKILL, resource trackers last.

    Each server leads its own process group. Killing the whole group at once would leak shared memory:
    Python's resource tracker, one of the processes, removes vLLM's blocks once the others are gone. If the
    server is dead already, its engine gets only one second: without the server it cannot end cleanly.
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
    living = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) in groups and processes.alive(process):
                living.append(process)
    return living


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def read_keeper(path: str | Path) -> Keeper:
    """Make the keeper for a server's resolved.yaml: `machine` with its `server`, and `inputs.model`.

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
