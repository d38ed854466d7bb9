"""A vLLM server from the view of notebooks, the command line and trainers: start, state, end.

`serve` starts a keeper process under the supervisor, on this machine or, in a Slurm job with nodes for
servers, with srun on another node. Both sides communicate through files in the server's folder, which all
nodes see; signals do not cross nodes.

    server.json     written by the keeper: state, message, urls, pids, model, ... (see `keeper`)
    api_key         the secret for /v1, if there is one
    restart.json    written by a trainer: "it does not answer, restart it"; the keeper deletes it

A notebook awaits `Server.ready`, the command line calls `stay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from r1kit.runs import nodes, processes
from r1kit.runs.files import read_json, write_json_atomic, write_text_atomic
from r1kit.runs.folder import runs_folder
from r1kit.runs.launch import Job, JobFailed, launch
from r1kit.runs.outcome import ExitCode
from r1kit.settings import Problem, SettingsError, yaml_dump
from r1kit.settings.errors import UserError
from r1kit.settings.machine import MachineSettings

STATE, KEY, RESTART = "server.json", "api_key", "restart.json"
GRACE_SECONDS = 25.0  # for the keeper to end engines and workers cleanly
POLL_SECONDS = 0.25  # between two reads of server.json


class NoServerInProfile(UserError):
    """The profile does not describe a server."""


def serve(
    folder: str | Path,
    machine: MachineSettings,
    model: str | Path,
    *,
    heading: dict[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> Server:
    """Start the server of `machine` with `model` under the supervisor and return at once.

    Args:
        folder: gets resolved.yaml, server.json, train.log and the key.
        model: a folder, or a hub id.
        heading: keys of resolved.yaml beside `machine` and `inputs`.
        tell: called with a line for each phase of the start.

    Raises:
        NoServerInProfile: machine.yaml has no `server`.
        SettingsError: it would run on its own Slurm node, where the trainers could not reach it.
    """
    if machine.server is None:
        raise NoServerInProfile("machine.yaml of this profile has no `server`; --profile cpu-cluster has one")
    allocated = nodes.allocated()
    node = allocated.servers[0] if allocated and allocated.servers else ""
    if node:
        check_reachable(machine)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    name = str(Path(model).resolve()) if Path(model).exists() else str(model)
    content = {**(heading or {}), "inputs": {"model": name}, "machine": machine.model_dump(mode="json")}
    write_text_atomic(folder / "resolved.yaml", yaml_dump(content))
    environment = {**machine.environment, **machine.server.environment}
    options = {"grace": GRACE_SECONDS, "accelerate": False, "serving": True}
    job = launch("r1kit.serving.keeper", folder, environment=environment, **options)
    return Server(job, machine, tell, node)


@dataclass
class Server:
    """One or several replicas of a model under a keeper; their state is in files in `folder`.

    Attributes:
        job: the keeper; `job.stop()` ends everything.
        tell: called with a line for each phase of a start.
        node: the Slurm node reserved for it; "" if it runs on this machine.
    """

    job: Job
    machine: MachineSettings
    tell: Callable[[str], None] = print
    node: str = ""

    @property
    def folder(self) -> Path:
        """Folder of server.json, train.log and api_key."""
        return self.job.folder

    @property
    def state(self) -> dict[str, Any]:
        """The content of server.json (see `keeper`); {} before the keeper runs."""
        return server_state(self.folder)

    @property
    def urls(self) -> list[str]:
        """The replicas' addresses."""
        return self.state.get("urls", [])

    @property
    def key(self) -> str:
        """The shared secret for /v1; "" if there is none."""
        return secret(self.folder)

    def line(self) -> str:
        """Return one line with state, memory and CPU time of its processes, and restarts."""
        state = self.state
        if self.node:  # its processes are on another machine
            return f"server {state.get('state', 'not there')} on {self.node}"
        running: list[psutil.Process] = []
        for pid in state.get("pids", []):
            with contextlib.suppress(psutil.NoSuchProcess):
                running += [psutil.Process(pid), *processes.descendants(pid)]
        memory, seconds = 0, 0.0
        for process in running:
            with contextlib.suppress(psutil.Error):
                memory += process.memory_info().rss
                seconds += sum(process.cpu_times()[:2])
        restarts = f", {state['restarts']} restarts" if state.get("restarts") else ""
        used = f"{len(running)} processes, {memory / 2**30:.1f} GB, {seconds:.0f} s of CPU"
        return f"server {state.get('state', 'not there')}: {used}{restarts}"

    async def ready(self) -> Server:
        """Wait until every replica answers, without blocking the notebook's widgets.

        Raises:
            JobFailed: it cannot start, or took longer than `start_seconds`; with reason and end of the log.
        """
        try:
            for _ in self._waiting():
                await asyncio.sleep(POLL_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self) -> Server:
        """Wait as `ready` does, blocking."""
        try:
            for _ in self._waiting():
                time.sleep(POLL_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the servers and all their processes; return when they are gone."""
        self.job.stop()

    def _waiting(self) -> Iterator[None]:
        start, last = time.monotonic(), ""
        while (state := self.state).get("state") != "ready":
            if self.job.poll() is not None:
                message = state.get("message") or "The server ended before it was ready"
                tail = self.job.log_tail(12)
                raise JobFailed(self.job.poll() or 1, f"{message} Its log: {self.folder / 'train.log'}", tail)
            phase = state.get("message", "")
            if phase and phase != last:
                self.tell(f"{time.monotonic() - start:4.0f} s  {phase}")
                last = phase
            yield
        urls = " ".join(state["urls"])
        self.tell(f"{time.monotonic() - start:4.0f} s  ready at {urls}")
        if warning := exposure(self.machine):
            self.tell(warning)


@dataclass
class NoServer:
    """Replaces `Server` for a profile without one, so that a lesson's cells are the same.

    Attributes:
        reason: why there is no server; `ready` prints it.
    """

    reason: str
    tell: Callable[[str], None] = print

    @property
    def urls(self) -> list[str]:
        """No addresses."""
        return []

    def line(self) -> str:
        """Return no line for the dashboard."""
        return ""

    async def ready(self) -> NoServer:
        """Print why there is no server."""
        self.tell(self.reason)
        return self

    def stop(self) -> None:
        """Do nothing."""


# Files in the server's folder


def server_state(folder: str | Path) -> dict[str, Any]:
    """Return the content of server.json; {} if there is none."""
    return read_json(Path(folder) / STATE, {})


def secret(folder: str | Path) -> str:
    """Return the key for /v1 of the server in `folder`; "" if there is none."""
    path = Path(folder) / KEY
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def make_secret(folder: str | Path, enabled: bool) -> str:
    """Return the key in a server's folder, made at the first call and readable by this user only.

    Without `enabled` an existing key is deleted, and the result is "".
    """
    path = Path(folder) / KEY
    if not enabled:
        path.unlink(missing_ok=True)
        return ""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24) + "\n", encoding="utf-8")
    return secret(folder)


def ask_restart(folder: str | Path, reason: str, pids: list[int]) -> None:
    """Ask the keeper to restart the server processes `pids`; `reason` is their failure: "has not ...".

    A keeper that has replaced them meanwhile does nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    write_json_atomic(Path(folder) / RESTART, {"reason": reason, "pids": pids, "asked": time.time()})


# Access from other machines


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches `host`."""
    return host in ("localhost", "::1") or host.startswith("127.")


def exposure(machine: MachineSettings) -> str:
    """Return a warning if the server listens on more than loopback; "" otherwise."""
    host = machine.server.host
    if is_loopback(host):
        return ""
    guard = "the key guards only /v1" if machine.server.shared_secret else "no key guards it"
    return (
        f"The server listens on {host}. Its development endpoints (/collective_rpc, /update_weights, /pause, "
        f"...) are open, and {guard}: every client that reaches the port can replace the weights and run the "
        "worker's functions. Keep it in a private network."
    )


def check_reachable(machine: MachineSettings) -> None:
    """Refuse a server on a Slurm node that the trainers' nodes could not reach, before anything starts.

    Neither setting is changed silently: listening to other machines lets them replace the weights, and only
    the site knows which disk all nodes share.

    Raises:
        SettingsError: it would listen to its own node only, or take weights from its own node's memory.
    """
    problems = []
    if is_loopback(machine.server.host):
        message = (
            "The server has a node of its own (server_nodes of the site file), and the trainers' nodes could "
            "not reach it. Use a private network: its clients can replace the weights."
        )
        problems.append(
            Problem("machine.yaml", "server.host", machine.server.host, "0.0.0.0", message=message)
        )
    sync = machine.weight_sync
    if sync.transport == "file" and sync.folder is None:
        message = (
            "The server has a node of its own, and weights in the memory of the trainer's node (/dev/shm) do "
            "not reach it."
        )
        allowed = "a folder on a disk that all nodes share"
        problems.append(Problem("machine.yaml", "weight_sync.folder", "null", allowed, message=message))
    if problems:
        raise SettingsError(problems)


# On the command line


def new_folder(profile: str) -> Path:
    """Return a folder for a server outside any run: `runs/servers/<time>-<profile>`."""
    return runs_folder() / "servers" / f"{time.strftime('%Y%m%d-%H%M%S')}-{profile}"


def stay(server: Server, when_ready: Callable[[], None]) -> int:
    """Wait until the server is ready, call `when_ready`, wait for its end; return the exit code.

    Ctrl-C and SIGTERM end the server first.
    """

    def terminate(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        server.wait_ready()
        when_ready()
        server.job.wait()
    except JobFailed as error:
        print(error, file=sys.stderr)
        return error.returncode
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    finally:
        server.stop()
    return ExitCode.DONE
