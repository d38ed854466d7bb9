"""A vLLM server as notebooks, the command line and trainers know it: its state, its start, its end.

Its keeper runs elsewhere and perhaps on another node, so both sides talk through files in the server's
folder:

    server.json     the keeper's: state, message, urls, pids, model, fingerprint, restarts (see `keeper`)
    api_key         the secret for /v1, if there is one
    restart.json    a trainer's: "it does not answer, start it again"; gone once the keeper has read it

A server on a Slurm node of its own: what it needs that one beside the trainer does not.

`launch(serving=True)` starts the keeper there with srun. Everything it says reaches us through the server's
folder, which all nodes see; what we want of it goes the same way, because no signal crosses nodes.

Starting a server: under the supervisor from a notebook, or in the foreground from the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from r1kit.settings import Problem, SettingsError, yaml_dump
from r1kit.settings.errors import UserError
from r1kit.settings.machine import MachineSettings

STATE, KEY, RESTART = "server.json", "api_key", "restart.json"
GRACE = 25.0  # seconds the keeper has to end engines and workers in order
LOOK_SECONDS = 0.25  # between two looks at server.json


def server_state(folder: str | Path) -> dict[str, Any]:
    """Return what the keeper last wrote into server.json; {} if there is none."""
    return read_json(Path(folder) / STATE, {})


def secret(folder: str | Path) -> str:
    """Return the key for /v1 of the server in `folder`; "" if there is none."""
    path = Path(folder) / KEY
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def ask_restart(folder: str | Path, reason: str, pids: list[int]) -> None:
    """Ask the keeper to start the server processes `pids` again; `reason` is what they did: "has not ...".

    A keeper that has replaced them meanwhile does nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    write_json_atomic(Path(folder) / RESTART, {"reason": reason, "pids": pids, "asked": time.time()})


@dataclass
class Server:
    """One or several replicas of a model, kept by a supervised process; all that is known is in `folder`.

    Attributes:
        job: the keeper; `job.stop()` ends everything.
        tell: gets a line whenever there is news of a start.
        node: the Slurm node that it has to itself; "" if it runs beside us.
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
        """What the keeper last wrote (see `keeper`); {} before it runs."""
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
        """Return state, memory and CPU time of its processes and restarts in one line."""
        state = self.state
        if self.node:  # its processes are not among those of this machine
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
        """Wait until every replica answers; the notebook's widgets go on living meanwhile.

        Raises:
            JobFailed: it cannot start, or took longer than `start_seconds`; with the reason and the log's
            end.
        """
        try:
            for _ in self._waiting():
                await asyncio.sleep(LOOK_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self) -> Server:
        """As `ready`, blocking."""
        try:
            for _ in self._waiting():
                time.sleep(LOOK_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the servers and all they started; returns when they are gone."""
        self.job.stop()

    def _waiting(self) -> Iterator[None]:
        """Yields while the server is not ready, telling news; raises when it cannot be."""
        start, said = time.monotonic(), ""
        while (state := self.state).get("state") != "ready":
            if self.job.poll() is not None:
                message = state.get("message") or "The server ended before it was ready"
                tail = self.job.log_tail(12)
                raise JobFailed(self.job.poll() or 1, f"{message} Its log: {self.folder / 'train.log'}", tail)
            words = state.get("message", "")
            if words and words != said:
                self.tell(f"{time.monotonic() - start:4.0f} s  {words}")
                said = words
            yield
        urls = " ".join(state["urls"])
        self.tell(f"{time.monotonic() - start:4.0f} s  ready at {urls}")
        if warning := exposure(self.machine):
            self.tell(warning)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`."""
    return host in ("localhost", "::1") or host.startswith("127.")


@dataclass
class NoServer:
    """What stands in a server's place where the profile has none; a lesson's cells are then the same.

    Attributes:
        reason: why there is none, told where a server would tell of its start.
    """

    reason: str
    tell: Callable[[str], None] = print

    @property
    def urls(self) -> list[str]:
        """No addresses."""
        return []

    def line(self) -> str:
        """Nothing to say beside a training."""
        return ""

    async def ready(self) -> NoServer:
        """Say why there is no server."""
        self.tell(self.reason)
        return self

    def stop(self) -> None:
        """There is nothing to end."""


def exposure(machine: MachineSettings) -> str:
    """What others can do where the server listens on more than loopback; "" otherwise."""
    host = machine.server.host
    if is_loopback(host):
        return ""
    guard = "the key guards only /v1" if machine.server.shared_secret else "no key guards it"
    return (
        f"The server listens on {host}. Its development endpoints (/collective_rpc, /update_weights, /pause, "
        f"...) are open, and {guard}: whoever reaches the port can replace the weights and run the worker's "
        "functions. Keep it in a private network."
    )


def node_for_servers() -> str:
    """The node of this Slurm job on which a server will run; "" where it runs beside the trainer."""
    found = nodes.allocated()
    return found.servers[0] if found and found.servers else ""


def check_reachable(machine: MachineSettings) -> None:
    """Refuse a server that the trainers' nodes could not reach, before anything starts.

    Neither is changed silently: who listens to other machines lets them replace the weights, and which disk
    all nodes share is the site's to know.

    Raises:
        SettingsError: it would listen to its own node only, or take weights from its own node's memory.
    """
    problems = []
    if is_loopback(machine.server.host):
        message = (
            "The server has a node of its own (server_nodes of the site file), and the trainers' nodes could "
            "not reach it. Whoever reaches that address can replace the weights: a private network only."
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


class NoServerInProfile(UserError):
    """A server was asked for that the profile does not describe."""


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
        heading: what resolved.yaml says beside `machine` and `inputs`.
        tell: gets a line whenever there is news of the start.

    Raises:
        NoServerInProfile: machine.yaml has no `server`.
        SettingsError: it would run on a Slurm node of its own, where the trainers could not reach it.
    """
    if machine.server is None:
        raise NoServerInProfile("machine.yaml of this profile has no `server`; --profile cpu-cluster has one")
    if node := node_for_servers():
        check_reachable(machine)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    name = str(Path(model).resolve()) if Path(model).exists() else str(model)
    content = {**(heading or {}), "inputs": {"model": name}, "machine": machine.model_dump(mode="json")}
    write_text_atomic(folder / "resolved.yaml", yaml_dump(content))
    environment = {**machine.environment, **machine.server.environment}
    job = launch(
        "r1kit.serving.keeper",
        folder,
        environment=environment,
        grace=GRACE,
        accelerate=False,
        serving=True,
    )
    return Server(job, machine, tell, node)


def new_folder(profile: str) -> Path:
    """A folder for a server outside any run: `runs/servers/<time>-<profile>`."""
    return runs_folder() / "servers" / f"{time.strftime('%Y%m%d-%H%M%S')}-{profile}"


def stay(server: Server, when_ready: Callable[[], None]) -> int:
    """Wait until the server is ready, call `when_ready`, and wait for its end; the exit code for a shell.

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
        return 128 + signal.SIGINT
    finally:
        server.stop()
    return 0
