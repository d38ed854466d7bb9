"""The doctor's lines about GPUs, from recorded answers: AMD and NVIDIA, healthy and not."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from r1kit.machine import doctor, gpus, versions
from r1kit.machine.devices import MASKS
from r1kit.machine.doctor import GIB
from r1kit.machine.gpus import Gpu, GpuProcess, Source

RECORDED = Path(__file__).parent / "recorded"
MI350X = Gpu(0, "AMD Instinct MI350X", 0, 283 * 2**20, 309_220_868_096, 239, 1000, 36)
H200 = Gpu(0, "NVIDIA H200", 0, 2**20, 150_754_820_096, 75, 700, 30)  # 140.4 GiB


def profile(processes: int = 1, **accelerate):
    machine = SimpleNamespace(device="cuda", environment={})
    return SimpleNamespace(machine=machine, accelerate={"num_processes": processes, **accelerate})


class Bench:
    """A machine made of files and a source, and the doctor's lines about it."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.root, self.dev, self.monkeypatch = folder / "root", folder / "dev", monkeypatch
        self.dev.mkdir()
        (self.root / "dev/shm").mkdir(parents=True)
        self.file("proc/sys/kernel/numa_balancing", "0")
        self.file("proc/cmdline", "ro quiet iommu=pt")
        for mask in MASKS:
            monkeypatch.delenv(mask, raising=False)
        self.locked_memory(resource.RLIM_INFINITY)
        monkeypatch.setattr(versions, "torch_build", lambda: versions.TorchBuild(cuda="13.0"))
        self.shm(512 * GIB)

    def file(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def shm(self, free: int) -> None:
        usage = namedtuple("usage", "total used free")(free, 0, free)
        self.monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)

    def locked_memory(self, limit: int) -> None:
        self.monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (limit, limit))

    def amd(self, *found: Gpu, processes=(), complaints=(), driver="6.16.6", ROCm="7.2.1") -> None:
        (self.dev / "kfd").touch()
        known = {"driver": driver, "ROCm": ROCm}
        self.source("AMD", found or (MI350X,), processes, known, complaints)

    def nvidia(self, *found: Gpu, processes=(), CUDA="13.1") -> None:
        (self.dev / "nvidia0").touch()
        self.source("NVIDIA", found or (H200,), processes, {"driver": "580.82.07", "CUDA": CUDA})

    def source(self, vendor, found, processes, known, complaints=()) -> None:
        known = {name: value for name, value in known.items() if value}
        source = Source(
            "tool",
            vendor,
            lambda: list(found),
            lambda: list(found),
            lambda: list(processes),
            lambda: known,
            complaints,
        )
        self.monkeypatch.setattr(gpus, "find", lambda dev: (source, "tool"))

    def lines(self, wanted=None) -> dict[str, str]:
        found = doctor.gpu_checks(wanted or profile(), 140 * GIB, self.dev, self.root)
        return {check.name: f"{check.level}: {check}" for check in found}

    def line(self, name: str, wanted=None) -> str:
        return self.lines(wanted)[name]


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.mark.parametrize("make", ["amd", "nvidia"])
def test_a_healthy_machine_has_nothing_to_say(bench, make):
    getattr(bench, make)()
    assert [line for line in bench.lines().values() if not line.startswith("ok")] == []
    amd_only = {"GPU devices", "NUMA balancing", "IOMMU"}
    assert (amd_only <= set(bench.lines())) == (make == "amd")


def test_a_cpu_profile_and_a_machine_without_gpus_are_not_asked(bench):
    assert bench.lines() == {}
    bench.amd()
    wanted = profile()
    wanted.machine.device = "cpu"
    assert bench.lines(wanted) == {}


def test_recorded_answers_of_an_mi355x_make_a_clean_bill(bench, monkeypatch):
    static, metric = (
        json.loads((RECORDED / f"mi355x_{name}.json").read_text()) for name in ("static", "metric")
    )
    bench.amd(*gpus.amd_named(gpus.amd_gpus(metric), static), driver="6.16.6")
    assert "1 x AMD Instinct MI355X" in bench.line("GPUs")
    assert "287.7 GiB or more free on each of 1" in bench.line("GPU memory")


def test_not_available_is_not_taken_for_free_memory(bench):
    bench.amd(*gpus.amd_gpus(json.loads((RECORDED / "mi300x_metric.json").read_text())))
    assert bench.line("GPU memory").startswith("warn: [WARN] GPU memory: found nothing reported")


@pytest.mark.parametrize(
    ("driver", "line"),
    [
        ("6.16.6", "ok"),
        ("6.18.2.30300200", "ok"),
        ("6.14.14", "warn: [WARN] GPU driver: found amdgpu 6.14.14, want 6.16.6 or newer, update the driver"),
        (
            "6.12.12",
            "warn: [WARN] GPU driver: found amdgpu 6.12.12, want 6.16.6 or newer, update the driver; do",
        ),
        (None, "warn: [WARN] GPU driver: found an unknown version"),
    ],
)
def test_an_old_amdgpu_is_named(bench, driver, line):
    bench.amd(driver=driver)
    assert bench.line("GPU driver").startswith(line)


def test_the_kernel_module_knows_its_version_where_amd_smi_does_not(bench):
    bench.amd(driver=None, ROCm=None)
    bench.file("sys/module/amdgpu/version", "6.16.6\n")
    bench.file("opt/rocm/.info/version", "6.4.3-127\n")
    assert bench.line("GPU driver").startswith("ok")
    assert "fail: [FAIL] ROCm: found 6.4.3-127, want 7.0 or newer" in bench.line("ROCm")


