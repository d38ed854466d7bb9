"""`r1kit data`: prepare a profile's real data, generate verified traces, and curate a set.

`r1kit data shards` writes small synthetic datasets with which all of this works without a network.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1kit.cli.options import (
    DEFAULT_PROFILE,
    JsonOption,
    ProfileOption,
    SetOption,
    WorkersOption,
    progress_lines,
    say,
    show,
    stop_like_ctrl_c,
)
from r1kit.runs.outcome import ExitCode
from r1kit.settings import Problem, SettingsError, load_profile, parse_overrides

if TYPE_CHECKING:
    from r1kit.data.curation import Report
    from r1kit.data.row_files import RowFile
    from r1kit.evaluation.generation import TraceCounts
    from r1kit.evaluation.server_sampler import RequestCounts
    from r1kit.pipeline.data import Prepared
    from r1kit.settings import Profile
    from r1kit.settings.data import GenerationSettings

GENERATION = "generation."
ONLY_MODEL = "?"  # stands for a model's name until the endpoint is asked
EXAMPLE_CHARACTERS = 100
WORTH_A_PROCESS = 2000  # rows; starting one takes about as long as a thousand traces
ALL_DATES = ("0000-00-00", "9999-99-99")

data = typer.Typer(help="Prepare, generate and curate real data.", no_args_is_help=True)


@data.command()
def prepare(
    profile: Annotated[str, typer.Option(help="A profile whose data.yaml says source: hub.")],
    set_: SetOption = None,
    workers: WorkersOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Prepare a profile's real data for its trainings, and print the data card.

    The datasets come from the hub, or from the mirror folder that data.yaml or $R1KIT_MIRROR names. Prepared
    data is reused, and a preparation that was killed resumes.
    """
    from r1kit.data.card import TEXT
    from r1kit.pipeline.data import estimate

    settings = load_profile(profile, parse_overrides(set_ or []))
    made = _prepared(settings, workers)
    card = {"folder": str(made.folder), **asdict(made.card), "training": estimate(settings, made.card)}
    show(card, as_json, (made.folder / TEXT).read_text)
    if not as_json:
        print(f"the data is in {made.folder}" + ("" if made.fresh else ", prepared before"))


def _prepared(settings: Profile, workers: int = 0) -> Prepared:
    from r1kit.machine.resources import cores
    from r1kit.pipeline.data import prepare_profile

    starts: dict[str, float] = {}

    def describe(name: str, done: int, rows: int | None) -> str:
        seconds = time.monotonic() - starts.setdefault(name, time.monotonic())
        line = f"{name}: {done:,}" + (f" of {rows:,} rows" if rows else " rows")
        if seconds > 0.5:
            line += f", {done / seconds:,.0f} per second"
            line += f", {(rows / done - 1) * seconds / 60:.1f} minutes left" if rows else ""
        return line

    return prepare_profile(settings, workers or cores(), progress_lines(describe))


@data.command()
def shards(
    folder: Annotated[str, typer.Argument(help="The mirror folder to write the datasets into.")],
    rows: Annotated[int, typer.Option(help="Rows per dataset.", min=20)] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the rows.", min=0)] = 0,
) -> None:
    """Write small synthetic datasets in the schemas of the real ones, to work without a network."""
    from r1kit.data.synthetic_mirror import write_mirror

    files = write_mirror(folder, seed, rows)
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files of {rows} rows, {size / 1e3:,.0f} kB, in {folder}")
    use = f"R1KIT_MIRROR={folder} r1kit data prepare --profile gpu-small --set data.excerpt=true"
    print(f"now: {use} --set data.heldout_share=0.1")


