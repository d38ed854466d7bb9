"""Compare variants of a GRPO training: steps, tokens and seconds until pass@1 on a level reaches a target.

The start is the folder of any GRPO training that ran (`RUN/06_pipeline/reasoning`). Each arm changes values
of its grpo.yaml, and each seed trains all arms. The trainings evaluate held-out problems every few steps; the
time for that is not counted. The cost of a target is where a curve first reaches it, interpolated between two
points, averaged over seeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.runs import jsonl
from r1kit.runs.files import write_text_atomic
from r1kit.runs.launch import Job, launch
from r1kit.settings import Problem, SettingsError, nearest_name, yaml_dump, yaml_load
from r1kit.settings.profile import validate_section
from r1kit.settings.validation import Source
from r1kit.training.rl.heldout import PASS

ARMS: dict[str, dict[str, Any]] = {
    "none": {"curriculum": None, "dynamic_sampling": None},
    "levels": {"curriculum": {"strategy": "levels"}, "dynamic_sampling": None},
    "pass_rate": {"curriculum": {"strategy": "pass_rate"}, "dynamic_sampling": None},
    "dynamic": {"curriculum": None, "dynamic_sampling": {"max_extra": 1.0}},
}
"""Named arms; `r1kit bench grpo --arm NAME=JSON` defines others."""
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
    """Train the arms that `folder` does not have yet; return the curves of each arm, one per seed.

    Args:
        training: the folder of a GRPO training; its resolved.yaml names model, prompts and problems.
        folder: the folder to train the arms in; a second call resumes.
        arms: name -> keys of grpo.yaml and their values.
        level: level of the held-out problems, each answered `samples` times.
        every: steps between two points of a curve.
        parallel: trainings at the same time; each gets its share of the cores.

    Raises:
        SettingsError: `training` is not a GRPO training, or an arm's keys or values are wrong.
        JobFailed: a training failed.
    """
    jobs = {
        Path(folder) / f"{name}-{seed}": _settings_of(
            Path(training), name, {**changes, "seed": seed}, level, every, samples
        )
        for seed in range(seeds)
        for name, changes in arms.items()
    }  # all of them are checked before a folder is made
    waiting = [place for place in jobs if not (place / "model").is_dir()]
    for place in waiting:
        _prepare(place, jobs[place], level)
    _train(waiting, parallel, tell)
    return {
        name: [curve(Path(folder) / f"{name}-{seed}" / "metrics.jsonl") for seed in range(seeds)]
        for name in arms
    }


def parse_arms(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse the arms of the command line: a known name, or NAME=JSON.

    Raises:
        SettingsError: a name is unknown, or the text after it is not a JSON object.
    """
    arms = {}
    for word in words:
        name, given, changes = word.partition("=")
        if not given and name not in ARMS:
            nearest = nearest_name(name, ARMS)
            raise SettingsError([Problem("--arm", name, "no such arm", ", ".join(ARMS), nearest)])
        try:
            arms[name] = dict(json.loads(changes)) if given else ARMS[name]
        except (ValueError, TypeError):
            allowed = '{"curriculum": {"strategy": "levels"}}'
            raise SettingsError([Problem("--arm", name, changes, allowed)]) from None
    return arms


def _settings_of(
    training: Path, name: str, changes: Mapping[str, Any], level: int, every: int, samples: int
) -> dict[str, Any]:
    """Return the training's settings with an arm's changes, evaluations, and absolute paths."""
    path = training / "resolved.yaml"
    settings = yaml_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    inputs = settings.get("inputs") or {}
    if not {"model", "prompts", "heldout"} <= set(inputs):
        allowed = "the folder of a GRPO training with held-out problems: RUN/06_pipeline/reasoning"
        raise SettingsError([Problem(str(training), "", "no such training", allowed)])
    evaluation = {"eval_every": every, "eval_samples": samples, "save_steps": settings["grpo"]["max_steps"]}
    grpo = settings["grpo"] | evaluation | changes
    problems = validate_section("grpo", grpo, Source("grpo", f"--arm {name}"))[1]
    if problems:
        raise SettingsError(problems)
    settings |= {"grpo": grpo, "inputs": {k: str((training / v).resolve()) for k, v in inputs.items()}}
    settings["evaluation"]["problems_per_level"] = 0  # 0 allows all held-out problems
    settings["data"]["levels"] = [level]
    return settings


