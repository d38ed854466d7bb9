"""A pipeline whose answers a server writes: each stage that asks has its own model there, and none stays."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from r1kit.pipeline.open_run import new_run
from r1kit.runs.files import read_json
from r1kit.runs.jsonl import read
from r1kit.runs.results import read_result
from r1kit.serving.server import STATE
from r1kit.settings import yaml_dump, yaml_load
from tests.failures import small_pipeline
from tests.failures.cluster import GRPO, ROOT, SERVER, STAND_IN, SYNC

pytestmark = [pytest.mark.slow, pytest.mark.failures, pytest.mark.cluster]

ASK = {"prompts": 16, "samples": 4, "max_new_tokens": 24, "batch_size": 32}
PIPELINE = [  # an untrained model is never right: nothing could be sampled, and `pass_rate` asks alike
    {"name": "asked", "kind": "pass_rate", "model": "base", "lowest": 0.0, "highest": 1.0, **ASK},
    {"name": "final", "kind": "grpo", "model": "base", "data": "asked"},
    {"name": "again", "kind": "pass_rate", "model": "final", "lowest": 0.0, "highest": 1.0, **ASK},
]
CHOSEN = {
    "curriculum": {"strategy": "pass_rate", "reward": "cosine"},
    "dynamic_sampling": {"max_extra": 1.0},
    "learning_rate": 1e-4,
}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """The small profile with the stand-in as its server."""
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    profile = small_pipeline.write_profile(tmp_path / "small", PIPELINE)
    environment = {"PYTHONPATH": f"{STAND_IN}:{ROOT}", "STAND_IN_FOLDER": str(tmp_path), "OMP_NUM_THREADS": 1}
    changes = {
        "machine": {
            "server": SERVER | {"environment": environment},
            "weight_sync": SYNC,
            "step_seconds": 120,
            "grace_seconds": 10,
        },
        "grpo": GRPO | CHOSEN | {"max_steps": 3, "save_steps": 1, "per_device_train_batch_size": 8},
    }
    for section, values in changes.items():
        path = profile / f"{section}.yaml"
        path.write_text(yaml_dump(yaml_load(path.read_text()) | values))
    return str(profile)


def open_run(profile: str, run_id: str, world: Path):
    """The open stage 06_pipeline of a new run, its data stage done."""
    run, settings = new_run(profile, {}, run_id, pipeline="small")
    small_pipeline.finish_data(run, settings, world)
    return small_pipeline.opened(profile, run_id)


def test_prompts_are_measured_and_chosen_and_groups_replaced_through_a_server(profile, world, tmp_path):
    opened, served = open_run(profile, "whole", world), []
    pipeline = opened.pipeline("small")

    async def watch(job):
        state = read_json(opened.folder / "server" / STATE)
        served.append((job.folder.name, state["state"], state["model"]))
        await job.finished()

    asyncio.run(pipeline.run(watch))
    models = [str(pipeline.data / "base")] * 2 + [str(pipeline.artifact("final"))]
    assert served == [(name, "ready", model) for name, model in zip(pipeline.stages, models, strict=True)]
    assert opened.server is None
    assert read_json(opened.folder / "server" / STATE)["state"] == "stopped"
    assert small_pipeline.workers(opened.run) == []

    asked = 2 * 16 * 4  # two models, 16 prompts, 4 samples of each
    written = read(opened.folder / "final" / "metrics.jsonl")
    rounds = sum(round(row["dynamic/rounds"]) for row in written)
    assert read_json(tmp_path / "generations") == asked + rounds
    assert all(0 < row["dynamic/useful_after"] <= 1 for row in written)
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in models[1:])
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.nightly
def test_a_notebook_killed_beside_its_server_is_resumed_at_once(profile, world, tmp_path, monkeypatch):
    """The old server is still ending then; what it answers depends on the weights alone."""
    contents = []
    for name in ("whole", "broken"):
        # A folder of runs for each: the second would take what the first made for its own.
        monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / name))
        opened = open_run(profile, name, world)
        if name == "broken":
            dying = [sys.executable, "-m", small_pipeline.__name__, profile, name, "final", "2", "notebook"]
            with open(tmp_path / "out.txt", "w") as out:
                code = subprocess.run(dying, stdout=out, stderr=out, start_new_session=True).returncode
            assert code == -signal.SIGKILL, (tmp_path / "out.txt").read_text()
        pipeline = opened.pipeline("small")
        asyncio.run(pipeline.run())
        results = [read_result(pipeline.folder(stage)) for stage in pipeline.stages]
        contents.append([result["origin"]["content"] for result in results])
    assert contents[0] == contents[1]
