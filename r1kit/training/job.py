"""What a training program is given: `resolved.yaml` and its folder, where everything is written."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.training.stop_request import StopRequest
from r1kit.training.watchdog import Watchdog


@dataclass
class Job:
    """One training to do: its folder and the content of `resolved.yaml`, paths made absolute."""

    folder: Path
    settings: dict[str, Any]
    inputs: dict[str, str]
    device: str = "cpu"
    started: float = field(default_factory=time.time)
    stop: StopRequest = field(default_factory=StopRequest)
    watchdog: Watchdog | None = None

    @property
    def machine(self) -> dict[str, Any]:
        """The values of machine.yaml."""
        return self.settings.get("machine", {})

    @property
    def checkpoints(self) -> Path:
        """Folder of `checkpoint-N` folders."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The append-only metrics file."""
        return self.folder / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """Folder of `step_%05d.parquet`."""
        return self.folder / "rollouts"

    @property
    def model(self) -> Path:
        """Folder of the final weights; it exists only when they are complete."""
        return self.folder / "model"

    def section(self, name: str) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """A settings file in three parts: the trainer's keys, ModelConfig's keys, our own (typed)."""
        from r1kit.settings import resolved_section

        own = resolved_section(name, self.settings[name])
        return own.trl, own.model, own


def read_job(path: str | Path) -> Job:
    """The job of a `resolved.yaml`; inputs that exist become absolute paths, others are hub ids.

    Raises ValueError if the file is no mapping with `inputs`, FileNotFoundError if it or a relative input is
    missing.
    """
    from r1kit.settings import yaml_load

    path = Path(path).resolve()
    settings = yaml_load(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not isinstance(settings.get("inputs"), dict):
        raise ValueError(f"{path}: not a resolved settings file (a mapping with `inputs`)")
    inputs = {}
    for name, value in settings["inputs"].items():
        local = path.parent / value
        if not local.exists() and (value.startswith(".") or os.path.isabs(value)):
            raise FileNotFoundError(f"{path}: inputs.{name} is {value}, but {local} does not exist")
        inputs[name] = str(local.resolve()) if local.exists() else value
    return Job(folder=path.parent, settings=settings, inputs=inputs)
