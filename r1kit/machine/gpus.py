"""What GPUs do now, one interface for AMD (amd-smi, its library) and NVIDIA (NVML).

A `Source` is found once and read often. It sees every GPU of the machine: neither tool looks at
CUDA_VISIBLE_DEVICES, and amd-smi's order need not be HIP's. What a tool does not say is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class GpuToolError(RuntimeError):
    """A tool that should know the GPUs is missing, or said something else than was asked."""


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment: percent, bytes, watts, degrees Celsius."""

    index: int
    name: str | None = None
    utilisation: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    power: float | None = None
    power_limit: float | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory (bytes, if the tool says) on a GPU."""

    pid: int
    gpu: int
    memory: int | None = None


def nothing() -> list:
    """What a source without a way to ask answers."""
    return []


@dataclass(frozen=True)
class Source:
    """A way to ask about GPUs.

    Attributes:
        name: the tool, and where it lies.
        vendor: "AMD" or "NVIDIA".
        read: the GPUs now, cheap enough to repeat; raises GpuToolError.
        describe: as `read`, with names and limits that never change.
        processes: who holds memory.
        versions: {"driver": …, "ROCm" or "CUDA": …}, what of it is known.
        complaints: tools that were passed over, each with its reason.
    """

    name: str
    vendor: str
    read: Callable[[], list[Gpu]]
    describe: Callable[[], list[Gpu]]
    processes: Callable[[], list[GpuProcess]] = nothing
    versions: Callable[[], dict[str, str]] = dict
    complaints: tuple[str, ...] = field(default=())


def vendor(dev: Path = Path("/dev")) -> str | None:
    """Whose GPU the device files speak for; WSL's (/dev/dxg) has NVIDIA's library and no files of its own."""
    if (dev / "kfd").exists():
        return "AMD"
    if any(dev.glob("nvidia[0-9]*")) or (dev / "dxg").exists():
        return "NVIDIA"
    return None


def find(dev: Path = Path("/dev")) -> tuple[Source | None, str]:
    """The machine's source and how it was found; (None, why) where there is none."""
    from r1kit.machine import amd_smi, nvml

    whose = vendor(dev)
    if whose is None:
        return None, "no GPU: neither /dev/kfd nor /dev/nvidia* is there"
    try:
        source = amd_smi.source() if whose == "AMD" else nvml.source()
    except GpuToolError as error:
        return None, str(error)
    return source, source.name
