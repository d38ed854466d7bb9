"""`python -m r1kit.serving.keeper SERVER/resolved.yaml`: start the vLLM servers, watch them, start dead ones
again.

It runs under our supervisor, so that nothing it starts outlives the notebook or command that asked for it.
What it knows stands in `SERVER/server.json`, rewritten at every change:

    {"state": "starting|ready|restarting|failed|stopped", "message", "urls", "pids", "model", "fingerprint",
     "started", "restarts", "keeper", "log"}

Only a server that was ready once is started again: one that cannot start will not start the next time either.
SIGUSR1 starts all servers anew, at the same addresses (`Server.restart`); SIGTERM ends them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.runs import outcome
from r1kit.runs.files import write_json_atomic
from r1kit.runs.fingerprint import model_fingerprint
from r1kit.serving import health, log
from r1kit.serving.command import secret_of, server_command, server_environment
from r1kit.serving.group import end_group
from r1kit.settings import yaml_load
from r1kit.settings.models import MachineSettings

STATE = "server.json"
TICK = 0.25  # seconds between two looks at the processes
ASK_STARTING, ASK_READY = 0.5, 2.0  # seconds between two questions to /health
FAILED, TIMED_OUT = 1, 4


class ServingFailed(RuntimeError):
    """The servers cannot go on; `code` is the exit code of the contract."""

    def __init__(self, message: str, code: int = FAILED):
        super().__init__(message)
        self.code = code


@dataclass
class Replica:
    """One server process and what is known of it; times are of the monotonic clock."""

    index: int
    port: int
    url: str
    process: subprocess.Popen | None = None
    log_offset: int = 0
    started: float = 0.0
    asked: float = 0.0
    answered: float = 0.0
    ready: bool = False


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
    stop: bool = False
    anew: bool = False
    wake: threading.Event = field(default_factory=threading.Event)

    def run(self) -> int:
        """Serve until SIGTERM; the exit code."""
        code = 0
        try:
            self.key = secret_of(self.folder, self.machine.server.shared_secret)
            for index in range(self.machine.server.replicas):
                self.replicas.append(self.place(index))
            for replica in self.replicas:
                self.start(replica)
            while not self.stop:
                self.wake.wait(TICK)
                self.wake.clear()
                if self.anew and not self.stop:
                    self.start_all_anew()
                for replica in self.replicas:
                    self.look_at(replica)
        except Exception as error:
            code = getattr(error, "code", FAILED)
            self.publish("failed", str(error))
            write_json_atomic(self.folder / "exit.json", {"returncode": code, "message": str(error)})
            print(f"keeper: {error}", file=sys.stderr, flush=True)
        finally:
            for replica in self.replicas:
                self.end(replica)
        if code == 0:
            self.publish("stopped", "")
        return code

    def place(self, index: int) -> Replica:
        """An address for a replica, checked to be free."""
        host, port = self.machine.server.host, self.machine.server.port
        port = port + index if port else health.free_port(host)
        if taken := health.port_taken(host, port):
            raise ServingFailed(
                f"The server cannot start: {taken}. End that one, or set server.port in machine.yaml to "
                "another "
                "port (0 takes a free one)."
            )
        return Replica(index, port, health.base_url(host, port))

    def start(self, replica: Replica) -> None:
        """Start a replica's process; its output goes where ours goes."""
        path = self.folder / "train.log"
        replica.log_offset = path.stat().st_size if path.exists() else 0
        replica.started, replica.asked, replica.ready = time.monotonic(), 0.0, False
        replica.process = subprocess.Popen(
            server_command(self.machine, self.model, replica.port),
            stdin=subprocess.DEVNULL,
            env=os.environ | server_environment(self.machine, replica.index, self.key),
            start_new_session=True,  # its engine and workers are then one group, to be ended together
        )
        self.publish("restarting" if self.was_ready else "starting", "loading the program")

    def end(self, replica: Replica) -> None:
        """End a replica's process and all that it started."""
        if replica.process is not None:
            end_group(replica.process)
            replica.process = None

    def look_at(self, replica: Replica) -> None:
        """Notice readiness, death and silence of a replica, and do what follows."""
        now, server = time.monotonic(), self.machine.server
        code = replica.process.poll()
        if code is not None:
            self.died(
                replica, f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
            )
        elif now - replica.asked >= (ASK_READY if replica.ready else ASK_STARTING):
            alive = health.healthy(replica.url)
            replica.asked = time.monotonic()
            if alive:
                replica.answered = replica.asked
                if not replica.ready:
                    self.became_ready(replica)
            elif replica.ready and replica.asked - replica.answered > server.health_seconds:
                self.died(replica, f"has not answered /health for {replica.asked - replica.answered:.0f} s")
            elif not replica.ready and now - replica.started > server.start_seconds:
                raise ServingFailed(
                    self.paragraph(
                        replica, f"was not ready after {server.start_seconds:g} s (server.start_seconds)"
                    ),
                    TIMED_OUT,
                )
            elif not replica.ready:
                words = log.phase(self.log_of(replica))
                self.publish(self.state["state"], words)

    def became_ready(self, replica: Replica) -> None:
        """Check that it is our server and our model that answered."""
        found = health.served_model(replica.url, self.key)
        if found != self.model:
            raise ServingFailed(
                f"{replica.url} serves {found}, not {self.model}: another server took the port meanwhile. "
                "End it, or "
                "set server.port in machine.yaml to 0."
            )
        replica.ready = True
        seconds = time.monotonic() - replica.started
        print(f"keeper: server {replica.index} is ready at {replica.url} after {seconds:.0f} s", flush=True)
        if all(other.ready for other in self.replicas):
            self.was_ready = True
            self.publish("ready", "")

    def died(self, replica: Replica, how: str) -> None:
        """Start a replica again if that is allowed and may help, else give up."""
        server, why = self.machine.server, self.paragraph(replica, how)
        if not self.was_ready:
            raise ServingFailed(why)
        if not server.restart:
            raise ServingFailed(f"{why} It is not started again: server.restart is false in machine.yaml.")
        if self.restarts >= server.restarts:
            raise ServingFailed(
                f"{why} It was started again {self.restarts} times already (server.restarts)."
            )
        self.restarts += 1
        print(f"keeper: {why} Starting it again ({self.restarts} of {server.restarts})", flush=True)
        self.publish("restarting", f"server {replica.index} {how}")
        self.end(replica)
        self.start(replica)

    def start_all_anew(self) -> None:
        """As asked by SIGUSR1; not counted among the restarts."""
        self.anew = False
        print("keeper: starting all servers anew, as asked", flush=True)
        self.publish("restarting", "as asked")
        for replica in self.replicas:
            self.end(replica)
        for replica in self.replicas:
            self.start(replica)

    def log_of(self, replica: Replica) -> str:
        """What was printed since the replica was started."""
        return outcome.read_tail(self.folder / "train.log", offset=replica.log_offset)

    def paragraph(self, replica: Replica, how: str) -> str:
        """What happened to a replica, why, and what to try."""
        text = self.log_of(replica)
        when = "" if replica.ready else " before it was ready"
        parts = [f"The vLLM server (replica {replica.index}, process {replica.process.pid}) {how}{when}"]
        if cause := log.root_cause(text):
            parts.append(f": {cause}")
        elif last := log.tail(text, 1):
            parts.append(f"; the last line of its log: {last}")
        return f"{''.join(parts).rstrip('.')}. {log.advice(text)}".strip()

    def publish(self, state: str, message: str) -> None:
        """Write server.json if anything in it changed."""
        new = {
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
        if new != self.state:
            self.state = new
            write_json_atomic(self.folder / STATE, new, durable=False)


def read_keeper(path: str | Path) -> Keeper:
    """The keeper of a server's resolved.yaml: `machine` with its `server`, and `inputs.model`.

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
    """Program entry; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    keeper = read_keeper(arguments[0])

    def on_signal(number: int, _frame: Any) -> None:
        if number == signal.SIGUSR1:
            keeper.anew = True
        else:
            keeper.stop = True
        keeper.wake.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, on_signal)
    return keeper.run()


if __name__ == "__main__":
    sys.exit(main())
