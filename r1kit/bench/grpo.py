"""Variants of a GRPO training raced against each other: how many steps, tokens and seconds until held-out
problems of a level are solved as often?

The start is the folder of any GRPO training that ran (`RUN/06_pipeline/reasoning`). Each arm changes values of
its grpo.yaml; each seed trains all arms; held-out problems are asked every few steps on the way, and the
time that this takes is not counted. What is compared is the mean over seeds of where a curve first reaches
a target, between two points on a line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.runs import metrics
from r1kit.runs.launch import Job, launch
from r1kit.settings import yaml_dump, yaml_load
from r1kit.training.heldout import PASS

ARMS: dict[str, dict[str, Any]] = {
    "none": {"curriculum": None, "dynamic_sampling": None},
    "levels": {"curriculum": {"strategy": "levels"}, "dynamic_sampling": None},
    "pass_rate": {"curriculum": {"strategy": "pass_rate"}, "dynamic_sampling": None},
    "dynamic": {"curriculum": None, "dynamic_sampling": {"max_extra": 1.0}},
}
COSTS = ("steps", "tokens", "seconds")


def bench(
    training: str | Path,
    folder: str | Path,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: int = 3,
    level: int = 3,
    every: int = 5,
    samples: int = 4,
    parallel: int = 1,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, list[list[dict[str, float]]]]:
    """Train what `folder` does not hold yet; the curves of each arm, one a seed.

    Args:
        training: the folder of a GRPO training, whose resolved.yaml names model, prompts and problems.
        folder: where the arms are trained; called again, it goes on.
        arms: names -> keys of grpo.yaml and their values.
        level: of the held-out problems that are asked, as often as `samples`.
        every: steps between two points of a curve.
        parallel: trainings at a time; each gets its share of the cores.

    Raises:
        FileNotFoundError: `training` is no such folder.
        JobFailed: a training did not end well.
    """
    waiting = []
    for seed in range(seeds):
        for name, changes in arms.items():
            place = Path(folder) / f"{name}-{seed}"
            if not (place / "model").is_dir():
                _prepare(Path(training), place, {**changes, "seed": seed}, level, every, samples)
                waiting.append(place)
    _train(waiting, parallel, tell)
    return {
        name: [curve(Path(folder) / f"{name}-{seed}" / "metrics.jsonl") for seed in range(seeds)]
        for name in arms
    }


def _prepare(
    training: Path, place: Path, changes: Mapping[str, Any], level: int, every: int, samples: int
) -> None:
    """The job folder of one arm and seed."""
    from datasets import load_from_disk

    settings = yaml_load((training / "resolved.yaml").read_text(encoding="utf-8"))
    inputs = {role: str((training / path).resolve()) for role, path in settings["inputs"].items()}
    rows = load_from_disk(inputs["heldout"])
    rows = rows.select([index for index, found in enumerate(rows["level"]) if found == level])
    place.mkdir(parents=True, exist_ok=True)
    rows.save_to_disk(place / "heldout")
    settings["inputs"] = inputs | {"heldout": str((place / "heldout").resolve())}
    settings["evaluation"]["problems_per_level"] = 0
    settings["data"]["levels"] = [level]
    asked = {"eval_every": every, "eval_problems": len(rows), "eval_samples": samples}
    settings["grpo"] |= {**asked, "save_steps": settings["grpo"]["max_steps"], **changes}
    (place / "resolved.yaml").write_text(yaml_dump(settings), encoding="utf-8")


def _train(waiting: Sequence[Path], parallel: int, tell: Callable[[str], None]) -> None:
    """Train the folders in order, so many at a time."""
    from r1kit.machine.resources import cores

    threads = {"OMP_NUM_THREADS": str(max(1, cores() // parallel))}
    left, running = list(waiting), []
    try:
        while left or running:
            while left and len(running) < parallel:
                tell(f"{left[0].name} starts, {len(left) - 1} after it")
                job = launch("r1kit.training.grpo", left.pop(0), environment=threads, accelerate=False)
                running.append(job)
            for job in [job for job in running if job.poll() is not None]:
                running.remove(job)
                job.wait()
            time.sleep(0.2)
    finally:
        for job in running:
            job.stop()


def curve(path: Path) -> list[dict[str, float]]:
    """The points of a training: steps, tokens and seconds spent so far, and pass@1."""
    points, asking, tokens = [], 0.0, 0.0
    for row in metrics.read(path):
        tokens = row.get("num_tokens", tokens)
        if PASS in row:
            asking += row["heldout/seconds"]
            spent = {"steps": row["step"], "tokens": tokens, "seconds": row["seconds"] - asking}
            points.append(spent | {"pass@1": row[PASS]})
    return points
