"""`r1kit eval`: one model, the problems of a profile or of named benchmarks, and a folder that can be gone on
with.

`runs/evaluations/<name>/` holds `evaluation.json` (what was asked for, written first), `answers.jsonl` (every
answer as it came), `answers.parquet` (judged) and `result.json`, written last.

`r1kit eval --second-opinion`: what lighteval says about an evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from r1kit.evaluation import lighteval
from r1kit.evaluation.benchmarks import Question, benchmark_of, questions_of
from r1kit.evaluation.checkpoints import evaluate_answering, load_results, sampler_of, save_results
from r1kit.evaluation.report import scores
from r1kit.evaluation.sampler import Progress, Sampling
from r1kit.machine import detect_device
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.folder import runs_folder
from r1kit.settings import Profile, load_profile
from r1kit.settings.errors import UserError
from r1kit.settings.evaluation import BenchmarkSettings

ASKED, ROWS, RESULT = "evaluation.json", "answers.parquet", "result.json"
TEMPERATURE, TOP_P = 0.6, 0.95  # open-r1's tables, where a profile has none for benchmarks


class EvaluationError(UserError):
    """An evaluation that cannot be started or gone on with; the command line exits with 2."""


def new_evaluation(
    model: str,
    profile: str,
    overrides: dict[str, Any] | None = None,
    benchmarks: Sequence[str] = (),
    samples: int | None = None,
    server: str = "",
) -> Path:
    """Make the folder of an evaluation after checking what it asks for.

    Args:
        model: a model folder, or a hub id.
        benchmarks: names; none: as the profile's evaluation.yaml says.
        samples: answers to each problem; None: as the benchmark's or the profile's settings.
        server: address of a running server; "": see `sampler_of`.

    Raises:
        BenchmarkError, SettingsError: unknown benchmark, bad settings.
    """
    for name in benchmarks:
        benchmark_of(name)
    load_profile(profile, overrides or {})
    local = Path(model).is_dir()
    name = (
        f"{time.strftime('%Y%m%d-%H%M%S')}-{Path(model).resolve().parent.name if local else Path(model).name}"
    )
    folder = runs_folder() / "evaluations" / name
    folder.mkdir(parents=True, exist_ok=False)
    asked = {
        "model": str(Path(model).resolve()) if local else model,
        "profile": profile, "overrides": overrides or {},
        "benchmarks": list(benchmarks), "samples": samples, "server": server,
    }  # fmt: skip
    write_json_atomic(folder / ASKED, asked)
    return folder


def find_evaluation(name: str) -> Path:
    """The folder of an evaluation, by path or by name.

    Raises:
        EvaluationError: there is none.
    """
    for folder in (Path(name), runs_folder() / "evaluations" / name):
        if (folder / ASKED).is_file():
            return folder
    raise EvaluationError(f"there is no evaluation {name!r} (a folder with {ASKED})")


def run_evaluation(
    folder: Path, *, server: str = "", progress: Progress | None = None, tell: Callable = print
) -> dict[str, Any]:
    """Ask what is missing, judge everything, write and return the result.

    Args:
        server: another address than the one it began with, after that server moved.
        tell: gets a line whenever a server of ours has news.
    """
    asked = read_json(folder / ASKED)
    profile = load_profile(asked["profile"], asked["overrides"])
    settings = settings_of(profile, asked["benchmarks"], asked["samples"])
    questions = ask_of(profile, settings)
    start = time.monotonic()
    server = server or asked["server"]
    with sampler_of(folder, profile.machine, settings, asked["model"], server=server, tell=tell) as sampler:
        frame = evaluate_answering(sampler, questions, settings, folder=folder, progress=progress)
    save_results(frame, folder / ROWS)
    result = {
        "model": asked["model"],
        "profile": profile.name,
        "sampling": f"temperature {settings.temperature:g}, top_p {settings.top_p:g}, at most "
        f"{settings.max_new_tokens:,} tokens",
        "scores": scores(frame, settings.k, asked["model"]),
        "seconds": round(time.monotonic() - start, 1),
        "tokens_per_second": round(frame.attrs["tokens_per_second"], 1),
    }
    write_json_atomic(folder / RESULT, result)
    return result


def settings_of(profile: Profile, benchmarks: Sequence[str], samples: int | None) -> Any:
    """The profile's evaluation.yaml, with the benchmarks and samples that were asked for instead."""
    own = profile.evaluation
    if not benchmarks:
        if samples is None:
            return own
        if isinstance(own, BenchmarkSettings):
            return own.model_copy(update={"benchmarks": dict.fromkeys(own.benchmarks, samples)})
        return own.model_copy(update={"samples": samples})
    wanted = {name: samples or benchmark_of(name).samples for name in benchmarks}
    if isinstance(own, BenchmarkSettings):
        kept = {
            name: own.benchmarks.get(name, count) if samples is None else count
            for name, count in wanted.items()
        }
        return own.model_copy(update={"benchmarks": kept})
    return BenchmarkSettings(
        benchmarks=wanted, temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=own.max_new_tokens,
        batch_size=own.batch_size, seed=own.seed,
    )  # fmt: skip


