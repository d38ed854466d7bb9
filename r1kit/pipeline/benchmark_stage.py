"""A pipeline's checkpoints on benchmarks (`python -m r1kit.pipeline.benchmark_stage JOB/resolved.yaml`).

The evaluator is that of 05_evaluation and `r1kit eval`: it answers in this process, or through a vLLM server,
one checkpoint after the other, each with a server of its own that ends before the next one starts. Every
answer is kept as it comes; a program that was killed goes on with what is missing. Profiles of the embedded
world have `r1kit.evaluation.checkpoints` instead.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from r1kit.evaluation.evaluate import load_results, save_results
from r1kit.evaluation.questions import questions_of
from r1kit.evaluation.report import render, scores
from r1kit.pipeline.answered import answered
from r1kit.rewards.shared_sandbox import configure_by
from r1kit.runs import metrics
from r1kit.settings.benchmarks import BenchmarkSettings
from r1kit.settings.models import MachineSettings
from r1kit.training import program

EVERY = 5.0  # seconds between two rows of metrics.jsonl


def judge(job: program.Job) -> None:
    """Ask every checkpoint in `parameters.names` and write `<name>.parquet` for each.

    Raises:
        BenchmarkError: a benchmark's rows are not there, or not what is expected.
        Unanswered, EndpointLost: the server refused or is gone (`r1kit.evaluation.served`).
    """
    settings = BenchmarkSettings.model_validate(job.settings["evaluation"])
    machine = MachineSettings.model_validate(job.settings["machine"])
    configure_by(machine.sandbox)  # LiveCodeBench's programs
    questions = questions_of(settings, mirror=job.settings["data"].get("mirror"))
    each = sum(question.samples + settings.greedy for question in questions)
    names = job.settings["parameters"]["names"]
    metrics.truncate_after(job.metrics, -1)  # what is on disk already is counted again, in a moment
    for number, name in enumerate(names):
        path = job.folder / f"{name}.parquet"
        count = counter(job, number * each, len(names) * each)
        if not path.exists():
            frame = answered(
                job.folder / "answers" / name, machine, settings, job.inputs[name], questions,
                progress=count, tell=say,
            )  # fmt: skip
            save_results(frame, path)
        else:
            count(each, each)
        if job.watchdog:
            job.watchdog.finish()
        found = scores(load_results(path), settings.k, name)
        sampling = f"temperature {settings.temperature:g}, top_p {settings.top_p:g}"
        say(render({"model": name, "sampling": sampling, "scores": found}))


def counter(job: program.Job, before: int, total: int) -> Callable[[int, int], None]:
    """A function of (answers done, wanted) of one checkpoint: a row of metrics.jsonl now and then.

    Args:
        before: answers of the checkpoints before it.
        total: of all checkpoints.
    """
    start = last = time.monotonic()
    first: int | None = None

    def count(done: int, wanted: int) -> None:
        nonlocal last, first
        now, first = time.monotonic(), done if first is None else first
        if job.watchdog and done < wanted:
            job.watchdog.beat(before + done)
        if done < wanted and now - last < EVERY:
            return
        last = now
        row = {"step": before + done, "total_steps": total}
        if done > first:
            # Of the checkpoints to come nothing is known but that they are asked as much.
            row["seconds_left"] = (now - start) / (done - first) * (total - before - done)
        metrics.append(job.metrics, row)

    return count


def say(line: str) -> None:
    """Into train.log, at once."""
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Program entry; returns the exit code."""
    return program.run(judge, arguments)


if __name__ == "__main__":
    sys.exit(main())
