"""`r1kit eval` evaluates a model, `r1kit compare` tests whether two evaluations differ."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from r1kit.cli.options import (
    DEFAULT_PROFILE,
    JsonOption,
    ProfileOption,
    SetOption,
    say,
    show,
    stop_like_ctrl_c,
)
from r1kit.runs.outcome import ExitCode


def eval_(
    model: Annotated[
        str, typer.Argument(help="A model folder, such as runs/<run>/04_grpo/model, or a hub id.")
    ] = "",
    profile: ProfileOption = DEFAULT_PROFILE,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            help="aime24, aime25, math_500, gpqa_diamond, lcb or gsm8k; repeat the option for several."
        ),
    ] = None,
    server: Annotated[
        str, typer.Option(help="A running server: its address, or the folder of `r1kit serve`.")
    ] = "",
    samples: Annotated[int | None, typer.Option(min=1, help="Answers per problem.")] = None,
    set_: SetOption = None,
    second_opinion: Annotated[
        str,
        typer.Option(help="`judge`: lighteval judges the same answers; `model`: it asks the model too."),
    ] = "",
    resume: Annotated[str, typer.Option(help="Resume this evaluation: its folder, or its name.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model; print its scores with 95% intervals, next to published results."""
    from r1kit.evaluation import evaluation_folder
    from r1kit.evaluation.evaluation_folder import add_second_opinion, check_second_opinion
    from r1kit.evaluation.report import render
    from r1kit.evaluation.sampler import now_and_then
    from r1kit.evaluation.server_sampler import EndpointLost, NotAllowed, Unanswered
    from r1kit.runs.files import shown
    from r1kit.runs.jsonl import LogInUse
    from r1kit.runs.launch import JobFailed
    from r1kit.settings import parse_overrides
    from r1kit.views.progress import clock

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

    def tell_progress(done: int, wanted: int, seconds_each: float | None) -> None:
        if seconds_each and done < wanted:
            say(f"{done} of {wanted} answers, left {clock(seconds_each * (wanted - done))}")

    say(f"{shown(folder)}; if stopped, resume with r1kit eval --resume {folder.name}")
    stopped = stop_like_ctrl_c()
    try:
        result = evaluation_folder.run_evaluation(
            folder, server=server, progress=now_and_then(tell_progress), tell=say
        )
        if second_opinion:
            result = add_second_opinion(folder, second_opinion)
    except (EndpointLost, NotAllowed, LogInUse, Unanswered, JobFailed, FileNotFoundError) as error:
        say(str(error))
        raise typer.Exit(ExitCode.FAILED) from None
    except KeyboardInterrupt:
        say(f"stopped; the answers so far are kept: r1kit eval --resume {folder.name}")
        raise typer.Exit(ExitCode.TERMINATED if stopped else ExitCode.INTERRUPTED) from None
    show(result, as_json, lambda: render(result))


eval_.__name__ = "eval"  # typer's name for the command; Python has one of its own


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="An evaluation, or a checkpoint of a run: <run>/sft.")
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The evaluation to compare with it: <run>/grpo.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare two evaluations on the same problems: difference, 95% interval and p-value."""
    from r1kit.evaluation.checkpoints import load_results
    from r1kit.evaluation.evaluation_folder import EvaluationError, rows_of
    from r1kit.evaluation.report import render_comparison
    from r1kit.evaluation.statistics import compare_frames

    frames = [load_results(rows_of(name)) for name in (first, second)]
    try:
        compared = compare_frames(*frames)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    content = {name: asdict(pair) | {"verdict": pair.verdict} for name, pair in compared.items()}
    show(content, as_json, lambda: render_comparison(first, second, compared))
