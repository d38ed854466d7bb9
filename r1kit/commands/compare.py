"""`r1kit compare`: are two models really different? Paired, on the problems that both answered."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from r1kit.commands.options import JsonOption


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="An evaluation, or a checkpoint of a run: <run>/sft.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The one beside it: <run>/grpo.")],
    as_json: JsonOption = False,
) -> None:
    """Difference of two evaluations on the same problems, with a 95% interval and a p-value."""
    from r1kit.evaluation.checkpoints import load_results
    from r1kit.evaluation.comparison import compare_frames
    from r1kit.evaluation.report import render_comparison
    from r1kit.pipeline.evaluation import EvaluationError, rows_of

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
