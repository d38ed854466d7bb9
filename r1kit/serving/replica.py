"""One vLLM server process of a keeper: where it listens, how it starts and ends, what its log says."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from r1kit.runs import outcome
from r1kit.serving import health, log
from r1kit.serving.command import server_command, server_environment
from r1kit.serving.group import PATIENCE, end_groups
from r1kit.settings.machine import MachineSettings

BAD_SETTINGS = 2  # exit code: a setting cannot work, and nothing was started


class ServingFailed(RuntimeError):
    """The servers cannot go on; `code` is the exit code of the contract."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


@dataclass
class Replica:
    """A server process and what is known of it; times are of the monotonic clock.

    Attributes:
        log_path: where the process prints, together with the others; `log_offset` is where its own part
        begins. asked: when /health was last asked; `answered`: when it last answered.
    """

    index: int
    port: int
    url: str
    log_path: Path
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
        alive = health.healthy(self.url, timeout)
        self.asked = time.monotonic()
        if alive:
            self.answered = self.asked
        return alive

    def log(self) -> str:
        """What was printed since the start."""
        return outcome.read_tail(self.log_path, offset=self.log_offset)

    def paragraph(self, how: str) -> str:
        """What happened to the process, why, and what to try."""
        text = self.log()
        when = "" if self.ready else " before it was ready"
        found = f"The vLLM server (replica {self.index}, process {self.process.pid}) {how}{when}"
        if cause := log.root_cause(text):
            found += f": {cause}"
        elif last := log.tail(text, 1):
            found += f"; the last line of its log: {last}"
        return f"{found.rstrip('.')}. {log.advice(text)}".strip()


def place(machine: MachineSettings, index: int, log_path: Path) -> Replica:
    """A replica with an address that is free now.

    Raises:
        ServingFailed: the port of machine.yaml is taken; the message says by whom.
    """
    host, port = machine.server.host, machine.server.port
    port = port + index if port else health.free_port(host)
    if taken := health.port_taken(host, port):
        raise ServingFailed(
            f"The server cannot start: {taken}. End that one, or set server.port in machine.yaml to another "
            "port (0 takes a free one).",
            BAD_SETTINGS,
        )
    return Replica(index, port, health.base_url(host, port), log_path)


def end(*replicas: Replica, patience: float = PATIENCE) -> None:
    """End the processes of replicas and all that they started, in `patience` seconds or by force."""
    end_groups([replica.process for replica in replicas if replica.process is not None], patience)
    for replica in replicas:
        replica.process = None
