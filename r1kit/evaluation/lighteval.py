"""A second opinion: the same problems in lighteval, the harness of the published tables.

`replayed` lets lighteval judge the answers that are on disk, so a difference comes from the judges alone.
`asked_anew` lets it generate as well, with transformers, for small models. lighteval has an environment of
its own, since it pins latex2sympy2_extended 1.0.6 and math-verify needs 1.11 (`requirements/lighteval.txt`);
`lighteval_tasks.py` runs there. Programs are left out: lighteval runs them without isolation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from r1kit.evaluation.benchmarks import Question
from r1kit.evaluation.sampler import Sampling
from r1kit.runs.files import read_json, write_json_atomic, write_text_atomic
from r1kit.runs.launch import supervise
from r1kit.settings.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

PYTHON = "R1KIT_LIGHTEVAL_PYTHON"
TASKS = Path(__file__).with_name("lighteval_tasks.py")
JUDGED = ("answer", "letter")
GRACE = 10.0  # seconds to end after a signal; nothing of value is lost


class LightevalMissing(UserError):
    """lighteval is not installed; the command line exits with 2."""


def interpreter() -> Path:
    """Return the Python of lighteval's environment: $R1KIT_LIGHTEVAL_PYTHON, or the one in `.venv-lighteval`.

    Raises:
        LightevalMissing: there is no such file.
    """
    given = os.environ.get(PYTHON, "")
    python = Path(given) if given else Path(__file__).parents[2] / ".venv-lighteval" / "bin" / "python"
    if not python.is_file():
        raise LightevalMissing(
            f"lighteval is not installed (no {python}): make setup-lighteval, or set {PYTHON}"
        )
    return python


def replayed(
    frame: pd.DataFrame, questions: Sequence[Question], sampling: Sampling, folder: Path
) -> dict[str, dict[str, float]]:
    """Let lighteval judge answers; returns benchmark -> {value, standard_error}.

    Args:
        frame: rows of `evaluate_answering`.
        folder: gets the tasks, the log and lighteval's own results.

    Raises:
        LightevalMissing: it is not installed.
        JobFailed: it failed; the message has the end of its log.
    """
    prompts = _write_tasks(questions, sampling, folder)
    texts: dict[str, list[str]] = {}
    sampled = frame[~frame["greedy"]].sort_values("sample")
    for (level, problem), rows in sampled.groupby(["level", "problem"], sort=False):
        if (level, problem) in prompts:
            texts[prompts[level, problem]] = rows["completion"].tolist()
    write_json_atomic(folder / "asked" / "answers.json", texts)
    return _run("custom", ["r1kit-answers", str(TASKS)], folder)


def asked_anew(
    model: str, questions: Sequence[Question], sampling: Sampling, folder: Path, *, device: str = "cpu",
    batch_size: int = 16,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Let lighteval sample from a model with transformers, and judge; otherwise as `replayed`."""
    _write_tasks(questions, sampling, folder)
    generation = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
    generation |= {"max_new_tokens": sampling.max_new_tokens, "top_k": 0}  # transformers' default is 50
    parameters = {
        "model_name": model, "device": device, "batch_size": batch_size, "cache_dir": str(folder / "cache"),
        "dtype": "float32" if device == "cpu" else "bfloat16", "override_chat_template": True,
        "skip_special_tokens": False, "generation_parameters": generation,
    }  # fmt: skip
    write_text_atomic(folder / "model.yaml", json.dumps({"model_parameters": parameters}, indent=1))
    return _run("accelerate", [str(folder / "model.yaml")], folder)


def parse(folder: Path) -> dict[str, dict[str, float]]:
    """Read the newest results file below `folder`: task -> {value, standard_error}.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.rglob("results_*.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"lighteval left no results below {folder}")
    scores = {}
    for task, numbers in read_json(files[-1])["results"].items():
        name = task.split("|")[0]
        values = {key: value for key, value in numbers.items() if key.startswith("pass@1")}
        if name == "all" or not values:
            continue
        error = next((value for key, value in values.items() if key.endswith("_stderr")), float("nan"))
        value = next(value for key, value in values.items() if not key.endswith("_stderr"))
        scores[name.removeprefix("r1kit_")] = {"value": value, "standard_error": error}
    return scores


def _write_tasks(questions: Sequence[Question], sampling: Sampling, folder: Path) -> dict[tuple, str]:
    """Write the tasks' files; returns (level, problem) -> prompt of what lighteval can judge."""
    asked, tasks, prompts = folder / "asked", [], {}
    for level in dict.fromkeys(question.level for question in questions if question.judge in JUDGED):
        same = [question for question in questions if question.level == level]
        rows = [{"prompt": q.prompt[-1]["content"], "gold": q.solution, "judge": q.judge} for q in same]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_text_atomic(asked / f"r1kit_{level}" / "test.jsonl", lines)
        tasks.append(
            {"name": f"r1kit_{level}", "judge": same[0].judge, "samples": same[0].samples,
             "max_new_tokens": sampling.max_new_tokens}
        )  # fmt: skip
        prompts |= {(level, q.problem): row["prompt"] for q, row in zip(same, rows, strict=True)}
    if not tasks:
        raise ValueError(
            "lighteval can judge none of these benchmarks: it would run programs without isolation"
        )
    write_json_atomic(asked / "tasks.json", tasks)
    return prompts


def _run(command: str, arguments: list[str], folder: Path) -> dict[str, dict[str, float]]:
    """Run `custom NAME DEFINITION TASKS` or `accelerate ARGUMENTS TASKS`."""
    tasks = ",".join(f"{task['name']}|0" for task in read_json(folder / "asked" / "tasks.json"))
    # -P: the task file's folder contains this module, which has lighteval's name.
    line = [str(interpreter()), "-P", str(TASKS), command, *arguments, tasks]
    line += ["--custom-tasks", str(TASKS), "--output-dir", str(folder / "results")]
    environment = {
        "R1KIT_LIGHTEVAL": str(folder / "asked"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1", "COLUMNS": "120",
    }  # fmt: skip
    job = supervise(line, folder, name="lighteval", environment=environment, grace=GRACE)
    try:
        job.wait()
    finally:
        job.stop()
    return parse(folder / "results")


def version() -> str:
    """Return lighteval's version in its environment."""
    site = next(iter(interpreter().parents[1].glob("lib/python*/site-packages")), None)
    installed = metadata.distributions(name="lighteval", path=[str(site)]) if site else []
    return next((str(one.version) for one in installed), "unknown")
