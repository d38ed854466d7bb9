"""A pipeline's checkpoints on held-out problems (`python -m r1kit.evaluation.checkpoints JOB/resolved.yaml`).

A shard is some problems of one level, asked of one checkpoint with a seed of its own, and a file of its own:
a program that was killed goes on with the next shard, and ends with the same rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1kit.runs import metrics
from r1kit.settings import Problem, SettingsError
from r1kit.training import program


def judge(job: program.Job) -> None:
    """Ask every checkpoint in `parameters.names` and write `<name>.parquet` for each."""
    import pandas as pd

    from r1kit.data import datasets
    from r1kit.evaluation.evaluate import (
        choose_problems,
        evaluate_model,
        load_checkpoint,
        load_results,
        save_results,
    )

    how = job.settings["evaluation"]
    if "problems_per_level" not in how:
        message = (
            "A pipeline's checkpoints are asked held-out problems by level; this profile has benchmarks."
        )
        raise SettingsError([Problem("evaluation.yaml", "benchmarks", message=message)])
    problems = choose_problems(datasets.load(job.inputs["heldout"]), how["problems_per_level"])
    size = max(1, how["batch_size"] // how["samples"])
    names = job.settings["parameters"]["names"]
    total = len(names) * len(list(portions(problems, size)))
    done = 0
    for name in names:
        loaded, frames = None, []
        for label, seed, portion in portions(problems, size):
            path = job.folder / "shards" / name / f"{label}.parquet"
            done += 1
            if not path.exists():
                loaded = loaded or load_checkpoint(job.inputs[name], job.device)
                told = how | {"problems_per_level": len(portion), "seed": how["seed"] + seed}
                frame = evaluate_model(*loaded, portion, told)
                speed = frame.attrs.pop("tokens_per_second")
                save_results(frame, path)
                report(job, done, total, speed)
            frames.append(load_results(path))
        if job.watchdog:
            job.watchdog.finish()
        save_results(pd.concat(frames, ignore_index=True), job.folder / f"{name}.parquet")
        print(f"{name}: {sum(map(len, frames))} answers", flush=True)


def portions(
    problems: Sequence[dict[str, Any]], size: int
) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
    """(label, what to add to the seed, problems of one level): all problems in portions of at most `size`."""
    for level in sorted({row["level"] for row in problems}):
        rows = [row for row in problems if row["level"] == level]
        for part, first in enumerate(range(0, len(rows), size)):
            yield f"level_{level}-{part:03d}", 1000 * level + part, rows[first : first + size]


def report(job: program.Job, done: int, total: int, speed: float) -> None:
    """A row of metrics.jsonl, for whoever watches; what an attempt before wrote of this shard goes."""
    metrics.truncate_after(job.metrics, done - 1)
    row = {"step": done, "total_steps": total, "tokens_per_second": speed}
    metrics.append(job.metrics, row)
    if job.watchdog:
        job.watchdog.beat(done)


def rows_of(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """What the program wrote, by checkpoint, in the order of `names`."""
    from r1kit.evaluation.evaluate import load_results

    return {name: load_results(folder / f"{name}.parquet") for name in names}


def main(arguments: list[str] | None = None) -> int:
    """Program entry; returns the exit code."""
    return program.run(judge, arguments)


if __name__ == "__main__":
    sys.exit(main())
