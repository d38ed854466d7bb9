"""`r1kit data`: real data, from datasets of the hub or a mirror folder to the sets that a training reads.

`r1kit data prepare` and `r1kit data shards`: a profile's real data, and small stand-ins for it.

`r1kit data generate`: traces from an endpoint, verified.

`r1kit data curate`: what of a set is worth training on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1kit.cli.options import DEFAULT_PROFILE, JsonOption, ProfileOption, SetOption
from r1kit.runs.outcome import ExitCode
from r1kit.settings import Problem, SettingsError, load_profile, parse_overrides

if TYPE_CHECKING:
    from r1kit.data.curation import Report, StepReport
    from r1kit.data.row_files import RowFile
    from r1kit.evaluation.generation import Harvest
    from r1kit.evaluation.server_sampler import Asked
    from r1kit.settings.data import GenerationSettings


ProfileWithData = Annotated[
    str, typer.Option("--profile", help="A profile whose data.yaml says source: hub.")
]


def prepare(
    profile: ProfileWithData,
    set_: SetOption = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes all cores.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a profile's real data ready for its trainings, and print the data card.

    Datasets come from the hub, or from the mirror folder that data.yaml or $R1KIT_MIRROR names. What was
    prepared before is found again; a preparation that was killed goes on.
    """
    from r1kit.data.card import TEXT
    from r1kit.machine.resources import cores
    from r1kit.pipeline.data import estimate, prepare_profile
    from r1kit.settings import load_profile, parse_overrides

    settings = load_profile(profile, parse_overrides(set_ or []))
    made = prepare_profile(settings, workers or cores(), _Progress())
    if as_json:
        card = {"folder": str(made.folder), **asdict(made.card), "training": estimate(settings, made.card)}
        print(json.dumps(card, indent=1))
        return
    print((made.folder / TEXT).read_text(encoding="utf-8"))
    print(f"the data is in {made.folder}" + ("" if made.fresh else ", prepared before"))


def shards(
    folder: Annotated[str, typer.Argument(help="A folder for the datasets: a mirror.")],
    rows: Annotated[int, typer.Option(help="Of each dataset.", min=20)] = 60,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write small datasets of our own making in the real ones' schemas: real data's whole way offline."""
    from r1kit.data.synthetic_mirror import write_mirror

    files = write_mirror(folder, seed, rows)
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files of {rows} rows, {size / 1e3:,.0f} kB, in {folder}")
    use = f"R1KIT_MIRROR={folder} r1kit data prepare --profile gpu-small --set data.excerpt=true"
    print(f"now: {use} --set data.heldout_share=0.1")


class _Progress:
    """A line on stderr for each dataset, rewritten twice a second on a terminal, once a minute elsewhere."""

    def __init__(self) -> None:
        self.name, self.began, self.said = "", 0.0, 0.0

    def __call__(self, name: str, done: int, rows: int | None) -> None:
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if name != self.name:
            self.name, self.began, self.said = name, now, 0.0
        last = done == rows
        if not last and now - self.said < (0.5 if terminal else 60):
            return
        self.said = now
        seconds = now - self.began
        wanted = f" of {rows:,} rows" if rows else " rows"
        rate = f", {done / seconds:,.0f} a second" if seconds > 0.5 else ""
        left = f", {(rows / done - 1) * seconds / 60:.1f} minutes left" if rate and rows and not last else ""
        start, end = ("\r", "\n" if last else "") if terminal else ("", "\n")
        print(
            f"{start}{name}: {done:,}{wanted}{rate}{left}",
            end=end,
            file=sys.stderr,
            flush=True,
        )


OURS = "generation."
THE_ONLY_ONE = "?"  # stands for a model's name until the endpoint is asked
EVERY = 5.0  # seconds between two lines of progress


def generate(
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint: http://127.0.0.1:8000/v1")],
    out: Annotated[str, typer.Option(help="A folder for answers, traces, failures and pass rates.")],
    prompts: Annotated[
        str, typer.Option(help="A set with prompt, messages or problem: .jsonl, .parquet, save_to_disk.")
    ] = "",
    profile: ProfileOption = DEFAULT_PROFILE,
    model: Annotated[str, typer.Option(help="Its name there. [default: the only one served]")] = "",
    samples: Annotated[int, typer.Option(help="Answers to each prompt.")] = 1,
    most: Annotated[int, typer.Option(help="Ask only the first so many prompts; 0 asks all.")] = 0,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="What verifies an answer. [default: accuracy, binary_code where the set has tests]"
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests in flight.")] = 32,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="generation.sampling.temperature=1.0, or a setting of the profile"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask an endpoint for answers to prompts; verified ones become traces, the others keep their reason.

    Without --prompts the profile's are asked. Pass rates are written as well.

    The same command goes on where an earlier one stopped. The API key is read from OPENAI_API_KEY.
    """
    from r1kit.data.row_files import open_rows
    from r1kit.evaluation.generation import ask_teacher, harvest, reward_judge
    from r1kit.evaluation.server_sampler import EndpointLost, NotAllowed, only_model
    from r1kit.rewards.registry import get_rewards
    from r1kit.runs.jsonl import LogInUse
    from r1kit.settings.data import generation_settings

    given = {
        "generation.url": url,
        "generation.samples": samples,
        "generation.sampling.model": model or THE_ONLY_ONE,
    }
    given["generation.patience.concurrency"] = concurrency
    overrides = parse_overrides(set_ or [])
    about_profile = {} if prompts else {key: overrides[key] for key in overrides if not key.startswith(OURS)}
    given |= {key: value for key, value in overrides.items() if key not in about_profile}
    settings = generation_settings(given)
    source = open_rows(prompts) if prompts else prompts_of_profile(profile, about_profile)
    source = source.head(most) if most > 0 else source
    names = reward or default_rewards(source)
    check_rewards(source, names)
    functions, _ = get_rewards([{"name": name} for name in names])
    key = os.environ.get(settings.key_variable, "")
    stopped = stop_like_ctrl_c()
    try:
        if settings.sampling.model == THE_ONLY_ONE:
            found = {"generation.sampling.model": only_model(url, key)}
            settings = generation_settings(given | found)
        total = source.rows * settings.samples
        asked = ask_teacher(source, settings, out, key, lines(lambda now: asking_line(now, total)))
        judge, identity = reward_judge({f.name: f for f in functions}), settings.sampling.identity()
        progress = lines(lambda now: f"judged {now.answers:,} answers, {now.traces:,} verified")
        done = harvest(source, settings.samples, identity, judge, names, out, progress)
    except (EndpointLost, NotAllowed, LogInUse) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(ExitCode.FAILED) from None
    except KeyboardInterrupt:
        print(f"stopped; what was answered is in {out}, the same command goes on", file=sys.stderr)
        raise typer.Exit(ExitCode.TERMINATED if stopped else ExitCode.INTERRUPTED) from None
    report = record(out, settings, asked, done, names, source)
    print(json.dumps(report, indent=1) if as_json else table(report, out))


def prompts_of_profile(profile: str, overrides: Mapping[str, Any] | None = None) -> RowFile:
    """The prompts that GRPO would train on under this profile; real ones are prepared if they are not yet."""
    from r1kit.data.datasets import prompts_of
    from r1kit.data.row_files import open_rows, rows_in_memory
    from r1kit.machine.resources import cores
    from r1kit.pipeline.data import prepare_profile

    settings = load_profile(profile, overrides)
    world = settings.data
    if world.source == "hub":
        return open_rows(prepare_profile(settings, cores()).folder / "prompts")
    return rows_in_memory(settings.name, prompts_of(world))


def default_rewards(source: RowFile) -> list[str]:
    """The rewards whose golds the set has."""
    golds = {"accuracy": "solution", "binary_code": "verification_info"}
    return [name for name, column in golds.items() if column in source.schema.names]


def check_rewards(source: RowFile, names: Iterable[str]) -> None:
    """Raise SettingsError for an unknown reward, a reward without its gold, or none at all."""
    from r1kit.rewards.registry import NAMES, NEEDS
    from r1kit.settings import nearest_name

    have, names = source.schema.names, list(names)
    problems = []
    if not names:
        allowed = "solution or verification_info, or --reward think_format"
        problems = [Problem("the prompts", "columns", found=", ".join(have), allowed=allowed)]
    for name in names:
        if name not in NAMES:
            near = nearest_name(name, NAMES)
            problems.append(Problem("--reward", name, found=name, allowed=", ".join(NAMES), nearest=near))
        elif missing := [need for need in NEEDS.get(name, ()) if need not in have]:
            message = f"The reward compares with {', '.join(missing)}, which the set does not have."
            problems.append(Problem("--reward", name, found=", ".join(have), message=message))
    if problems:
        raise SettingsError(problems)


def stop_like_ctrl_c() -> list[int]:
    """Have SIGTERM do what Ctrl-C does; the list then holds the signal."""
    received: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        received.append(number)
        os.kill(os.getpid(), signal.SIGINT)

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so a shell starts what runs behind an &
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, stop)
    return received