def ask_of(profile: Profile, settings: Any) -> list[Question]:
    """The questions; the embedded world's held-out problems are made anew, as stage 01_data makes them."""
    if isinstance(settings, BenchmarkSettings):
        return questions_of(settings, mirror=getattr(profile.data, "mirror", None))
    from r1kit.data.datasets import build_heldout

    data = profile.data
    return questions_of(settings, build_heldout(data.heldout_per_level, data.seed, data.heldout_levels))


def rows_of(name: str) -> Path:
    """The judged answers of an evaluation, or of a checkpoint that a run's 05_evaluation judged
    (`<run>/sft`).

    Raises:
        EvaluationError: there are none.
    """
    run, _, checkpoint = name.rstrip("/").rpartition("/")
    places = [
        Path(name),
        Path(name) / ROWS,
        runs_folder() / "evaluations" / name / ROWS,
        runs_folder() / run / "05_evaluation" / f"{checkpoint}.parquet",
        Path(run) / "05_evaluation" / f"{checkpoint}.parquet",
    ]
    for place in places:
        if place.is_file():
            return place
    raise EvaluationError(
        f"{name!r} is neither an evaluation with {ROWS} nor <run>/<checkpoint> of a run with 05_evaluation"
    )


def check_second_opinion(how: str) -> None:
    """Before anything is asked: is lighteval there, and is `how` a way to ask it?

    Raises:
        EvaluationError: neither `judge` nor `model`.
        LightevalMissing: it is not installed.
    """
    if how not in ("judge", "model"):
        raise EvaluationError(f"--second-opinion takes judge or model, not {how!r}")
    lighteval.interpreter()


def add_second_opinion(folder: Path, how: str) -> dict[str, Any]:
    """Let lighteval judge a finished evaluation's answers (`judge`), or ask its model anew (`model`), and add
    what it says to the result.

    Raises:
        JobFailed: lighteval did not end well.
        ValueError: none of the benchmarks is for lighteval.
    """
    asked, result = read_json(folder / ASKED), read_json(folder / RESULT)
    profile = load_profile(asked["profile"], asked["overrides"])
    settings = settings_of(profile, asked["benchmarks"], asked["samples"])
    questions, place = ask_of(profile, settings), folder / "lighteval"
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_new_tokens, settings.seed)
    if how == "judge":
        found = lighteval.replayed(load_results(folder / ROWS), questions, sampling, place)
    else:
        device = detect_device()[0].split(":")[0]
        found = lighteval.asked_anew(asked["model"], questions, sampling, place, device=device)
    words = "the same answers" if how == "judge" else "answers of its own"
    result["second_opinion"] = lighteval.opinion(found, words)
    write_json_atomic(folder / RESULT, result)
    return result
