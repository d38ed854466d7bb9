"""Cores, memory and disk available to this process, and `Monitor`, which samples the machine.

Affinity masks and container limits (control groups, version 1 and 2) are taken into account. A sample holds
processor, memory and temperature from psutil, and GPUs from `gpus`.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from r1kit.machine import gpus
from r1kit.machine.devices import DEV

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes: the limit for this process, and what is free now."""

    total: int
    available: int


def cores(cgroup: Path = CGROUP) -> int:
    """Return how many cores this process may use: affinity mask, and a container's CPU quota rounded up."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        allowed = os.cpu_count() or 1
    quotas = [quota for folder in _groups(cgroup) if (quota := _quota(folder))]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def threads(environment: Mapping[str, str] | None = None) -> int:
    """Return how many threads OpenMP and BLAS use: OMP_NUM_THREADS, or every core."""
    text = (environment or {}).get("OMP_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else cores()


def memory(cgroup: Path = CGROUP) -> Memory:
    """Return total and available memory in bytes, a container's limit included."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for folder in _groups(cgroup):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit is None or limit >= machine.total:
            continue
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        cache = _statistics(folder / "memory.stat").get("inactive_file", 0)  # reclaimed when needed
        total = min(total, limit)
        available = min(available, max(0, limit - used + cache))
    return Memory(total, available)


def disk_free(path: str | Path) -> int:
    """Return the free bytes on the file system of `path`, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def existing(path: str | Path) -> Path:
    """Return `path`, or the nearest folder above it that exists."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _groups(cgroup: Path) -> Iterator[Path]:
    """Yield this process's control group and its ancestors, which may all set limits; then version 1's."""
    path = ""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                path = line[3:].strip("/")
    except OSError:
        return
    folder = cgroup / path
    while cgroup in folder.parents:
        yield folder
        folder = folder.parent
    yield cgroup
    yield from (cgroup / "cpu", cgroup / "memory")


def _quota(folder: Path) -> float | None:
    """Return the CPUs that a group may use at once; None without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = str(_number(folder / "cpu.cfs_quota_us")), str(_number(folder / "cpu.cfs_period_us"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(quota) > 0 else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _statistics(path: Path) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
    except (OSError, ValueError):
        return {}


# Sampling

SAMPLED = ("index", "utilisation", "memory_used", "memory_total", "power", "temperature")
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class Monitor:
    """Samples this machine repeatedly; the GPU tool is detected once.

    A GPU tool that fails three times in a row is not called again; those three samples hold the reason.
    """

    def __init__(self, dev: Path = DEV) -> None:
        self.source, self.reason = gpus.find(dev)
        self._failures = 0
        self._has_previous = False

    def read(self) -> dict[str, Any]:
        """Return one row of system.jsonl.

        Bytes, percent (`cpu` of all cores together), watts, degrees Celsius; unknown values are left out.
        Memory respects a container's limit.
        """
        now, cpu = memory(), psutil.cpu_percent(None)
        row: dict[str, Any] = {"memory_used": now.total - now.available, "memory_total": now.total}
        if self._has_previous:  # psutil measures since the previous call
            row["cpu"] = cpu
        self._has_previous = True
        temperature = cpu_temperature()
        if temperature is not None:
            row["cpu_temperature"] = temperature
        if self.source is not None:
            row |= self._gpus()
        return row

    def _gpus(self) -> dict[str, Any]:
        try:
            found = self.source.read()
        except gpus.GpuToolError as error:
            self._failures += 1
            if self._failures == 3:
                self.source = None
            return {"gpu_error": str(error)}
        self._failures = 0
        return {
            "gpus": [
                {key: value for key, value in asdict(gpu).items() if key in SAMPLED and value is not None}
                for gpu in found
            ]
        }


def cpu_temperature() -> float | None:
    """Return the processor's hottest sensor; None without sensors (most virtual machines)."""
    with contextlib.suppress(AttributeError, OSError, RuntimeError):  # only on Linux and FreeBSD
        sensors = psutil.sensors_temperatures()
        readings = [entry.current for name in CPU_SENSORS for entry in sensors.get(name, [])]
        return max(readings, default=None)
    return None