def test_a_driver_for_an_older_cuda_fails(bench):
    bench.nvidia(CUDA="12.8")
    assert bench.line("CUDA").startswith(
        "fail: [FAIL] CUDA: found a driver for CUDA 12.8, want one for torch's CUDA 13"
    )


def test_too_few_gpus_fail_and_server_and_nodes_count(bench):
    bench.amd()
    assert doctor.wanted_gpus(profile(16, num_machines=2)) == 8
    wanted = profile(6)
    wanted.machine.layout = SimpleNamespace(serve=[0, 1], train=[2, 3, 4, 5, 6, 7])
    assert doctor.wanted_gpus(wanted) == 8
    assert "want 8 (trainer and server together)" in bench.line("GPUs", wanted)


def test_two_kinds_of_gpu_are_a_warning(bench):
    bench.nvidia(H200, Gpu(1, "NVIDIA H100"))
    assert bench.line("GPUs").startswith(
        "warn: [WARN] GPUs: found 1 x NVIDIA H200, 1 x NVIDIA H100, want one kind"
    )


@pytest.mark.parametrize(("held", "level"), [(20, "warn"), (200, "fail")])
def test_a_stale_process_is_named_with_its_memory(bench, held, level):
    busy = Gpu(3, "AMD Instinct MI350X", 0, held * GIB, 309_220_868_096)
    program = [sys.executable, "-c", "input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as holder:
        holders = [GpuProcess(holder.pid, 3, held * GIB), GpuProcess(2**22 + 1, 3, 0)]
        bench.amd(busy, processes=holders)
        memory, line = bench.line("GPU memory"), bench.line("GPU processes")
        holder.communicate(b"\n")
    assert memory.startswith(f"{level}: [{level.upper()}] GPU memory: found GPU 3 holds {held}.0 GiB")
    assert f"GPU 3: {holder.pid} (python" in line
    assert f"{held}.0 GiB, want none before a run" in line
    assert str(2**22 + 1) not in line  # it holds nothing


def test_memory_that_nobody_holds_is_said_to_be_so(bench):
    bench.nvidia(processes=[GpuProcess(2**22 + 1, 0, GIB)])
    assert "not visible from here: another container or user" in bench.line("GPU processes")


def test_the_stale_amd_smi_is_named(bench):
    bench.amd(complaints=("/usr/local/bin/amd-smi printed no JSON but 'Invalid platform'",))
    assert (
        "found /usr/local/bin/amd-smi printed no JSON but 'Invalid platform', want only tool"
        in bench.line("GPU tool")
    )


def test_no_tool_at_all_is_a_warning_and_the_rest_is_still_looked_at(bench, monkeypatch):
    bench.amd()
    monkeypatch.setattr(
        gpus, "find", lambda dev: (None, "there is an AMD GPU, but no amd-smi (part of ROCm)")
    )
    assert bench.line("GPU tool").startswith("warn")
    assert "GPUs" not in bench.lines()
    assert bench.line("NUMA balancing").startswith("ok")


@pytest.mark.parametrize(
    ("path", "text", "name", "said"),
    [
        ("proc/sys/kernel/numa_balancing", "1", "NUMA balancing", "found on (1), want off"),
        ("proc/cmdline", "ro quiet", "IOMMU", "found iommu=not set, want iommu=pt"),
        ("proc/cmdline", "amd_iommu=on", "IOMMU", "found iommu=on, want iommu=pt"),
    ],
)
def test_kernel_settings_that_slow_or_hang_amd_gpus_are_named(bench, path, text, name, said):
    bench.amd()
    bench.file(path, text)
    assert said in bench.line(name)
    assert bench.line(name).startswith("warn")


@pytest.mark.parametrize(("free", "level"), [(64 * 2**20, "fail"), (8 * GIB, "warn"), (64 * GIB, "ok")])
def test_dockers_64_mib_of_shared_memory_fail(bench, free, level):
    bench.nvidia()
    bench.shm(free)
    assert bench.line("shared memory").startswith(level)


def test_locked_memory_with_a_limit_is_a_warning(bench):
    bench.nvidia()
    bench.locked_memory(8 * 2**20)
    assert "--ulimit memlock=-1" in bench.line("locked memory")


@pytest.mark.parametrize(
    ("masks", "level"),
    [
        ({"HIP_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "0,1"}, "ok"),
        ({"HIP_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "2"}, "fail"),
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, "fail"),
    ],
)
def test_masks_that_contradict_each_other_fail(bench, monkeypatch, masks, level):
    bench.amd()
    for name, value in masks.items():
        monkeypatch.setenv(name, value)
    assert bench.line("GPU masks").startswith(level)


def test_devices_that_this_user_may_not_open_fail(bench, monkeypatch):
    bench.amd()
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "--group-add video --group-add render" in bench.line("GPU devices")


def test_an_image_whose_torch_was_replaced_fails(bench, monkeypatch):
    bench.amd()
    assert "the host itself" in bench.line("image")
    bench.file(".dockerenv", "")
    assert "docker, not an image of r1kit's Dockerfile" in bench.line("image")
    bench.file(doctor.IMAGE, json.dumps({"base": "rocm", "kept": {"torch": "2.12.0+rocm7"}}))
    installed = {"torch": "2.12.0+rocm7"}
    monkeypatch.setattr(versions, "installed_version", installed.get)
    assert bench.line("image").startswith("ok: [OK]   image: on rocm")
    installed["torch"] = "2.13.0"
    assert "fail: [FAIL] image: found torch 2.12.0+rocm7 is now 2.13.0" in bench.line("image")


def test_torchs_build_is_read_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "torch/version.py").write_text(
        "cuda: Optional[str] = None\nhip: Optional[str] = '7.1.25424'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    assert versions.torch_build() == versions.TorchBuild(cuda=None, hip="7.1.25424")