def _prepare(place: Path, settings: dict[str, Any], level: int) -> None:
    """Write the job folder of one arm and seed, with the held-out problems of the level."""
    from datasets import Dataset, load_from_disk

    rows = [row for row in load_from_disk(settings["inputs"]["heldout"]) if row["level"] == level]
    place.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).save_to_disk(place / "heldout")
    settings["inputs"]["heldout"] = str((place / "heldout").resolve())
    settings["grpo"]["eval_problems"] = len(rows)
    write_text_atomic(place / "resolved.yaml", yaml_dump(settings))


def _train(waiting: Sequence[Path], parallel: int, tell: Callable[[str], None]) -> None:
    from r1kit.machine.resources import cores

    threads = {"OMP_NUM_THREADS": str(max(1, cores() // parallel))}
    left, running = list(waiting), list[Job]()
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
    """Return the points of a training: steps, tokens and seconds so far, and pass@1."""
    points, evaluating, tokens = [], 0.0, 0.0
    for row in jsonl.read(path):
        tokens = row.get("num_tokens", tokens)
        if PASS in row:
            evaluating += row["heldout/seconds"]
            spent = {"steps": row["step"], "tokens": tokens, "seconds": row["seconds"] - evaluating}
            points.append(spent | {"pass@1": row[PASS]})
    return points


def cost_of(points: Sequence[Mapping[str, float]], target: float) -> dict[str, float] | None:
    """Return the cost at which a curve first reaches `target`, between two points; None if it never does."""
    before = {"steps": 0.0, "tokens": 0.0, "seconds": 0.0, "pass@1": None}
    for point in points:
        if point["pass@1"] >= target:
            start = before["pass@1"]
            share = 1.0 if start is None else (target - start) / (point["pass@1"] - start)
            return {cost: before[cost] + share * (point[cost] - before[cost]) for cost in COSTS}
        before = point
    return None


def compare(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], targets: Sequence[float]
) -> dict[str, Any]:
    """Return for each target and arm the mean cost over seeds, and its ratio to the first arm's.

    Returns:
        target -> arm -> steps, tokens and seconds (means, None if a seed did not reach the target), the
        `ratio` of each, and `reached`, the number of seeds that reached the target.
    """
    results: dict[str, Any] = {}
    for target in targets:
        rows: dict[str, Any] = {}
        for name, seeds in curves.items():
            costs = [cost_of(points, target) for points in seeds]
            reached = [cost for cost in costs if cost is not None]
            whole = len(reached) == len(costs)
            means = {c: sum(cost[c] for cost in reached) / len(costs) if whole else None for c in COSTS}
            rows[name] = means | {"reached": len(reached)}
        first = next(iter(rows.values()))
        for row in rows.values():
            row["ratio"] = {c: row[c] / first[c] if row[c] and first[c] else None for c in COSTS}
        results[str(target)] = rows
    return results


def table(curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], targets: Sequence[float]) -> str:
    """Write the comparison as text."""
    arms = list(curves)
    lines = [f"until pass@1 reaches a target, mean of {len(curves[arms[0]])} seeds (ratio to {arms[0]})"]
    for target, rows in compare(curves, targets).items():
        for name, row in rows.items():
            cells = [f"{_number(row[c]):>9} ({_number(row['ratio'][c], 2)}) {c}" for c in COSTS]
            lines.append(f"  {target:>5}  {name:12} " + "  ".join(cells) + f"  by {row['reached']}")
    return "\n".join(lines)


def _number(value: float | None, digits: int = 0) -> str:
    return "never" if value is None else f"{value:,.{digits}f}"
