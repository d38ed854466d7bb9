"""`r1kit eval`: a model on a profile's problems, or on benchmarks by name.

`r1kit compare`: are two models really different? Paired, on the problems that both answered.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from r1kit.cli.options import DEFAULT_PROFILE, JsonOption, ProfileOption, SetOption
from r1kit.runs.outcome import ExitCode

if TYPE_CHECKING:
    from r1kit.evaluation.sampler import Progress


def eval_(
    model: Annotated[
        str, typer.Argument(help="A model folder, such as runs/<run>/04_grpo/model, or a hub id.")
    ] = "",
    profile: ProfileOption = DEFAULT_PROFILE,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="aime24, aime25, math_500, gpqa_diamond, lcb or gsm8k; again for more of them."),
    ] = None,
    server: Annotated[
        str, typer.Option(help="A running server: its address, or its folder of `r1kit serve`.")
    ] = "",
    samples: Annotated[int | None, typer.Option(min=1, help="Answers to each problem.")] = None,
    set_: SetOption = None,
    second_opinion: Annotated[
        str,
        typer.Option(help="`judge`: lighteval judges the same answers; `model`: it asks the model itself."),
    ] = "",
    resume: Annotated[str, typer.Option(help="Go on with this evaluation: its folder, or its name.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Ask a model every problem several times; print scores with 95% intervals and published results
    beside.
    """
    from r1kit.cli.data import stop_like_ctrl_c
    from r1kit.evaluation import evaluation_folder
    from r1kit.evaluation.evaluation_folder import add_second_opinion, check_second_opinion
    from r1kit.evaluation.report import render
    from r1kit.evaluation.server_sampler import EndpointLost, NotAllowed, Unanswered
    from r1kit.runs.files import shown
    from r1kit.runs.jsonl import LogInUse
    from r1kit.runs.launch import JobFailed
    from r1kit.settings import parse_overrides

    if second_opinion:
        check_second_opinion(second_opinion)
    if resume:
        folder = evaluation_folder.find_evaluation(resume)
    elif model:
        folder = evaluation_folder.new_evaluation(
            model, profile, parse_overrides(set_ or []), benchmark or (), samples, server
        )
    else:
        raise typer.BadParameter("name a model, or an evaluation with --resume")

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    tell(f"{shown(folder)}; a stopped evaluation goes on with r1kit eval --resume {folder.name}")
    stopped = stop_like_ctrl_c()
    try:
        result = evaluation_folder.run_evaluation(folder, server=server, progress=counter(tell), tell=tell)
        if second_opinion:
            result = add_second_opinion(folder, second_opinion)
    except (EndpointLost, NotAllowed, LogInUse, Unanswered, JobFailed, FileNotFoundError) as error:
        tell(str(error))
        raise typer.Exit(ExitCode.FAILED) from None
    except KeyboardInterrupt:
        tell(f"stopped; what was answered is kept: r1kit eval --resume {folder.name}")
        raise typer.Exit(ExitCode.TERMINATED if stopped else ExitCode.INTERRUPTED) from None
    print(json.dumps(result, indent=1) if as_json else render(result))


def counter(tell: Callable[[str], None]) -> Progress:
    """A progress function that says now and then how far an evaluation is."""
    from r1kit.evaluation.sampler import now_and_then
    from r1kit.views.progress import clock

    def line(done: int, wanted: int, seconds_each: float | None) -> None:
        if seconds_each and done < wanted:
            tell(f"{done} of {wanted} answers, left {clock(seconds_each * (wanted - done))}")

    return now_and_then(line)


eval_.__name__ = "eval"  # typer's name for the command; Python has one of its own


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="An evaluation, or a checkpoint of a run: <run>/sft.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The one beside it: <run>/grpo.")],
    as_json: JsonOption = False,
) -> None:
    """Difference of two evaluations on the same problems, with a 95% interval and a p-value."""
    from r1kit.evaluation.checkpoints import load_results
    from r1kit.evaluation.evaluation_folder import EvaluationError, rows_of
    from r1kit.evaluation.report import render_comparison
    from r1kit.evaluation.statistics import compare_frames

    frames = [load_results(rows_of(name)) for name in (first, second)]
    try:
        compared = compare_frames(*frames)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    if as_json:
        print(
            json.dumps(
                {name: asdict(pair) | {"verdict": pair.verdict} for name, pair in compared.items()}, indent=1
            )
        )
    else:
        print(render_comparison(first, second, compared))
