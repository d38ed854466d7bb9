"""`run.json`: what a run was started with, so that somebody else can start it again."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

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
