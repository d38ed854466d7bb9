"""`r1kit bench`: a part measured side by side with what it replaces."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from r1kit.cli.options import JsonOption

benchmarks = typer.Typer(help="Measure a part side by side with what it replaces.", no_args_is_help=True)


@benchmarks.command("rewards")
def bench_rewards(as_json: JsonOption = False) -> None:
    """The accuracy reward beside math-verify called one answer after the other."""
    from r1kit.cli.benchmarks import rewards

    found = rewards.bench()
    print(json.dumps(found, indent=1) if as_json else rewards.table(found))


@benchmarks.command("sandbox")
def bench_sandbox(as_json: JsonOption = False) -> None:
    """Runs per second in each tier of the sandbox, beside bare Python's."""
    from r1kit.cli.benchmarks import sandbox

    found = sandbox.bench()
    print(json.dumps(found, indent=1) if as_json else sandbox.table(found))


@benchmarks.command("evaluation")
def bench_evaluation(
    model: Annotated[str, typer.Option(help="A model folder; random weights otherwise.")] = "",
    profile: Annotated[str, typer.Option(help="Whose machine.yaml has a server.")] = "cpu-cluster",
    problems: Annotated[int, typer.Option(min=8, help="Asked through the server.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """An evaluation through a vLLM server beside one answer after the other, on the same cores."""
    from r1kit.cli.benchmarks import evaluation

    found = evaluation.bench(model, profile, problems, tell=lambda line: print(line, file=sys.stderr))
    print(json.dumps(found, indent=1) if as_json else evaluation.table(found))


@benchmarks.command("data")
def bench_data(
    rows: Annotated[int, typer.Option(help="Traces that are made and prepared.", min=100)] = 20_000,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes all cores.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Preparing real data: rows a second of one core, and memory, at Mixture-of-Thoughts' lengths."""
    from r1kit.cli.benchmarks import data
    from r1kit.machine.resources import cores

    found = data.bench(rows, workers or cores())
    print(json.dumps(found, indent=1) if as_json else data.table(found))


@benchmarks.command("curation")
def bench_curation(
    rows: Annotated[int, typer.Option(help="Traces that are made and curated.", min=100)] = 10_000,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes all cores.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Curating real data: rows a second of one core, memory, and how much of what was planted is found."""
    from r1kit.cli.benchmarks import curation
    from r1kit.machine.resources import cores

    found = curation.bench(rows, workers or cores())
    print(json.dumps(found, indent=1) if as_json else curation.table(found))


@benchmarks.command("grpo")
def bench_grpo(
    training: Annotated[Path, typer.Argument(help="Folder of a GRPO training: RUN/06_pipeline/reasoning.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the trainings go; called again, it goes on.")],
    arms: Annotated[
        list[str],
        typer.Option("--arm", help="NAME or NAME=JSON of grpo.yaml's keys; the first is compared with."),
    ] = ("none", "levels"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 3,
    level: Annotated[int, typer.Option(help="Level of the held-out problems that are asked.")] = 3,
    every: Annotated[int, typer.Option(min=1, help="Steps between two askings.")] = 5,
    targets: Annotated[list[float], typer.Option("--target", help="pass@1 to be reached.")] = (0.5, 0.6),
    parallel: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Variants of a GRPO training: steps, tokens and seconds until held-out problems are solved as often."""
    from r1kit.cli.benchmarks import grpo

    curves = grpo.bench(
        training,
        folder,
        grpo.arms_of(arms),
        seeds,
        level,
        every,
        parallel=parallel,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    found = {"curves": curves, "targets": grpo.compared(curves, targets)}
    print(json.dumps(found, indent=1) if as_json else grpo.table(curves, targets))
