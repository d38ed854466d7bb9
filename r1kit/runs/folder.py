"""Making, opening and listing run folders: `runs/<run_id>/`, run_id = YYYYmmdd-HHMMSS-<profile>-<4 hex>.

`run.json`: what a run was started with, so that somebody else can start it again.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from r1kit.runs.files import read_json, write_json_atomic

# What decides the numbers of a run. Absent ones are recorded as null, which is information too.
PACKAGES = (
    "r1kit", "torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "deepspeed", "vllm",
    "math-verify", "numpy", "papermill", "nbclient", "ipykernel", "pydantic", "scipy",
)  # fmt: skip


def collect(
    run_id: str,
    profile: str,
    *,
    argv: Sequence[str],
    seeds: Mapping[str, int],
    pipeline: str | None = None,
    devices: Sequence[Any] = (),
    overrides: Mapping[str, Any] | None = None,
    project: Path,
) -> dict[str, Any]:
    """The manifest of a new run as a plain dictionary.

    `devices` comes from the caller, because finding them would need torch. `borrowed`, {stage: run_id} of the
    stages taken from another run, is empty at the start and filled in by the stages.
    """
    return {
        "run_id": run_id,
        "profile": profile,
        "pipeline": pipeline,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": list(argv),
        "overrides": dict(overrides or {}),
        "seeds": dict(seeds),
        "devices": list(devices),
        "git": git_state(project),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "versions": package_versions(PACKAGES),
        "borrowed": {},
    }


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each distribution, None where it is not installed; imports nothing."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder: Path) -> dict[str, Any]:
    """{"commit": hash or None, "dirty": bool or None}; None means: no git here, or not a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit or None, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


PROJECT = Path(__file__).resolve().parents[2]
# A letter or a dash must be in it: papermill turns `-p RUN_ID 007` into the integer 7.
VALID_ID = re.compile(r"(?=.*[A-Za-z-])[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class RunError(ValueError):
    """A run id that cannot be used: malformed, unknown, or taken."""

    exit_code = 2


@dataclass(frozen=True)
class Run:
    """One run folder."""

    run_id: str
    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of run.json, read afresh."""
        return read_json(self.path / "run.json", {})

    def update_manifest(self, **fields: Any) -> None:
        """Merge fields into run.json; dictionaries (`borrowed`, `overrides`) are merged key by key."""
        manifest = self.manifest
        for key, value in fields.items():
            if isinstance(value, dict) and isinstance(manifest.get(key), dict):
                value = manifest[key] | value
            manifest[key] = value
        write_json_atomic(self.path / "run.json", manifest)

    def stage(self, name: str) -> Path:
        """The folder of a stage, named as its notebook ("04_grpo"); made if missing.

        Raises:
            RunError: `name` is not a plain folder name.
        """
        if not VALID_ID.fullmatch(name):
            raise RunError(f"{name!r} is not a stage name (letters, digits, '.', '_' and '-' only)")
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def runs_folder() -> Path:
    """Return `$R1KIT_RUNS`, or `runs/` in the checkout, or in the working folder if r1kit is installed."""
    home = PROJECT if (PROJECT / "pyproject.toml").is_file() else Path.cwd()
    return Path(os.environ.get("R1KIT_RUNS") or home / "runs").expanduser().resolve()


def new_run_id(profile: str) -> str:
    """A fresh id: local time, the profile's name (of a path the last part), four random hex digits."""
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(profile).name.lower()).strip("-._") or "run"
    return f"{datetime.now():%Y%m%d-%H%M%S}-{name[:60]}-{secrets.token_hex(2)}"


def check_run_id(run_id: str) -> str:
    """Return `run_id` unchanged if it can name a run.

    Raises:
        RunError: it is not text, empty, has a path in it, or could be mistaken for a number.
    """
    if not isinstance(run_id, str) or not VALID_ID.fullmatch(run_id):
        raise RunError(
            f"{run_id!r} cannot be a run id: allowed are up to 120 letters, digits, "
            "'.', '_' and '-', the first a letter or digit, and at least one of them a letter or '-'"
        )
    return run_id


def create_run(
    profile_name: str,
    *,
    argv: Sequence[str],
    seeds: Mapping[str, int],
    run_id: str | None = None,
    pipeline: str | None = None,
    devices: Sequence[Any] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Make a new run folder with its run.json.

    Raises:
        RunError: `run_id` is malformed or already exists.
        WriteFailed: the runs folder cannot be written.
    """
    root = runs_folder()
    root.mkdir(parents=True, exist_ok=True)
    if run_id:
        path = root / check_run_id(run_id)
        try:
            path.mkdir()
        except FileExistsError:
            hint = f"continue it with --resume {run_id}"
            raise RunError(f"run {run_id!r} exists already in {root}; {hint}") from None
    else:
        while True:
            path = root / new_run_id(profile_name)
            try:
                path.mkdir()
                break
            except FileExistsError:
                continue  # same second, same four digits: draw again
    details = {"pipeline": pipeline, "devices": devices, "overrides": overrides}
    manifest = collect(path.name, profile_name, argv=argv, seeds=seeds, project=PROJECT, **details)
    write_json_atomic(path / "run.json", manifest)
    return Run(path.name, path)


def open_run(run_id: str) -> Run:
    """An existing run; the id "newest" means the newest of all.

    Raises:
        RunError: malformed or unknown id; the message names the nearest known one.
    """
    root = runs_folder()
    path = root / check_run_id(run_id)
    if (path / "run.json").is_file():
        return Run(run_id, path)
    known = list_runs()
    if known and run_id == "newest":
        return known[0]
    raise RunError(f"no run {run_id!r} in {root}; {_nearest(run_id, [run.run_id for run in known])}")


def list_runs() -> list[Run]:
    """All runs of the runs folder, newest first."""
    root = runs_folder()
    if not root.is_dir():
        return []
    found = [Run(path.name, path) for path in root.iterdir() if (path / "run.json").is_file()]
    return sorted(found, key=lambda run: (run.manifest.get("created", ""), run.run_id), reverse=True)


def _nearest(run_id: str, known: list[str]) -> str:
    from r1kit.settings.errors import nearest_name

    if near := nearest_name(run_id, known, cutoff=0.3):
        return f"did you mean {near!r}?"
    return f"the newest is {known[0]!r}" if known else "there are no runs yet"


def newest_run(profile: str | None = None) -> Run | None:
    """The newest run, of `profile` only if one is named; None if there is none."""
    return next((run for run in list_runs() if profile in (None, run.manifest.get("profile"))), None)
