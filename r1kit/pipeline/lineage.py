"""Where a checkpoint or a dataset comes from: parents, content, settings and code, in every `result.json`.

`origin` makes a stage's record: {"kind", "parents": [{"as", "run", "stage", "artifact", "hash", "content"}],
"content": {artifact: xxh3 of its files}, "settings": hash, "code": {"commit", "dirty"}}. A parent may be in
another run. `family` reads these records back: all stages that can be reached from the stages of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r1kit.runs.folder import PROJECT, Run, git_state, runs_folder
from r1kit.runs.results import read_result, stage_folders
from r1kit.settings import Profile, settings_hash

CONTENT = ("*.safetensors", "*.arrow", "*.parquet", "tokenizer.json")
"""Files that hold a model, a dataset or rows of answers; the files beside them contain dates and paths."""

LOGS = ("rollouts",)
"""Artifacts that no training reads and that may be large; they are not hashed."""


def origin(
    kind: str,
    folder: Path,
    artifacts: Mapping[str, str],
    inputs: Iterable[tuple[str, str, str]],
    sources: Mapping[str, Path | str],
    settings: Profile,
) -> dict[str, Any]:
    """Return the `origin` of a stage's result.

    Args:
        artifacts: name -> path inside the stage's folder.
        inputs: (role, source, artifact) of what the stage takes.
        sources: for each source the folder with its result, or a model's name on the hub.
    """
    content = {name: content_hash(folder / path) for name, path in artifacts.items() if name not in LOGS}
    parents = (_parent(role, sources[source], artifact) for role, source, artifact in inputs)
    return {
        "kind": kind,
        "parents": [parent for parent in parents if parent],
        "content": {name: digest for name, digest in content.items() if digest},
        "settings": settings_hash(settings),
        "code": git_state(PROJECT),
    }


def _parent(role: str, source: Path | str, artifact: str) -> dict[str, Any] | None:
    """Return one entry of `parents`; None if the source has no such artifact."""
    if isinstance(source, str):
        return {"as": role, "run": None, "stage": source, "artifact": artifact}
    result = read_result(source)
    if artifact not in result["artifacts"]:
        return None
    run, stage = run_and_stage(source)
    return {
        "as": role,
        "run": run,
        "stage": stage,
        "artifact": artifact,
        "hash": result["inputs_hash"],
        "content": result.get("origin", {}).get("content", {}).get(artifact, ""),
    }


def content_hash(path: str | Path) -> str:
    """Hash the weights or rows at `path`, a file or a folder: 16 hex digits, or "" if there are none."""
    from r1kit.runs.weight_versions import checksum_of

    path = Path(path)
    if path.is_file():
        return checksum_of(path)
    files = sorted({file for pattern in CONTENT for file in path.glob(pattern) if file.stat().st_size})
    sums = {file.name: checksum_of(file) for file in files}
    return settings_hash(sums) if len(sums) > 1 else next(iter(sums.values()), "")


def run_and_stage(folder: Path) -> tuple[str, str]:
    """Return the run id and the stage of a stage's folder: ("my-run", "06_pipeline/final")."""
    relative = folder.resolve().relative_to(runs_folder())
    return relative.parts[0], "/".join(relative.parts[1:])


def family(run: Run) -> list[dict[str, Any]]:
    """List the finished stages of a run and all their ancestors, in other runs too, ancestors first.

    Each is {"run", "stage", "kind", "path", "hash", "finished", "artifacts", "parents", "content",
    "settings", "code"}. A stage that was deleted, or made before origins were recorded, has `kind` "unknown".
    """
    # 06_pipeline itself makes no artifacts; the stages inside it do.
    return ancestry(folder for folder in stage_folders(run) if (read_result(folder) or {}).get("artifacts"))


def ancestry(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """List the stages in these folders and all their ancestors, in the form of `family`."""
    members: dict[tuple[str, str], dict[str, Any]] = {}
    for folder in folders:
        _collect(folder, members)
    return list(members.values())


def _collect(folder: Path, members: dict[tuple[str, str], dict[str, Any]]) -> None:
    run, stage = run_and_stage(folder)
    if (run, stage) in members:
        return
    result = read_result(folder) or {}
    record = result.get("origin") or {"kind": "unknown", "parents": []}
    for parent in record["parents"]:
        if parent.get("run"):
            _collect(runs_folder() / parent["run"] / parent["stage"], members)
    members[run, stage] = {
        "run": run,
        "stage": stage,
        "path": f"{run}/{stage}",
        "hash": result.get("inputs_hash"),
        "finished": result.get("finished"),
        "artifacts": result.get("artifacts", {}),
        **record,
    }
