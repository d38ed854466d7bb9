"""A pipeline with all kinds of stages that can be killed in seconds, and the program that runs it and dies.

Of its traces half answer 8 and half 3, and 8 is always right: a model that has read them a few times is right
about half of the time, so there is something to sample and groups that teach.

    python -m tests.failures.small_pipeline PROFILE RUN_ID [STAGE ROWS notebook|all]

It kills itself, or everything that works on the run as when a machine goes down, once STAGE has logged ROWS
rows. It does so from inside: seen from outside, a stage could be over between two looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

import psutil

from r1kit.pipeline.stage import Stage, open_stage
from r1kit.pipeline.stages import lesson_hash
from r1kit.runs import jsonl
from r1kit.runs.folder import Run
from r1kit.runs.results import write_result
from r1kit.settings import Profile, yaml_dump, yaml_load
from r1kit.settings.profile import CONFIG_ROOT

ASK = {"prompts": 16, "samples": 4, "max_new_tokens": 12, "batch_size": 16}
PIPELINE = [
    {"name": "cold", "kind": "sft"},
    {"name": "asked", "kind": "pass_rate", "model": "cold", "lowest": 0.2, "highest": 0.8, **ASK},
    {"name": "final", "kind": "grpo", "model": "cold", "data": "asked"},
    {"name": "sampled", "kind": "rejection_sampling", "model": "final", **ASK},
    {"name": "union", "kind": "merge_data", "data": ["sampled", "traces"]},
    {"name": "judged", "kind": "evaluate", "models": ["cold", "final"]},
]
NAMES = [stage["name"] for stage in PIPELINE]
LEVELS = [1, 2]
STEPS = {"warmup_steps": 1, "logging_steps": 1}
GRPO = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 12}
CHANGES = {
    "data": {
        "prompts": 24,
        "traces": 120,
        "heldout_per_level": 8,
        "levels": LEVELS,
        "heldout_levels": LEVELS,
    },
    "sft": {
        "max_steps": 80,
        "per_device_train_batch_size": 8,
        "row_packing": False,
        "save_steps": 20,
        **STEPS,
    },
    "grpo": {
        "rewards": [{"name": "accuracy", "weight": 1.0}],
        "max_steps": 5,
        "save_steps": 2,
        "collapse": None,
        "programs": None,
        **GRPO,
        **STEPS,
    },
    "evaluation": {
        "problems_per_level": 8,
        "samples": 2,
        "levels": LEVELS,
        "max_new_tokens": 12,
        "batch_size": 8,
        "k": [1],
        "expect": {},
    },
}


def write_profile(folder: Path, stages: list[dict] = PIPELINE) -> Path:
    """cpu-tiny with other values and with these stages as its pipeline `small`."""
    shutil.copytree(CONFIG_ROOT / "cpu-tiny", folder)
    for section, values in {**CHANGES, "pipeline": {"pipelines": {"small": {"stages": stages}}}}.items():
        path = folder / f"{section}.yaml"
        path.write_text(yaml_dump(yaml_load(path.read_text()) | values))
    return folder


def finish_data(run: Run, settings: Profile, world: Path) -> None:
    """What stage 01_data would leave in the run, with the model and the tokenizer of `world`."""
    from r1kit.data import datasets

    traces = datasets.build_traces(120, 0, LEVELS)
    for number, trace in enumerate(traces):
        trace["messages"][1]["content"] = f"</think>\\boxed{{{(8, 3)[number % 2]}}}"
    prompts, heldout = datasets.build_prompts(24, 0, LEVELS), datasets.build_heldout(8, 0, LEVELS)
    made, folder = {"traces": traces, "prompts": prompts, "heldout": heldout}, run.stage("01_data")
    datasets.save({name: [row | {"solution": "8"} for row in rows] for name, rows in made.items()}, folder)
    for part in ("base", "tokenizer"):
        shutil.copytree(world / part, folder / part)
    shutil.copytree(world / "tokenizer", folder / "base", dirs_exist_ok=True)
    artifacts = {part: part for part in ("tokenizer", *made)} | {"model": "base"}
    digest = lesson_hash("01_data", settings)
    write_result(folder, stage="01_data", seconds=1, inputs_hash=digest, artifacts=artifacts)


def logged(run: Run, stage: str) -> int:
    """Rows that a stage has logged: one a step, or one a shard."""
    return len(jsonl.read(run.path / "06_pipeline" / stage / "metrics.jsonl"))


def workers(run: Run) -> list[psutil.Process]:
    """Every living process, except this one, that was started with the run's folder of runs."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("R1KIT_RUNS") == str(run.path.parent)
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def die(run: Run, how: str) -> None:
    """kill -9 of this process, before it of all others if `how` is "all"."""
    for process in workers(run) if how == "all" else []:
        with contextlib.suppress(psutil.Error):
            process.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def dying_at(run: Run, stage: str, rows: int, how: str):
    """A watcher of jobs that dies once `stage` has logged so many rows."""

    async def watch(job) -> None:
        ended = False
        while not ended:
            ended = job.poll() is not None  # before the rows are counted: the last ones are seen
            if job.folder.name == stage and logged(run, stage) >= rows:
                die(run, how)
            await asyncio.sleep(0.02)
        await job.finished()

    return watch


def opened(profile: str, run_id: str) -> Stage:
    """The stage 06_pipeline of the run, as the notebook opens it."""
    values = {"PROFILE": profile, "RUN_ID": run_id, "PIPELINE": "small", "ALSO": []}
    return open_stage("06_pipeline", values)


def main(profile: str, run_id: str, stage: str = "", rows: str = "0", how: str = "notebook") -> None:
    """What the notebook does."""
    lesson = opened(profile, run_id)
    pipeline = lesson.pipeline("small")
    asyncio.run(pipeline.run(dying_at(lesson.run, stage, int(rows), how) if stage else None))
    lesson.finish(metrics={}, artifacts={}, pass_at_1=pipeline.scores())


if __name__ == "__main__":
    main(*sys.argv[1:])
