"""Checkpoints that are whole or not there: a marker file written last, a final model that appears at once.

Layout: `checkpoints/checkpoint-N/` as transformers' Trainer writes it, plus `complete.json`; `model/` the
final weights.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARKER = "complete.json"
NAME = re.compile(r"checkpoint-(\d+)")


def step_of(folder: str | Path) -> int:
    """N of `checkpoint-N`. Raises ValueError for another name."""
    match = NAME.fullmatch(Path(folder).name)
    if match is None:
        raise ValueError(f"{folder} is not named checkpoint-N")
    return int(match.group(1))


def all_checkpoints(folder: str | Path) -> list[Path]:
    """Every `checkpoint-N` in `folder`, complete or not, by step; [] if the folder does not exist."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def is_complete(checkpoint: str | Path) -> bool:
    """Whether weights, optimizer and random states were all on disk when the marker was written."""
    return (Path(checkpoint) / MARKER).is_file()


def trainer_state(checkpoint: str | Path) -> dict[str, Any]:
    """Read `trainer_state.json` of a checkpoint."""
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))


def newest_complete(folder: str | Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    complete = [path for path in all_checkpoints(folder) if is_complete(path)]
    return complete[-1] if complete else None


def remove_incomplete(folder: str | Path) -> list[Path]:
    """Delete checkpoints without a marker (their writer was killed) and return their paths."""
    removed = [path for path in all_checkpoints(folder) if not is_complete(path)]
    for path in removed:
        shutil.rmtree(path)
    return removed


def keep_newest(folder: str | Path, limit: int | None) -> list[Path]:
    """Delete the oldest complete checkpoints until `limit` are left (None: keep all) and return their paths.

    Called only after the newest has its marker: Trainer's own rotation runs before, and a kill between the
    two would leave no complete checkpoint at all.
    """
    complete = [path for path in all_checkpoints(folder) if is_complete(path)]
    removed = complete[: max(0, len(complete) - limit)] if limit is not None else []
    for path in removed:
        (path / MARKER).unlink()  # first, so that a kill halfway leaves an incomplete one
        shutil.rmtree(path)
    return removed


def save_model_atomically(target: str | Path, write: Callable[[str], None], is_main: bool = True) -> None:
    """Let `write(folder)` write a model, then make it appear at `target` in one rename.

    Every process of a distributed training calls this; only the main one renames.
    """
    target = Path(target)
    partial = target.with_name(f".{target.name}.partial")
    if is_main and partial.exists():
        shutil.rmtree(partial)
    write(str(partial))
    if is_main:
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
