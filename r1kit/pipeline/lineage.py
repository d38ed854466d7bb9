"""Where a checkpoint or a dataset comes from: parents, content, settings and code, in every `result.json`.

`result.json` of a stage has an `origin`: {"kind", "parents": [{"as", "run", "stage", "hash", "content"}],
"content": {artifact: xxh3 of its files}, "settings": hash, "code": {"commit", "dirty"}}. A parent may lie in
another run; the family of a run is what can be reached from its stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r1kit.runs.folder import PROJECT, Run, git_state, runs_folder
from r1kit.runs.results import read_result, stage_folders
from r1kit.runs.weight_versions import checksum_of
from r1kit.settings import Profile, settings_hash

CONTENT = ("*.safetensors", "*.arrow", "*.parquet", "tokenizer.json")
"""Files that make up a model, a dataset, rows of answers; their neighbours carry dates and paths."""

LOGS = ("rollouts",)
"""Artifacts that nothing is trained on, and that may be large."""


def parents(
    inputs: Iterable[tuple[str, str, str]], sources: Mapping[str, Path | str]
) -> list[dict[str, Any]]:
    """Return the parents of a stage, for its `origin`, without artifacts that its sources did not make.

    Args:
        inputs: (role, source, artifact) of what the stage takes.
        sources: for each source the folder with its result, or a model's name on the hub.
    """
    found = []
    for role, source, artifact in inputs:
        place = sources[source]
        if isinstance(place, str):
            found.append({"as": role, "run": None, "stage": place, "artifact": artifact})
        elif artifact in read_result(place)["artifacts"]:
            found.append(parent(role, place, artifact))
    return found


def content_hash(path: str | Path) -> str:
    """16 hex digits over the weights or rows at `path`, a file or a folder; "" where there are none."""
    path = Path(path)
    if path.is_file():
        return checksum_of(path)
    files = sorted({file for pattern in CONTENT for file in path.glob(pattern) if file.stat().st_size})
    sums = {file.name: checksum_of(file) for file in files}
    return settings_hash(sums) if len(sums) > 1 else next(iter(sums.values()), "")


def parent(role: str, folder: Path, artifact: str) -> dict[str, Any]:
    """A stage's input, for its `origin`: `artifact` of the finished stage in `folder`."""
    result = read_result(folder) or {}
    content = (result.get("origin") or {}).get("content", {}).get(artifact, "")
    run, stage = identity(folder)
    return {
        "as": role,
        "run": run,
        "stage": stage,
        "artifact": artifact,
        "hash": result.get("inputs_hash"),
        "content": content,
    }


def origin(
    kind: str, folder: Path, artifacts: Mapping[str, str], parents: list[dict[str, Any]], settings: Profile
) -> dict[str, Any]:
    """The `origin` of a stage's result; `artifacts` are paths inside its folder."""
    content = {name: content_hash(folder / path) for name, path in artifacts.items() if name not in LOGS}
    return {
        "kind": kind,
        "parents": parents,
        "content": {name: digest for name, digest in content.items() if digest},
        "settings": settings_hash(settings),
        "code": git_state(PROJECT),
    }


def identity(folder: Path) -> tuple[str, str]:
    """(run id, stage) of a stage's folder: ("my-run", "06_pipeline/final")."""
    relative = folder.resolve().relative_to(runs_folder())
    return relative.parts[0], "/".join(relative.parts[1:])


def family(run: Run) -> list[dict[str, Any]]:
    """The finished stages of a run and all their ancestors, in other runs too, ancestors first.

    Each is {"run", "stage", "kind", "path", "hash", "finished", "artifacts", "parents", "content",
    "settings", "code"}; one that was deleted, or was made before origins were recorded, has `kind` "unknown".
    """
    # The stage around composed ones makes nothing itself.
    made = [folder for folder in stage_folders(run) if (read_result(folder) or {}).get("artifacts")]
    return ancestry(made)


def ancestry(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The stages in these folders and all that they come from, as `family` gives them."""
    members: dict[tuple[str, str], dict[str, Any]] = {}
    for folder in folders:
        _collect(folder, members)
    return list(members.values())


def _collect(folder: Path, members: dict[tuple[str, str], dict[str, Any]]) -> None:
    run, stage = identity(folder)
    if (run, stage) in members:
        return
    result = read_result(folder) or {}
    found = result.get("origin") or {"kind": "unknown", "parents": []}
    for entry in found["parents"]:
        if entry.get("run"):
            _collect(runs_folder() / entry["run"] / entry["stage"], members)
    members[run, stage] = {
        "run": run,
        "stage": stage,
        "path": f"{run}/{stage}",
        "hash": result.get("inputs_hash"),
        "finished": result.get("finished"),
        "artifacts": result.get("artifacts", {}),
        **found,
    }
