"""Cores, memory and disk that this process may really use: affinity and container limits count."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes: the most this process could ever have, and what is free now."""

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
    """Return the threads that OpenMP and BLAS take: OMP_NUM_THREADS, or every core."""
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
        cache = _statistics(folder / "memory.stat").get("inactive_file", 0)  # given back when needed
        total = min(total, limit)
        available = min(available, max(0, limit - used + cache))
    return Memory(total, available)


def disk_free(path: str | Path) -> int:
    """Return the free bytes where `path` is, or would be made."""
    return shutil.disk_usage(existing(path)).free


def existing(path: str | Path) -> Path:
    """Return `path`, or the nearest folder above it that exists."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _groups(cgroup: Path) -> Iterator[Path]:
    """Yield this process's control group and the groups above it, each a limit; then version 1's places."""
    own = ""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = line[3:].strip("/")
    except OSError:
        return
    folder = cgroup / own
    while cgroup in folder.parents:
        yield folder
        folder = folder.parent
    yield cgroup
    yield from (cgroup / "cpu", cgroup / "memory")


def _quota(folder: Path) -> float | None:
    """Return the CPUs that a group may use at once; None if it is not limited."""
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
