"""`result.json` of a stage (written last: its presence means "done") and `summary.json` of a run.

The summary is recomputed from the stages' files each time, never edited, so it cannot disagree with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from r1kit.runs import status as status_file
from r1kit.runs.files import plain, read_json, write_json_atomic
from r1kit.runs.folder import Run

PASS_FIELDS = ("value", "low", "high", "problems", "samples")
TRAINING_ORDER = ("base", "sft", "grpo")


def write_result(
    stage_folder: str | Path,
    *,
    stage: str,
    seconds: float,
    inputs_hash: str,
    metrics: Mapping[str, float] | None = None,
    artifacts: Mapping[str, str] | None = None,
    pass_at_1: Mapping[str, Mapping[str, float]] | None = None,
    peak_rss_bytes: int | None = None,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the stage's result.json, last and atomically, mark its status completed, and return the result.

    `peak_rss_bytes` defaults to the largest peak among the stage's supervised jobs (0 without jobs); `origin`
    says which inputs and code made the stage's artifacts (`r1kit.pipeline.lineage`).

    Raises:
        FileNotFoundError: an artifact does not exist.
        ValueError: a metric is not a number, a `pass@1` entry has not all its fields or is not finite, or an
            artifact's path is absolute.
    """
    folder = Path(stage_folder)
    for name, value in (metrics or {}).items():
        if isinstance(value, bool) or not isinstance(plain(value), (int, float, type(None))):
            raise ValueError(f"metric {name!r} of {stage} is {value!r}, not a number")
    for name, relative in (artifacts or {}).items():
        if Path(relative).is_absolute():
            raise ValueError(f"artifact {name!r} of {stage} must be a path inside {folder}, found {relative}")
        if not (folder / relative).exists():
            raise FileNotFoundError(f"artifact {name!r} of {stage} does not exist: {folder / relative}")
    if peak_rss_bytes is None:
        peak_rss_bytes = peak_rss(folder)
    result: dict[str, Any] = {
        "stage": stage,
        "status": "completed",
        "seconds": round(float(seconds), 3),
        "peak_rss_bytes": int(peak_rss_bytes),
        "inputs_hash": inputs_hash,
        "metrics": dict(metrics or {}),
        "artifacts": {name: str(path) for name, path in (artifacts or {}).items()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if pass_at_1:
        result["pass@1"] = {name: _pass_entry(name, entry) for name, entry in pass_at_1.items()}
    if origin:
        result["origin"] = dict(origin)
    result = plain(result)
    write_json_atomic(folder / "result.json", result)
    status_file.update(folder, state="completed", message="")
    return result


def read_result(stage_folder: str | Path) -> dict[str, Any] | None:
    """Return the stage's result, None if it is not finished."""
    return read_json(Path(stage_folder) / "result.json")


def stage_folders(run: Run) -> list[Path]:
    """Return the folders of a run that get a result: its stages, and the pipeline stages inside them."""
    folders = []
    for folder in sorted(path for path in run.path.iterdir() if path.is_dir()):
        inner = [path.parent for path in folder.glob("*/params.json") if not path.match("stale-*/*")]
        inner.sort(key=lambda path: (read_json(path / "params.json", {}).get("position", 0), path.name))
        folders += [folder, *inner]
    return folders


def newest_step(folder: Path) -> int:
    """Return the step of the newest complete checkpoint of the training in `folder`; 0 if there is none."""
    markers = folder.glob("checkpoints/checkpoint-*/complete.json")
    return max((int(marker.parent.name.removeprefix("checkpoint-")) for marker in markers), default=0)


def peak_rss(stage_folder: str | Path) -> int:
    """Return the largest peak (bytes, summed over a process tree) among the stage's jobs, with subfolders."""
    folder = Path(stage_folder)
    files = [folder / "status.json", *folder.glob("*/status.json")]
    jobs = [
        read_json(file, {}).get("job") or {} for file in files if not file.parent.name.startswith("stale-")
    ]
    return max(job.get("peak_rss_bytes") or 0 for job in jobs)


def summarise(run: Run, status: str | None = None) -> dict[str, Any]:
    """Compute the run's summary from the files of its stages, without writing it.

    `status` defaults to `running` while a stage runs, else to the last summary's. `pass@1` is in order of
    training: base, sft, grpo; checkpoints with other names keep the order in which the stages reported them.
    """
    manifest = run.manifest
    stages: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    for folder in stage_folders(run):
        result, state = read_result(folder), status_file.read(folder)
        if result is not None or state:
            stages[folder.relative_to(run.path).as_posix()] = _stage_entry(folder, result, state)
            if "." not in folder.name:  # a second pipeline, drawn for comparison, has equal checkpoint names
                scores.update((result or {}).get("pass@1", {}))
    if set(scores) <= set(TRAINING_ORDER):
        scores = {name: scores[name] for name in TRAINING_ORDER if name in scores}
    if status is None:
        running = any(stage["status"] == "running" for stage in stages.values())
        last = read_json(run.path / "summary.json", {}).get("status", "interrupted")
        status = "running" if running else last
    return {
        "run_id": run.run_id,
        "profile": manifest.get("profile"),
        "pipeline": manifest.get("pipeline"),
        "status": status,
        "seconds": round(_total_seconds(stages), 3),
        "stages": stages,
        "pass@1": scores,
    }


def write_summary(run: Run, status: Literal["completed", "failed", "interrupted"]) -> dict[str, Any]:
    """Recompute, write and return the run's summary.json (see `summarise`)."""
    summary = summarise(run, status)
    write_json_atomic(run.path / "summary.json", summary)
    return summary


def _total_seconds(stages: Mapping[str, Any]) -> float:
    # A resumed stage has the seconds of its last attempt only; the pipeline stages inside it have all.
    total = 0.0
    for name in (name for name in stages if "/" not in name):
        inner = sum(stage["seconds"] for other, stage in stages.items() if other.startswith(f"{name}/"))
        total += max(stages[name]["seconds"], inner)
    return total


def _stage_entry(folder: Path, result: dict[str, Any] | None, state: dict[str, Any]) -> dict[str, Any]:
    if result is not None:
        return {key: result[key] for key in ("status", "seconds", "peak_rss_bytes", "metrics")}
    # "completed" without a result.json is a failure: the stage died between its last cell and its result.
    status = state.get("state", "failed")
    seconds = max(0.0, state.get("updated", 0.0) - state.get("started", state.get("updated", 0.0)))
    return {
        "status": "failed" if status == "completed" else status,
        "seconds": round(seconds, 3),
        "peak_rss_bytes": peak_rss(folder),
        "metrics": {},
    }


def _pass_entry(name: str, entry: Mapping[str, float]) -> dict[str, float]:
    missing = [field for field in PASS_FIELDS if field not in entry]
    if missing:
        raise ValueError(f"pass@1 of {name!r} has no {', '.join(missing)}")
    if not all(math.isfinite(entry[field]) for field in PASS_FIELDS):
        raise ValueError(f"pass@1 of {name!r} is not finite: {dict(entry)}")
    return {field: entry[field] for field in PASS_FIELDS}
