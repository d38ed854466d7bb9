"""A server of the stand-in for vLLM, and what its processes are."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from r1kit.serving.keeper import members
from r1kit.serving.server import Server, serve
from r1kit.settings.machine import MachineSettings
from r1kit.settings.profile import CONFIG_ROOT

STAND_IN = Path(__file__).parent / "stand_in"


def machine(mode: str = "", sync: str | None = None, **server: object) -> MachineSettings:
    """machine.yaml with a server that behaves as `mode` says, and a sync folder."""
    environment = {"PYTHONPATH": str(STAND_IN), "STAND_IN": mode}
    return MachineSettings.model_validate(
        {
            "device": "cpu",
            "grace_seconds": 5,
            "weight_sync": {"folder": sync},
            "server": {"max_model_len": 64, "environment": environment, **server},
        }
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`start(mode, **server)`: a server that has been started; all of them are ended after the test."""
    started: list[Server] = []
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen2"}')

    def begin(mode: str = "", **server: object) -> Server:
        folder = tmp_path / f"server{len(started)}"
        started.append(serve(folder, machine(mode, **server), model, tell=lambda line: None))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def processes_of(server: Server) -> list[psutil.Process]:
    """Keeper, servers, engines and trackers of a running server."""
    state = server.state
    return [psutil.Process(state["keeper"]), *(p for pid in state["pids"] for p in members(pid))]


def block_of(server: Server) -> Path:
    """The shared memory that the newest stand-in engine holds; a path that is not there before it says so."""
    lines = (server.folder / "train.log").read_text().splitlines()
    names = [line.split()[1] for line in lines if line.startswith("block")]
    return Path("/dev/shm") / (names or ["not said yet"])[-1]


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until `condition()` is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def profile_with_server(tmp_path: Path) -> Path:
    """A copy of cpu-tiny with a server."""
    folder = tmp_path / "tiny"
    shutil.copytree(CONFIG_ROOT / "cpu-tiny", folder)
    server = json.dumps(machine(max_model_len=128).server.model_dump())
    with open(folder / "machine.yaml", "a", encoding="utf-8") as file:
        file.write(f"server: {server}\n")
    with open(folder / "grpo.yaml", "a", encoding="utf-8") as file:
        file.write("use_vllm: true\nvllm_mode: server\n")
    return folder
