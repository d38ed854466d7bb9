"""Create, open and list run folders: `runs/<run_id>/`, run_id = YYYYmmdd-HHMMSS-<profile>-<4 hex digits>.

`run.json` in it records what the run was started with, so that it can be started again elsewhere.
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
from r1kit.settings.errors import UserError, nearest_name

PROJECT = Path(__file__).resolve().parents[2]
# A letter or a dash must be in it: papermill turns `-p RUN_ID 007` into the integer 7.
VALID_ID = re.compile(r"(?=.*[A-Za-z-])[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
# What decides the numbers of a run. Packages that are not installed are recorded as null.
PACKAGES = (
    "r1kit", "torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "deepspeed", "vllm",
    "math-verify", "numpy", "papermill", "nbclient", "ipykernel", "pydantic", "scipy",
)  # fmt: skip


class RunError(UserError):
    """A run id that cannot be used: malformed, unknown, or taken."""


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
        """Return the folder of a stage, named as its notebook ("04_grpo"); make it if missing.

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

    `devices` comes from the caller, because detecting them would need torch. The manifest's `borrowed`,
    {stage: run_id} of the stages taken from another run, is filled in by the stages.

    Raises:
        RunError: `run_id` is malformed or already exists.
        WriteFailed: the runs folder cannot be written.
    """
    root = runs_folder()
    root.mkdir(parents=True, exist_ok=True)
    while True:
        path = root / (_checked(run_id) if run_id else new_run_id(profile_name))
        try:
            path.mkdir()
            break
        except FileExistsError:
            if run_id:
                hint = f"continue it with --resume {run_id}"
                raise RunError(f"run {run_id!r} exists already in {root}; {hint}") from None
            # Otherwise another run has drawn the same four digits in the same second: draw again.
    manifest = {
        "run_id": path.name,
        "profile": profile_name,
        "pipeline": pipeline,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": list(argv),
        "overrides": dict(overrides or {}),
        "seeds": dict(seeds),
        "devices": list(devices),
        "git": git_state(PROJECT),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "versions": package_versions(PACKAGES),
        "borrowed": {},
    }
    write_json_atomic(path / "run.json", manifest)
    return Run(path.name, path)


def open_run(run_id: str) -> Run:
    """Open an existing run; the id "newest" means the newest of all.

    Raises:
        RunError: malformed or unknown id; the message names the nearest known one.
    """
    root = runs_folder()
    path = root / _checked(run_id)
    if (path / "run.json").is_file():
        return Run(run_id, path)
    runs = list_runs()
    if runs and run_id == "newest":
        return runs[0]
    hint = f"the newest is {runs[0].run_id!r}" if runs else "there are no runs yet; `r1kit run` starts one"
    if near := nearest_name(run_id, [run.run_id for run in runs], cutoff=0.3):
        hint = f"did you mean {near!r}?"
    raise RunError(f"no run {run_id!r} in {root}; {hint}")


def list_runs() -> list[Run]:
    """Return all runs of the runs folder, newest first."""
    runs = [Run(path.parent.name, path.parent) for path in runs_folder().glob("*/run.json")]
    return sorted(runs, key=lambda run: (run.manifest.get("created", ""), run.run_id), reverse=True)


def new_run_id(profile: str) -> str:
    """Return a fresh id: local time, the profile's name (of a path the last part), four random hex digits."""
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(profile).name.lower()).strip("-._") or "run"
    return f"{datetime.now():%Y%m%d-%H%M%S}-{name[:60]}-{secrets.token_hex(2)}"


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each distribution, None if not installed, without importing any."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder: Path) -> dict[str, Any]:
    """Return {"commit": hash, "dirty": bool}; both are None without git, or outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit or None, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _checked(run_id: str) -> str:
    if not isinstance(run_id, str) or not VALID_ID.fullmatch(run_id):
        raise RunError(
            f"{run_id!r} cannot be a run id: allowed are up to 120 letters, digits, "
            "'.', '_' and '-', the first a letter or digit, and at least one of them a letter or '-'"
        )
    return run_id
