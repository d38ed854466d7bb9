"""`r1kit data generate`: traces from an endpoint, verified."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1kit.commands.options import DEFAULT_PROFILE, JsonOption, ProfileOption
from r1kit.settings import Problem, SettingsError, load_profile, parse_overrides

if TYPE_CHECKING:
    from r1kit.data.row_files import RowFile
    from r1kit.evaluation.generation import Harvest
    from r1kit.evaluation.server_sampler import Asked
    from r1kit.settings.generation import GenerationSettings

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
    from r1kit.data.append_log import LogInUse
    from r1kit.data.row_files import open_rows
    from r1kit.evaluation.generation import ask_teacher, harvest, reward_judge
    from r1kit.evaluation.server_sampler import EndpointLost, NotAllowed, only_model
    from r1kit.rewards.registry import get_rewards
    from r1kit.settings.generation_options import generation_settings

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
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print(f"stopped; what was answered is in {out}, the same command goes on", file=sys.stderr)
        raise typer.Exit(143 if stopped else 130) from None
    report = record(out, settings, asked, done, names, source)
    print(json.dumps(report, indent=1) if as_json else table(report, out))


def prompts_of_profile(profile: str, overrides: Mapping[str, Any] | None = None) -> RowFile:
    """The prompts that GRPO would train on under this profile; real ones are prepared if they are not yet."""
    from r1kit.data.datasets import prompts_of
    from r1kit.data.row_files import open_rows, rows_in_memory
    from r1kit.machine.resources import cores
    from r1kit.pipeline.real_data import prepare_profile

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
