"""What the host and its container say about themselves, read from files; `root` is another one in tests."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from r1kit.machine.devices import MASKS

ROOT = Path("/")
IMAGE = "opt/r1kit/image.json"
"""Written when r1kit's image is built (requirements/layer.py): what the base image brought."""


def version_tuple(text: str) -> tuple[int, ...]:
    """(6, 16, 6) of "6.16.6-2238411" or "6.16.6.30300200"; () without a number."""
    found = re.match(r"\D*(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def numa_balancing(root: Path = ROOT) -> str | None:
    """Whether the kernel moves pages between NUMA nodes by itself: "0" off, "1" on, None unknown."""
    return _read(root / "proc/sys/kernel/numa_balancing")


def iommu(root: Path = ROOT) -> str | None:
    """The IOMMU mode asked for on the kernel's command line ("pt", "off", "on"); None if nothing is."""
    found = re.findall(r"(?:^|\s)(?:amd_|intel_)?iommu=(\S+)", _read(root / "proc/cmdline") or "")
    return "pt" if "pt" in found else found[-1] if found else None


def shared_memory(root: Path = ROOT) -> int | None:
    """Free bytes of /dev/shm; None without one."""
    folder = root / "dev/shm"
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def locked_memory() -> int | None:
    """Bytes a process may lock (what network cards read directly); None for no limit."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def container(root: Path = ROOT) -> str | None:
    """The kind of container this is; None on a bare host."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".singularity.d").is_dir():
        return "apptainer"
    return "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None


def image(root: Path = ROOT) -> dict[str, Any] | None:
    """What the image's build wrote down, `{"base", "stack", "kept": {distribution: version}}`."""
    try:
        found = json.loads((root / IMAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def rocm_version(root: Path = ROOT) -> str | None:
    """ROCm's own record of its version."""
    return _read(root / "opt/rocm/.info/version")


def driver_version(root: Path = ROOT) -> str | None:
    """The amdgpu kernel module's version; modules of the kernel's own tree have none."""
    return _read(root / "sys/module/amdgpu/version")


def closed_devices(dev: Path) -> list[str]:
    """AMD's device files that this user may not open: /dev/kfd and the render nodes."""
    files = [dev / "kfd", *sorted((dev / "dri").glob("renderD*"))]
    return [str(path) for path in files if path.exists() and not os.access(path, os.R_OK | os.W_OK)]


def masks(names: Iterable[str] = MASKS) -> dict[str, str]:
    """The variables that hide GPUs, as far as they are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


def describe_process(pid: int) -> str:
    """`4242 (python train.py, of root, since 2 days)`, or what it means that nothing is known."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            words = " ".join([Path(part).name for part in process.cmdline()[:1]] + process.cmdline()[1:4])
            age = max(0.0, time.time() - process.create_time())
            orphan = ", its parent is gone" if process.ppid() == 1 else ""
            return f"{pid} ({words[:60] or process.name()}, of {process.username()}, {_since(age)}{orphan})"
    except psutil.Error:
        return f"{pid} (not to be seen from here: another container or user, or dead with its memory kept)"


def _since(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"for {count} {unit}{'s' if count != 1 else ''}"
    return "just started"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
