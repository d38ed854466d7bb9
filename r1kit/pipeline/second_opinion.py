"""`r1kit eval --second-opinion`: what lighteval says about an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1kit.evaluation import lighteval
from r1kit.evaluation.checkpoints import load_results
from r1kit.evaluation.sampler import Sampling
from r1kit.machine import detect_device
from r1kit.pipeline.evaluation import ASKED, RESULT, ROWS, EvaluationError, ask_of, settings_of
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.settings import load_profile


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
