"""Evaluations of `r1kit eval`: one model, the problems of a profile or of named benchmarks, one folder.

`runs/evaluations/<name>/` contains `evaluation.json` (the request, written first), `answers.jsonl` (every
answer as it came), `answers.parquet` (judged) and `result.json`, written last; from it a stopped evaluation
resumes. `--second-opinion` adds lighteval's scores of a finished evaluation.
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

REQUEST, ROWS, RESULT = "evaluation.json", "answers.parquet", "result.json"
TEMPERATURE, TOP_P = 0.6, 0.95  # as in open-r1's tables, for profiles without benchmarks


class EvaluationError(UserError):
    """An evaluation cannot be started or resumed; the command line exits with 2."""


def new_evaluation(
    model: str,
    profile: str,
    overrides: dict[str, Any] | None = None,
    benchmarks: Sequence[str] = (),
    samples: int | None = None,
    server: str = "",
) -> Path:
    """Check the request of an evaluation, and make its folder.

    Args:
        model: a model folder, or a hub id.
        benchmarks: names; empty takes those of the profile's evaluation.yaml.
        samples: answers per problem; None takes the benchmark's or the profile's number.
        server: address of a running server; "" see `sampler_of`.

    Raises:
        BenchmarkError, SettingsError: unknown benchmark, bad settings.
    """
    for name in benchmarks:
        benchmark_of(name)
    load_profile(profile, overrides or {})
    local = Path(model).is_dir()
    model = str(Path(model).resolve()) if local else model
    name = Path(model).parent.name if local else Path(model).name
    folder = runs_folder() / "evaluations" / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    folder.mkdir(parents=True, exist_ok=False)
    request = {
        "model": model, "profile": profile, "overrides": overrides or {},
        "benchmarks": list(benchmarks), "samples": samples, "server": server,
    }  # fmt: skip
    write_json_atomic(folder / REQUEST, request)
    return folder


def find_evaluation(name: str) -> Path:
    """Find the folder of an evaluation, by path or by name.

    Raises:
        EvaluationError: there is none.
    """
    for folder in (Path(name), runs_folder() / "evaluations" / name):
        if (folder / REQUEST).is_file():
            return folder
    raise EvaluationError(f"there is no evaluation {name!r} (a folder with {REQUEST})")


def run_evaluation(
    folder: Path, *, server: str = "", progress: Progress | None = None, tell: Callable = print
) -> dict[str, Any]:
    """Sample what is missing, judge everything, write and return the result.

    Args:
        server: a new address, if the server of the request moved.
        tell: gets the lines that a starting server reports.
    """
    request, profile, settings, questions = _read_request(folder)
    model, start = request["model"], time.monotonic()
    server = server or request["server"]
    with sampler_of(folder, profile.machine, settings, model, server=server, tell=tell) as sampler:
        frame = evaluate_answering(sampler, questions, settings, folder=folder, progress=progress)
    save_results(frame, folder / ROWS)
    result = {
        "model": model,
        "profile": profile.name,
        "sampling": f"temperature {settings.temperature:g}, top_p {settings.top_p:g}, at most "
        f"{settings.max_new_tokens:,} tokens",
        "scores": scores(frame, settings.k, model),
        "seconds": round(time.monotonic() - start, 1),
        "tokens_per_second": round(frame.attrs["tokens_per_second"], 1),
    }
    write_json_atomic(folder / RESULT, result)
    return result


def _read_request(folder: Path) -> tuple[dict[str, Any], Profile, Any, list[Question]]:
    """Return an evaluation's request with its profile, settings and questions."""
    request = read_json(folder / REQUEST)
    profile = load_profile(request["profile"], request["overrides"])
    settings = settings_of(profile, request["benchmarks"], request["samples"])
    if isinstance(settings, BenchmarkSettings):
        return (
            request,
            profile,
            settings,
            questions_of(settings, mirror=getattr(profile.data, "mirror", None)),
        )
    from r1kit.data.datasets import build_heldout

    # The embedded world's held-out problems, as stage 01_data makes them.
    heldout = build_heldout(profile.data.heldout_per_level, profile.data.seed, profile.data.heldout_levels)
    return request, profile, settings, questions_of(settings, heldout)


def settings_of(profile: Profile, benchmarks: Sequence[str], samples: int | None) -> Any:
    """Return the profile's evaluation.yaml, changed to the requested benchmarks and samples."""
    settings = profile.evaluation
    has_benchmarks = isinstance(settings, BenchmarkSettings)
    if not benchmarks and (samples is None or not has_benchmarks):
        return settings if samples is None else settings.model_copy(update={"samples": samples})
    known = settings.benchmarks if has_benchmarks else {}
    wanted = {name: samples or known.get(name) or benchmark_of(name).samples for name in benchmarks or known}
    if has_benchmarks:
        return settings.model_copy(update={"benchmarks": wanted})
    return BenchmarkSettings(
        benchmarks=wanted, temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size, seed=settings.seed,
    )  # fmt: skip


def rows_of(name: str) -> Path:
    """Find the judged answers of an evaluation, or of a checkpoint of a run's 05_evaluation (`<run>/sft`).

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
    """Check the option and lighteval's installation, before anything is sampled.

    Raises:
        EvaluationError: `how` is neither `judge` nor `model`.
        LightevalMissing: lighteval is not installed.
    """
    if how not in ("judge", "model"):
        raise EvaluationError(f"--second-opinion takes judge or model, not {how!r}")
    lighteval.interpreter()


def add_second_opinion(folder: Path, how: str) -> dict[str, Any]:
    """Add lighteval's scores to a result: of the same answers (`judge`), or of new answers (`model`).

    Raises:
        JobFailed: lighteval failed.
        ValueError: lighteval can judge none of the benchmarks.
    """
    result = read_json(folder / RESULT)
    request, _, settings, questions = _read_request(folder)
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_new_tokens, settings.seed)
    if how == "judge":
        answers, rows = "the same answers", load_results(folder / ROWS)
        found = lighteval.replayed(rows, questions, sampling, folder / "lighteval")
    else:
        answers, device = "answers of its own", detect_device()[0].split(":")[0]
        found = lighteval.asked_anew(
            request["model"], questions, sampling, folder / "lighteval", device=device
        )
    harness = f"lighteval {lighteval.version()}"
    result["second_opinion"] = {"harness": harness, "answers": answers, "scores": found}
    write_json_atomic(folder / RESULT, result)
    return result
