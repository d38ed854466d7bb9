"""Starting a server: under the supervisor from a notebook, or in the foreground from the command line."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r1kit.runs.files import write_text_atomic
from r1kit.runs.folder import runs_folder
from r1kit.runs.launch import JobFailed, launch
from r1kit.serving.own_node import check_reachable, node_for_servers
from r1kit.serving.server import GRACE, STATE, Server
from r1kit.settings import yaml_dump
from r1kit.settings.machine import MachineSettings


class NoServerInProfile(ValueError):
    """A server was asked for that the profile does not describe."""

    exit_code = 2


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
