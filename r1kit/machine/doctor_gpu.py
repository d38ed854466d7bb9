"""The doctor's look at GPUs and what they stand on: driver, memory, who holds it, kernel, container.

Only for profiles that use a GPU, on machines that have one. Wanted values say where they come from; what AMD
asks for is not asked of NVIDIA's machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from r1kit.machine import gpus, host, versions
from r1kit.machine.checks import GIB, Check, gib, make

if TYPE_CHECKING:
    from r1kit.machine.plan import Plan
    from r1kit.settings import Profile

AMDGPU = "6.16.6"  # "known-good host driver floor" of AMD's MLPerf 6.1 notes for MI350X
AMDGPU_WAKES_CLEAN = "6.14"  # before it memory comes back stale from vLLM's sleep mode (vllm#44972)
ROCM_GFX950 = "7.0"  # the first ROCm for MI350X and MI355X
IDLE = 2 * GIB  # an idle MI355X holds 283 MiB (recorded); a display or a monitor little more
# docker gives 64 MiB, where NCCL fails at once; AMD's docker lines ask for 64 GiB or --ipc=host.
SHARED_WANTED, SHARED_LEAST = 64 * GIB, GIB


def checks(profile: Profile, dev: Path = Path("/dev"), root: Path = host.ROOT) -> Iterator[Check]:
    """All checks of the GPUs; none on a machine or for a profile without."""
    vendor = gpus.vendor(dev)
    if vendor is None or profile.machine.device == "cpu":
        return
    source, reason = gpus.find(dev)
    yield from _tool(vendor, source, reason)
    if vendor == "AMD":
        yield _permissions(dev)
    if source is not None:
        found, known = source.describe(), source.versions()
        yield _driver(vendor, known.get("driver") or host.driver_version(root))
        yield from _stack(vendor, known, found, root)
        yield _count(profile, found)
        yield from _memory(found, source.processes(), memory_needed(profile))
    yield _masks(vendor)
    if vendor == "AMD":
        yield _numa(root)
        yield _iommu(root)
    yield _shared_memory(root)
    yield _locked_memory()
    yield from _image(root)


def _tool(vendor: str, source: gpus.Source | None, reason: str) -> Iterator[Check]:
    if source is None:
        want = "amd-smi of ROCm" if vendor == "AMD" else "NVML (nvidia-ml-py and the driver's library)"
        yield make("GPU tool", "warn", reason, want, "without it nobody sees the GPUs' memory and power")
        return
    if source.complaints:
        do = "remove it, or put /opt/rocm/bin first in PATH; r1kit passed it over"
        yield make("GPU tool", "warn", "; ".join(source.complaints), f"only {source.name}", do)
    else:
        yield make("GPU tool", "ok", source.name)


def _permissions(dev: Path) -> Check:
    closed = host.closed_devices(dev)
    do = "add yourself to the groups video and render, in docker with --group-add video --group-add render"
    found = ", ".join(closed) + " closed to you" if closed else "may be opened"
    return make("GPU devices", "fail" if closed else "ok", found, "the right to open them", do)


def _driver(vendor: str, version: str | None) -> Check:
    if version is None:
        # amdgpu of the kernel's own tree carries no version.
        return make("GPU driver", "warn", "a version that nobody says", "a known one", "ask its owner")
    if vendor == "NVIDIA" or host.version_tuple(version) >= host.version_tuple(AMDGPU):
        return make("GPU driver", "ok", version)
    old = host.version_tuple(version) < host.version_tuple(AMDGPU_WAKES_CLEAN)
    stale = "; do not use vLLM's sleep mode with it, memory comes back stale" if old else ""
    return make("GPU driver", "warn", f"amdgpu {version}", f"{AMDGPU} or newer", f"update the driver{stale}")


def _stack(vendor: str, known: dict[str, str], found: list[gpus.Gpu], root: Path) -> Iterator[Check]:
    """ROCm new enough for the card; a driver that runs the CUDA that torch is built for."""
    build = versions.torch_build()
    if vendor == "AMD":
        rocm = known.get("ROCm") or host.rocm_version(root)
        young = [gpu for gpu in found if gpu.name and ("MI350" in gpu.name or "MI355" in gpu.name)]
        if rocm and young and host.version_tuple(rocm) < host.version_tuple(ROCM_GFX950):
            do = "take a newer ROCm or image: older ones have no kernels for gfx950"
            yield make("ROCm", "fail", rocm, f"{ROCM_GFX950} or newer", do)
        elif rocm:
            yield make("ROCm", "ok", f"{rocm}{f', torch is built for {build.hip}' if build.hip else ''}")
        return
    driver = known.get("CUDA")
    if driver and build.cuda and host.version_tuple(driver)[0] < host.version_tuple(build.cuda)[0]:
        do = "update the driver, or take a torch built for its CUDA"
        yield make("CUDA", "fail", f"a driver for CUDA {driver}", f"one for torch's CUDA {build.cuda}", do)
    elif driver:
        yield make("CUDA", "ok", f"{driver}{f', torch is built for {build.cuda}' if build.cuda else ''}")


def _count(profile: Profile, found: list[gpus.Gpu]) -> Check:
    wanted = wanted_gpus(profile)
    names = [gpu.name or "unnamed" for gpu in found]
    text = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none"
    if len(found) < wanted:
        do = "lower num_processes in accelerate.yaml and the server's devices, or take a larger machine"
        return make("GPUs", "fail", text, f"{wanted} (trainer and server together)", do)
    if len(set(names)) > 1:
        return make("GPUs", "warn", text, "one kind", "the slowest sets the pace; mask the others")
    return make("GPUs", "ok", text)


def wanted_gpus(profile: Profile) -> int:
    """GPUs of one machine that the profile's trainer and its server beside it use."""
    accelerate, layout = profile.accelerate, getattr(profile.machine, "layout", None)
    trainer = -(-accelerate.get("num_processes", 1) // accelerate.get("num_machines", 1))
    return max(trainer, len({*layout.serve, *layout.train}) if layout else 0)


def memory_needed(profile: Profile) -> int:
    """Bytes that the largest training takes on each of its devices, as `r1kit plan` counts them."""
    plan = planned(profile)
    return int(plan.trainer.memory.total) if plan else 0


def planned(profile: Profile) -> Plan | None:
    """What `r1kit plan` says; None for a profile that does not say for which accelerator it is."""
    from r1kit.machine.plan import make_plan
    from r1kit.settings import SettingsError

    try:
        return make_plan(profile)
    except SettingsError:
        return None


def _memory(found: list[gpus.Gpu], processes: list[gpus.GpuProcess], needed: int) -> Iterator[Check]:
    """Free memory of each GPU, and who holds the rest."""
    busy = [gpu for gpu in found if (gpu.memory_used or 0) > IDLE]
    known = [gpu for gpu in found if gpu.memory_total and gpu.memory_used is not None]
    if known and not busy:
        least = min(gpu.memory_total - gpu.memory_used for gpu in known)
        text = f"{gib(least)} or more free on each of {len(known)}"
        do = "r1kit plan names the nearest change that fits"
        level = "ok" if least >= needed else "fail"
        yield make("GPU memory", level, text, f"{gib(needed)} (r1kit plan)", do)
    elif not known:
        yield make("GPU memory", "warn", "nothing said", "free memory", "look at amd-smi or nvidia-smi")
    if busy:
        full = any(gpu.memory_total and gpu.memory_total - gpu.memory_used < needed for gpu in busy)
        text = ", ".join(
            f"GPU {gpu.index} holds {gib(gpu.memory_used)}"
            + (f" of {gib(gpu.memory_total)}" if gpu.memory_total else "")
            for gpu in busy
        )
        do = "end the processes below, or choose other GPUs; without one to be seen, have the GPU reset"
        yield make("GPU memory", "fail" if full else "warn", text, f"less than {gib(IDLE)} held", do)
    holders = [process for process in processes if process.memory is None or process.memory > 0]
    if holders:
        text = "; ".join(
            f"GPU {process.gpu}: {host.describe_process(process.pid)}"
            + (f" {gib(process.memory)}" if process.memory else "")
            for process in holders
        )
        do = "end them if they are left over from an earlier run (kill PID), or wait for them"
        yield make("GPU processes", "warn", text, "none before a run", do)
    else:
        yield make("GPU processes", "ok", "none")


def _masks(vendor: str) -> Check:
    masks = host.masks()
    text = ", ".join(f"{name}={value}" for name, value in masks.items()) or "none: every GPU is seen"
    hip, cuda = masks.get("HIP_VISIBLE_DEVICES"), masks.get("CUDA_VISIBLE_DEVICES")
    if vendor == "AMD" and "ROCR_VISIBLE_DEVICES" in masks:
        # It renumbers the devices that HIP's mask then counts, and breaks weight transfer (vllm#46895).
        do = "unset ROCR_VISIBLE_DEVICES; r1kit sets HIP_ and CUDA_VISIBLE_DEVICES alike"
        return make("GPU masks", "fail", text, "no ROCR_VISIBLE_DEVICES", do)
    if vendor == "AMD" and hip and cuda and hip != cuda:
        do = "set both alike or unset both: vLLM refuses to start with two masks"
        return make("GPU masks", "fail", text, "HIP_VISIBLE_DEVICES equal to CUDA_VISIBLE_DEVICES", do)
    return make("GPU masks", "ok", text)


def _numa(root: Path) -> Check:
    found = host.numa_balancing(root)
    do = "as root: sysctl kernel.numa_balancing=0 (every AMD guide asks for it; pages move under the GPUs)"
    text = {"0": "off", None: "unknown"}.get(found, f"on ({found})")
    return make("NUMA balancing", "ok" if found in ("0", None) else "warn", text, "off", do)


def _iommu(root: Path) -> Check:
    found = host.iommu(root)
    do = "add iommu=pt to the kernel's command line: without it RCCL warns of instability and hangs"
    good = found in ("pt", "off")
    return make("IOMMU", "ok" if good else "warn", f"iommu={found or 'not set'}", "iommu=pt", do)


def _shared_memory(root: Path) -> Check:
    free = host.shared_memory(root)
    if free is None:
        return make("shared memory", "fail", "no /dev/shm", "one", "mount a tmpfs there")
    level = "ok" if free >= SHARED_WANTED else "warn" if free >= SHARED_LEAST else "fail"
    do = "in docker: --ipc=host or --shm-size 64g; collectives and weights pass through it"
    return make("shared memory", level, f"{gib(free)} free", f"{gib(SHARED_WANTED)} or more", do)


def _locked_memory() -> Check:
    limit = host.locked_memory()
    do = "ulimit -l unlimited, in docker --ulimit memlock=-1: network cards read locked memory"
    text = "no limit" if limit is None else gib(limit)
    return make("locked memory", "ok" if limit is None else "warn", text, "no limit", do)


def _image(root: Path) -> Iterator[Check]:
    """In r1kit's image: whether what its base brought is still there."""
    record, kind = host.image(root), host.container(root)
    if record is None:
        where = f"{kind}, not an image of r1kit's Dockerfile" if kind else "none: this is the host itself"
        yield make("image", "ok", where)
        return
    changed = [
        f"{name} {version} is now {versions.installed_version(name) or 'gone'}"
        for name, version in record.get("kept", {}).items()
        if versions.installed_version(name) != version
    ]
    do = "build the image again: what runs on the GPU is the base image's own build, not the registry's"
    found = "; ".join(changed) or f"on {record.get('base')}, which is as it was"
    yield make("image", "fail" if changed else "ok", found, "the base image's packages", do)
