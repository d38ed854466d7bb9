"""`r1kit data curate`: what of a set is worth training on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r1kit.commands.data_generate import lines
from r1kit.commands.options import JsonOption
from r1kit.settings import Problem, SettingsError, parse_overrides

if TYPE_CHECKING:
    from r1kit.data.curation import Report, StepReport

SHOWN = 100  # characters of an example
WORTH_A_PROCESS = 2000  # rows; starting one takes about as long as a thousand traces
ALL_DATES = ("0000-00-00", "9999-99-99")


def curate(
    rows: Annotated[str, typer.Argument(help="A set: .jsonl, .parquet, a folder of them, save_to_disk.")],
    out: Annotated[str, typer.Option(help="A folder for kept.parquet, removed.parquet, curation.json.")],
    steps: Annotated[
        str, typer.Option(help="A YAML file with the steps. [default: exact and near duplicates]")
    ] = "",
    against: Annotated[
        list[str] | None,
        typer.Option(help="A benchmark's name or a set; no row kept shares 8 words in a row with it."),
    ] = None,
    mirror: Annotated[
        str, typer.Option(help="A folder with copies of the benchmarks' datasets. [default: $R1KIT_MIRROR]")
    ] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: curation.near.threshold=0.9")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes all cores for a large set.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Keep the rows of a set that are worth training on; say what was removed, and why.

    Steps: verified, pass_rate, language, repetition, decontamination, exact and near duplicates.
    """
    from r1kit.data import curation
    from r1kit.data.row_files import open_rows
    from r1kit.machine.resources import cores
    from r1kit.settings.curation_file import load_curation

    overrides = parse_overrides(set_ or [])
    if against:
        overrides.setdefault("curation.decontamination.ngram", 8)
    settings = load_curation(steps or None, overrides)
    source = open_rows(rows)
    sets = [*(settings.decontamination.against if settings.decontamination else []), *(against or [])]
    if settings.decontamination and not sets:
        allowed = "--against BENCHMARK or FILE, or the same in decontamination.against"
        raise SettingsError([Problem("curation", "decontamination.against", "nothing", allowed)])
    progress = lines(lambda done: f"looked at {done:,} of {source.rows:,} rows")
    report = curation.curate(
        source,
        settings,
        out,
        {Path(name).stem: problems(name, mirror) for name in sets},
        workers or min(cores(), 1 + source.rows // WORTH_A_PROCESS),
        lambda done, _: progress(done),
    )
    print(
        json.dumps(asdict(report), indent=1, ensure_ascii=False) if as_json else curation_table(report, out)
    )


def problems(name: str, mirror: str = "") -> Iterable[str]:
    """The problems of a benchmark, of all its dates, or of an evaluation set on disk."""
    from r1kit.data.row_files import open_rows
    from r1kit.data.texts import problem_text
    from r1kit.evaluation.benchmarks import BENCHMARKS, benchmark_questions

    if name in BENCHMARKS:
        questions = benchmark_questions(name, mirror=mirror or None, window=ALL_DATES)
        return [question.problem for question in questions]
    return map(problem_text, open_rows(name))


def curation_table(report: Report, out: str) -> str:
    """The report for people."""
    found = [f"{report.kept:,} of {report.rows:,} rows kept in {out}/kept.parquet ({report.seconds:g} s)"]
    for step in report.steps:
        found += ["", f"{step.step:<16} {step.removed:>9,} of {step.rows:,} removed", *_details(step)]
    return "\n".join(found)


def _details(step: StepReport) -> list[str]:
    reasons = [f"    {count:>9,} {reason}" for reason, count in step.reasons.items()]
    examples = []
    for one in step.examples:
        twin = "" if one.twin is None else f", like row {one.twin}"
        text = " ".join(one.text.split())[:SHOWN]
        examples.append(f"    row {one.row} ({one.reason}{twin}): {text}")
    return reasons + examples