def lines(describe: Callable[[Any], str]) -> Callable[[Any], None]:
    """A progress function that prints a line to stderr now and then."""
    last = time.monotonic()

    def tell(now: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(describe(now), file=sys.stderr, flush=True)

    return tell


def asking_line(asked: Asked, total: int) -> str:
    """`answered 120 of 4,000, failed 2`; with those of earlier runs."""
    failed = f", failed {asked.failed:,}" if asked.failed else ""
    return f"answered {asked.had + asked.answered:,} of {total:,}{failed}"


def record(
    out: str, settings: GenerationSettings, asked: Asked, done: Harvest, rewards: list[str], source: RowFile
) -> dict[str, Any]:
    """Write generation.json, last of all files, and return what it holds."""
    from r1kit.runs.files import write_json_atomic

    report = done.as_dict() | {"answered_before": asked.had, "unanswered": asked.failed, "rewards": rewards}
    report |= {"source": str(source.path), "settings": settings.model_dump(mode="json")}
    write_json_atomic(Path(out) / "generation.json", report)
    return report


def table(report: dict[str, Any], out: str) -> str:
    """The report for people."""
    shown = [
        f"{report['prompts']:,} prompts, {report['answers']:,} answers "
        f"({report['answered_before']:,} from before), {report['completion_tokens']:,} tokens",
        f"{report['traces']:,} verified traces in {out}/traces.parquet",
    ]
    shown += [f"{count:>9,} {reason}" for reason, count in report["failures"].items()]
    if report["failures"]:
        shown.insert(2, f"{sum(report['failures'].values()):,} failures in {out}/failures.parquet:")
    if report["unanswered"]:
        shown.append("the same command asks the unanswered again")
    return "\n".join(shown)


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


data = typer.Typer(help="Prepare, generate and curate real data.", no_args_is_help=True)


@data.callback()
def group() -> None:
    """Prepare, generate and curate real data."""


for command in (prepare, shards, generate, curate):
    data.command()(command)
