"""kill -9 in the middle of a pipeline, five times: the table and the weights are those of an unbroken run."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from r1kit.pipeline import opening, prerequisites
from r1kit.pipeline.stages import STAGES
from r1kit.runs import metrics
from r1kit.runs.folder import Run
from r1kit.runs.results import read_result, write_result
from r1kit.settings import yaml_dump, yaml_load
from r1kit.settings.profile import CONFIG_ROOT

pytestmark = [pytest.mark.failures, pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]

PROGRAM = """
import asyncio, r1kit, sys
values = {"PROFILE": sys.argv[1], "RUN_ID": sys.argv[2], "PIPELINE": "small", "ALSO": []}
run = r1kit.open_stage("06_pipeline", values)
pipeline = run.pipeline("small")
asyncio.run(pipeline.run())
run.finish(metrics={}, artifacts={}, pass_at_1=pipeline.scores())
"""
CHANGES = {
    "data": {
        "prompts": 24,
        "traces": 120,
        "heldout_per_level": 6,
        "levels": [1, 2],
        "heldout_levels": [1, 2],
    },
    "sft": {"max_steps": 5, "warmup_steps": 1, "save_steps": 1, "logging_steps": 1},
    "grpo": {
        "max_steps": 4,
        "warmup_steps": 1,
        "save_steps": 1,
        "logging_steps": 1,
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 16,
        "collapse": None,
        "programs": None,
    },
    "evaluation": {
        "problems_per_level": 6,
        "samples": 2,
        "levels": [1, 2],
        "max_new_tokens": 16,
        "batch_size": 6,
        "k": [1],
        "expect": {},
    },
    "pipeline": {
        "pipelines": {
            "small": {
                "stages": [
                    {"name": "cold", "kind": "sft"},
                    {"name": "final", "kind": "grpo", "model": "cold"},
                    {"name": "judged", "kind": "evaluate", "models": ["cold", "final"]},
                ]
            }
        }
    },
}
STAGES_OF_IT = ("cold", "final", "judged")


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles") / "small"
    shutil.copytree(CONFIG_ROOT / "cpu-tiny", folder)
    for section, values in CHANGES.items():
        path = folder / f"{section}.yaml"
        path.write_text(yaml_dump(yaml_load(path.read_text()) | values))
    return folder


@pytest.fixture
def new_run(profile, world, tmp_path_factory, monkeypatch):
    """A run in a runs folder of its own, its data stage done: the world of the training tests."""
    from r1kit.data import datasets

    def make(name):
        monkeypatch.setenv("R1KIT_RUNS", str(tmp_path_factory.mktemp(name)))
        run, settings = opening.new_run(str(profile), {}, name, pipeline="small")
        folder, made = run.stage("01_data"), ("base", "tokenizer", "traces", "prompts")
        for part in made:
            shutil.copytree(world / part, folder / part)
        shutil.copytree(world / "tokenizer", folder / "base", dirs_exist_ok=True)
        datasets.save({"heldout": datasets.build_heldout(6, 0, [1, 2])}, folder)
        artifacts = {part: part for part in (*made[1:], "heldout")} | {"model": "base"}
        digest = prerequisites.inputs_hash(STAGES["01_data"], settings)
        write_result(folder, stage="01_data", seconds=1, inputs_hash=digest, artifacts=artifacts)
        return run

    return make


def start(profile, run: Run) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "R1KIT_RUNS": str(run.path.parent)}
    with open(run.path / "out.txt", "ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(profile), run.run_id],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def progress(run: Run) -> int:
    """Rows that all stages have logged: it grows with every step and every shard."""
    folder = run.path / "06_pipeline"
    return sum(len(metrics.read(folder / name / "metrics.jsonl")) for name in STAGES_OF_IT)


def kill_when(process: subprocess.Popen, run: Run, rows: int) -> bool:
    """kill -9 of the notebook's process once so many rows are logged; False if it ended before."""
    while progress(run) < rows:
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    process.kill()
    process.wait()
    return True


def gone(run: Run) -> bool:
    """Whether no process that works in the run's folder is left."""
    named = [
        p for p in psutil.process_iter(["cmdline"]) if str(run.path) in " ".join(p.info["cmdline"] or [])
    ]
    return not named


def content(run: Run) -> dict:
    return {name: read_result(run.path / "06_pipeline" / name)["origin"]["content"] for name in STAGES_OF_IT}


def test_five_kills_leave_no_mark_on_the_table_or_the_weights(profile, new_run):
    whole = new_run("whole")
    assert start(profile, whole).wait() == 0, (whole.path / "out.txt").read_text()[-3000:]
    rows = progress(whole)
    broken = new_run("broken")
    places = sorted(random.Random(0).sample(range(1, rows), 5))
    kills = 0
    for place in places:
        kills += kill_when(start(profile, broken), broken, place)
        deadline = time.monotonic() + 120
        while not gone(broken) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert gone(broken), "a killed pipeline leaves nothing running"
    assert kills == 5
    assert start(profile, broken).wait() == 0, (broken.path / "out.txt").read_text()[-3000:]
    tables = [json.loads((run.path / "summary.json").read_text())["pass@1"] for run in (whole, broken)]
    assert tables[0] == tables[1]
    assert content(whole)["final"]["model"] == content(broken)["final"]["model"]
    assert content(whole)["judged"] == content(broken)["judged"]
