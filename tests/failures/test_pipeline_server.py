"""A pipeline whose answers a server writes: each stage that asks has its own model there, and none stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import r1kit
from r1kit.pipeline.opening import new_run
from r1kit.runs.files import read_json
from r1kit.runs.metrics import read
from r1kit.runs.server_files import STATE
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
def opened(world, tmp_path, monkeypatch):
    """The open stage 06_pipeline of a run whose profile has the stand-in as its server."""
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
            "grace_seconds": 5,
        },
        "grpo": GRPO | CHOSEN | {"max_steps": 3, "save_steps": 3, "per_device_train_batch_size": 8},
    }
    for section, values in changes.items():
        path = profile / f"{section}.yaml"
        path.write_text(yaml_dump(yaml_load(path.read_text()) | values))
    run, settings = new_run(str(profile), {}, "small", pipeline="small")
    small_pipeline.finish_data(run, settings, world)
    values = {"PROFILE": str(profile), "RUN_ID": "small", "PIPELINE": "small", "ALSO": []}
    return r1kit.open_stage("06_pipeline", values)


def test_prompts_are_measured_and_chosen_and_groups_replaced_through_a_server(opened, tmp_path):
    pipeline, served = opened.pipeline("small"), []

    async def watch(job):
        state = read_json(opened.server.folder / STATE)
        served.append((job.folder.name, state["state"], state["model"]))
        await job.finished()

    asyncio.run(pipeline.run(watch))
    models = [str(pipeline.data / "base")] * 2 + [str(pipeline.artifact("final"))]
    assert served == [(name, "ready", model) for name, model in zip(pipeline.stages, models, strict=True)]
    assert opened.server is None
    assert read_json(opened.folder / "server" / STATE)["state"] == "stopped"
    assert small_pipeline.workers(opened.run) == []

    shards = 2 * 2  # 16 prompts, 8 in a shard, asked of two models
    written = read(opened.folder / "final" / "metrics.jsonl")
    rounds = sum(round(row["dynamic/rounds"]) for row in written)
    assert read_json(tmp_path / "generations") == shards + rounds
    assert all(0 < row["dynamic/useful_after"] <= 1 for row in written)
    before, after = (load_file(folder / "model.safetensors") for folder in map(Path, models[1:]))
    assert any(not torch.equal(before[name], after[name]) for name in before)