@data.command()
def generate(
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint: http://127.0.0.1:8000/v1")],
    out: Annotated[str, typer.Option(help="A folder for answers, traces, failures and pass rates.")],
    prompts: Annotated[
        str,
        typer.Option(
            help="A set with prompt, messages or problem: .jsonl, .parquet, save_to_disk.",
            show_default="the profile's prompts",
        ),
    ] = "",
    profile: ProfileOption = DEFAULT_PROFILE,
    model: Annotated[
        str, typer.Option(help="The model's name at the endpoint.", show_default="the only one served")
    ] = "",
    samples: Annotated[int, typer.Option(help="Answers per prompt.")] = 1,
    most: Annotated[int, typer.Option(help="Use only this many prompts; 0 uses all.")] = 0,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="The reward that verifies an answer.",
            show_default="accuracy, and binary_code if the set has tests",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at the same time.")] = 32,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a setting, such as generation.sampling.temperature=1.0, or one of the profile.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Generate answers to prompts at an endpoint: verified ones become traces, others are kept with a reason.

    Pass rates per prompt are written too. The same command resumes after an interruption. The API key is read
    from OPENAI_API_KEY.
    """
    from r1kit.data.row_files import open_rows
    from r1kit.evaluation.generation import ask_teacher, reward_judge, write_traces
    from r1kit.evaluation.server_sampler import EndpointLost, NotAllowed, only_model
    from r1kit.rewards.registry import get_rewards
    from r1kit.runs.jsonl import LogInUse
    from r1kit.settings.data import generation_settings

    overrides = parse_overrides(set_ or [])
    of_profile = {} if prompts else {k: v for k, v in overrides.items() if not k.startswith(GENERATION)}
    given = {
        "generation.url": url,
        "generation.samples": samples,
        "generation.sampling.model": model or ONLY_MODEL,
        "generation.patience.concurrency": concurrency,
    }
    given |= {key: value for key, value in overrides.items() if key not in of_profile}
    settings = generation_settings(given)
    source = open_rows(prompts) if prompts else prompts_of_profile(profile, of_profile)
    source = source.head(most) if most > 0 else source
    names = reward or default_rewards(source)
    check_rewards(source, names)
    functions, _ = get_rewards([{"name": name} for name in names])
    key = os.environ.get(settings.key_variable, "")
    stopped = stop_like_ctrl_c()
    try:
        if settings.sampling.model == ONLY_MODEL:
            settings = generation_settings(given | {"generation.sampling.model": only_model(url, key)})
        total = source.rows * settings.samples
        asked = ask_teacher(source, settings, out, key, progress_lines(lambda now: _asking_line(now, total)))
        judge, identity = reward_judge({f.name: f for f in functions}), settings.sampling.identity()
        progress = progress_lines(lambda now: f"judged {now.answers:,} answers, {now.traces:,} verified")
        done = write_traces(source, settings.samples, identity, judge, names, out, progress)
    except (EndpointLost, NotAllowed, LogInUse) as error:
        say(str(error))
        raise typer.Exit(ExitCode.FAILED) from None
    except KeyboardInterrupt:
        say(f"stopped; the answers so far are in {out}, and the same command resumes")
        raise typer.Exit(ExitCode.TERMINATED if stopped else ExitCode.INTERRUPTED) from None
    report = _record(out, settings, asked, done, names, source)
    show(report, as_json, lambda: _generation_text(report, out))


def prompts_of_profile(profile: str, overrides: Mapping[str, Any] | None = None) -> RowFile:
    """Return the prompts that GRPO trains on with this profile; real ones are prepared if necessary."""
    from r1kit.data.datasets import prompts_of
    from r1kit.data.row_files import open_rows, rows_in_memory

    settings = load_profile(profile, overrides)
    if settings.data.source == "hub":
        return open_rows(_prepared(settings).folder / "prompts")
    return rows_in_memory(settings.name, prompts_of(settings.data))


def default_rewards(source: RowFile) -> list[str]:
    """Return the rewards for which the set has the columns to compare with."""
    golds = {"accuracy": "solution", "binary_code": "verification_info"}
    return [name for name, column in golds.items() if column in source.schema.names]


def check_rewards(source: RowFile, names: Iterable[str]) -> None:
    """Check that there is a reward, and that every reward exists and has its columns in the set.

    Raises:
        SettingsError: one message with all problems.
    """
    from r1kit.rewards.registry import NAMES, NEEDS
    from r1kit.settings import nearest_name

    columns, names = source.schema.names, list(names)
    problems = []
    if not names:
        allowed = "solution or verification_info, or --reward think_format"
        problems = [Problem("the prompts", "columns", found=", ".join(columns), allowed=allowed)]
    for name in names:
        if name not in NAMES:
            near = nearest_name(name, NAMES)
            problems.append(Problem("--reward", name, found=name, allowed=", ".join(NAMES), nearest=near))
        elif missing := [need for need in NEEDS.get(name, ()) if need not in columns]:
            message = f"The reward compares with {', '.join(missing)}, which the set does not have."
            problems.append(Problem("--reward", name, found=", ".join(columns), message=message))
    if problems:
        raise SettingsError(problems)


def _asking_line(asked: RequestCounts, total: int) -> str:
    failed = f", failed {asked.failed:,}" if asked.failed else ""
    return f"answered {asked.on_disk + asked.answered:,} of {total:,}{failed}"


def _record(
    out: str,
    settings: GenerationSettings,
    asked: RequestCounts,
    done: TraceCounts,
    rewards: list[str],
    source: RowFile,
) -> dict[str, Any]:
    """Write generation.json, the last of all files, and return its content."""
    from r1kit.runs.files import write_json_atomic

    report = done.as_dict() | {
        "answered_before": asked.on_disk,
        "unanswered": asked.failed,
        "rewards": rewards,
    }
    report |= {"source": str(source.path), "settings": settings.model_dump(mode="json")}
    write_json_atomic(Path(out) / "generation.json", report)
    return report


def _generation_text(report: dict[str, Any], out: str) -> str:
    lines = [
        f"{report['prompts']:,} prompts, {report['answers']:,} answers "
        f"({report['answered_before']:,} from before), {report['completion_tokens']:,} tokens",
        f"{report['traces']:,} verified traces in {out}/traces.parquet",
    ]
    if report["failures"]:
        lines.append(f"{sum(report['failures'].values()):,} failures in {out}/failures.parquet:")
    lines += [f"{count:>9,} {reason}" for reason, count in report["failures"].items()]
    if report["unanswered"]:
        lines.append("the same command asks the unanswered prompts again")
    return "\n".join(lines)


@data.command()
def curate(
    rows: Annotated[str, typer.Argument(help="A set: .jsonl, .parquet, a folder of them, save_to_disk.")],
    out: Annotated[str, typer.Option(help="A folder for kept.parquet, removed.parquet, curation.json.")],
    steps: Annotated[
        str, typer.Option(help="A YAML file with the steps.", show_default="exact and near duplicates")
    ] = "",
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="A benchmark's name, or a set: removes the rows that share 8 words in a row with it."
        ),
    ] = None,
    mirror: Annotated[
        str,
        typer.Option(help="A folder with copies of the benchmarks' datasets.", show_default="$R1KIT_MIRROR"),
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting, such as curation.near.threshold=0.9."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Worker processes; 0 uses all cores for a large set.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Keep the rows of a set that are worth training on, and report what was removed and why.

    Steps: verified, pass_rate, language, repetition, decontamination, exact and near duplicates.
    """
    from r1kit.data import curation
    from r1kit.data.row_files import open_rows
    from r1kit.machine.resources import cores
    from r1kit.settings.data import load_curation

    overrides = parse_overrides(set_ or [])
    if against:
        overrides.setdefault("curation.decontamination.ngram", 8)
    settings = load_curation(steps or None, overrides)
    source = open_rows(rows)
    sets = [*(settings.decontamination.against if settings.decontamination else []), *(against or [])]
    if settings.decontamination and not sets:
        allowed = "--against BENCHMARK or FILE, or the same in decontamination.against"
        raise SettingsError([Problem("curation", "decontamination.against", "nothing", allowed)])
    report = curation.curate(
        source,
        settings,
        out,
        {Path(name).stem: _evaluation_problems(name, mirror) for name in sets},
        workers or min(cores(), 1 + source.rows // WORTH_A_PROCESS),
        progress_lines(lambda done: f"looked at {done:,} of {source.rows:,} rows"),
    )
    show(asdict(report), as_json, lambda: _curation_text(report, out), ensure_ascii=False)


def _evaluation_problems(name: str, mirror: str) -> Iterable[str]:
    from r1kit.data.row_files import open_rows
    from r1kit.data.texts import problem_text
    from r1kit.evaluation.benchmarks import BENCHMARKS, benchmark_questions

    if name in BENCHMARKS:
        questions = benchmark_questions(name, mirror=mirror or None, window=ALL_DATES)
        return [question.problem for question in questions]
    return map(problem_text, open_rows(name))


def _curation_text(report: Report, out: str) -> str:
    lines = [f"{report.kept:,} of {report.rows:,} rows kept in {out}/kept.parquet ({report.seconds:g} s)"]
    for step in report.steps:
        lines += ["", f"{step.step:<16} {step.removed:>9,} of {step.rows:,} removed"]
        lines += [f"    {count:>9,} {reason}" for reason, count in step.reasons.items()]
        for one in step.examples:
            twin = "" if one.twin is None else f", like row {one.twin}"
            text = " ".join(one.text.split())[:EXAMPLE_CHARACTERS]
            lines.append(f"    row {one.row} ({one.reason}{twin}): {text}")
    return "\n".join(lines)
