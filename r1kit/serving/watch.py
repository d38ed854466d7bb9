"""All replicas of one server: started, watched, started again, and what is known of them in server.json."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.runs import weight_versions
from r1kit.runs.files import write_json_atomic
from r1kit.runs.fingerprint import model_fingerprint
from r1kit.runs.server_files import STATE, forget_restart, restart_asked
from r1kit.serving import health, log
from r1kit.serving.command import secret_of
from r1kit.serving.replica import Replica, ServingFailed, end, place
from r1kit.settings.machine import MachineSettings

TICK = 0.25  # seconds between two looks at the processes
ASK_STARTING, ASK_READY = 0.5, 2.0  # seconds between two questions to /health
ASK_BOUND = 5.0  # seconds for one answer
SWEEP = 10.0  # seconds between two looks for weights that a killed trainer left
HUNG_PATIENCE = 2.0  # seconds a dead or silent server has to end in order
FAILED, TIMED_OUT = 1, 4


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
    stop: bool = False
    anew: bool = False
    swept: float = 0.0
    wake: threading.Event = field(default_factory=threading.Event)

    def run(self) -> int:
        """Serve until SIGTERM; the exit code."""
        code = 0
        forget_restart(self.folder)
        try:
            self.key = secret_of(self.folder, self.machine.server.shared_secret)
            for index in range(self.machine.server.replicas):
                self.replicas.append(place(self.machine, index, self.folder / "train.log"))
            for replica in self.replicas:
                self.start(replica)
            while not self.stop:
                self.wake.wait(TICK)
                self.wake.clear()
                if self.anew and not self.stop:
                    self.start_all_anew()
                for replica in self.replicas:
                    self.look_at(replica)
                self.listen()
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
        """Start a replica's process and say so."""
        replica.start(self.machine, self.model, self.key)
        self.publish("restarting" if self.was_ready else "starting", "loading the program")

    def look_at(self, replica: Replica) -> None:
        """Notice readiness, death and silence of a replica, and do what follows."""
        now, server = time.monotonic(), self.machine.server
        code = replica.process.poll()
        if code is not None:
            self.died(
                replica, f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
            )
        elif now - replica.asked >= (ASK_READY if replica.ready else ASK_STARTING):
            alive = replica.healthy(min(ASK_BOUND, server.health_seconds))
            silence = replica.asked - replica.answered
            if alive and not replica.ready:
                self.became_ready(replica)
            elif not alive and replica.ready and silence > server.health_seconds:
                self.died(replica, f"has not answered /health for {silence:.0f} s", TIMED_OUT)
            elif not alive and not replica.ready:
                if now - replica.started > server.start_seconds:
                    bound = f"{server.start_seconds:g} s (server.start_seconds)"
                    raise ServingFailed(replica.paragraph(f"was still starting after {bound}"), TIMED_OUT)
                self.publish(self.state["state"], log.phase(replica.log()))

    def became_ready(self, replica: Replica) -> None:
        """Check that it is our server and our model that answered."""
        try:
            found = health.served_model(replica.url, self.key)
        except (OSError, ValueError, LookupError, TypeError) as error:
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

    def listen(self) -> None:
        """Start a replica again that answers /health and not its trainer, as the trainer asks."""
        asked = restart_asked(self.folder)
        if asked is None:
            return
        for replica in self.replicas:
            if replica.ready and replica.url in asked.get("urls", []):
                self.died(replica, asked.get("reason", "does not answer"), TIMED_OUT)
        forget_restart(self.folder)

    def sweep(self, every: float = SWEEP) -> None:
        """Delete weights whose trainer was killed, also where its own supervisor does not look."""
        if time.monotonic() - self.swept >= every:
            self.swept = time.monotonic()
            folder = self.machine.weight_sync.folder
            weight_versions.sweep(Path(folder) if folder else weight_versions.shared_root())

    def died(self, replica: Replica, how: str, code: int = FAILED) -> None:
        """Start a replica again if that is allowed and may help, else give up with the exit code."""
        server, why = self.machine.server, replica.paragraph(how)
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
        end(replica, patience=HUNG_PATIENCE)
        self.start(replica)

    def start_all_anew(self) -> None:
        """As asked by SIGUSR1; not counted among the restarts."""
        self.anew = False
        print("keeper: starting all servers anew, as asked", flush=True)
        self.publish("restarting", "as asked")
        end(*self.replicas)
        for replica in self.replicas:
            self.start(replica)

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
        self.state = new
        self.write_state()

    def write_state(self) -> None:
        """Bring server.json up to date; a full disk must not end a server, the next look tries again."""
        if self.state != self.written:
            with contextlib.suppress(OSError):
                write_json_atomic(self.folder / STATE, self.state, durable=False)
                self.written = self.state
