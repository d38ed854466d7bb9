"""`r1kit bench`: measure a part of r1kit side by side with an alternative, or by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1kit.cli.options import JsonOption, WorkersOption, say, show

benchmarks = typer.Typer(
    help="Measure the speed of a part of r1kit, next to its alternatives.", no_args_is_help=True
)


@benchmarks.command("rewards")
def bench_rewards(as_json: JsonOption = False) -> None:
    """Compare the accuracy reward with math-verify, which judges one answer after the other."""
    from r1kit.cli.benchmarks import rewards

    measured = rewards.bench()
    show(measured, as_json, lambda: rewards.table(measured))


@benchmarks.command("sandbox")
def bench_sandbox(as_json: JsonOption = False) -> None:
    """Measure runs per second in each tier of the sandbox, compared with plain Python."""
    from r1kit.cli.benchmarks import sandbox

    measured = sandbox.bench()
    show(measured, as_json, lambda: sandbox.table(measured))


@benchmarks.command("evaluation")
def bench_evaluation(
    model: Annotated[str, typer.Option(help="A model folder.", show_default="random weights")] = "",
    profile: Annotated[str, typer.Option(help="A profile whose machine.yaml has a server.")] = "cpu-cluster",
    problems: Annotated[int, typer.Option(min=8, help="Problems sent to the server.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Compare an evaluation by a vLLM server with one answer after the other, on the same cores."""
    from r1kit.cli.benchmarks import evaluation

    measured = evaluation.bench(model, profile, problems, tell=say)
    show(measured, as_json, lambda: evaluation.table(measured))


@benchmarks.command("data")
def bench_data(
    rows: Annotated[int, typer.Option(help="Traces to make and prepare.", min=100)] = 20_000,
    workers: WorkersOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure the preparation of real data: rows per second of one core, and memory."""
    from r1kit.cli.benchmarks import data
    from r1kit.machine.resources import cores

    measured = data.bench_preparation(rows, workers or cores())
    show(measured, as_json, lambda: data.table(measured))


@benchmarks.command("curation")
def bench_curation(
    rows: Annotated[int, typer.Option(help="Traces to make and curate.", min=100)] = 10_000,
    workers: WorkersOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure the curation of real data: rows per second of one core, memory, and planted rows found."""
    from r1kit.cli.benchmarks import data
    from r1kit.machine.resources import cores

    measured = data.bench_curation(rows, workers or cores())
    show(measured, as_json, lambda: data.table(measured))


@benchmarks.command("grpo")
def bench_grpo(
    training: Annotated[
        Path, typer.Argument(help="The folder of a GRPO training: RUN/06_pipeline/reasoning.")
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="A folder for the trainings; the same command resumes.")
    ],
    arms: Annotated[
        list[str],
        typer.Option(
            "--arm",
            help="NAME or NAME=JSON with keys of grpo.yaml; the others are compared with the first arm.",
        ),
    ] = ("none", "levels"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per arm.")] = 3,
    level: Annotated[int, typer.Option(help="Level of the held-out problems.")] = 3,
    every: Annotated[int, typer.Option(min=1, help="Steps between two evaluations.")] = 5,
    targets: Annotated[list[float], typer.Option("--target", help="pass@1 to reach.")] = (0.5, 0.6),
    parallel: Annotated[int, typer.Option(min=1, help="Trainings at the same time.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Compare variants of a GRPO training: steps, tokens and seconds until pass@1 reaches a target."""
    from r1kit.cli.benchmarks import grpo

    arms = grpo.parse_arms(arms)
    curves = grpo.bench(training, folder, arms, seeds, level, every, parallel=parallel, tell=say)
    content = {"curves": curves, "targets": grpo.compare(curves, targets)}
    show(content, as_json, lambda: grpo.table(curves, targets))
