"""What GPU tools print becomes numbers; what they do not know stays unknown.

Incident: a stale /usr/local/bin/amd-smi prints "Invalid platform" and exits with 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from r1kit.machine import gpus
from r1kit.machine.gpus import Gpu, GpuProcess, GpuToolError

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str):
    return json.loads((RECORDED / f"{name}.json").read_text())


def program(path: Path, **answers: str) -> str:
    """A stand-in for amd-smi that prints, for each subcommand, what was recorded; always exits with 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cases = "".join(f"{name}) cat <<'EOF'\n{text}\nEOF\n;;\n" for name, text in answers.items())
    path.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}*) echo "Invalid platform";;\nesac\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def no_library(monkeypatch):
    """As where amd-smi's Python library cannot be imported."""
    monkeypatch.setitem(sys.modules, "amdsmi", None)


def test_amd_smi_counts_mib_and_calls_them_mb():
    (gpu,) = gpus.amd_gpus(recorded("mi355x_metric"))
    assert gpu.memory_total == 294_896 * 2**20 == 309_220_868_096  # what rocm-smi prints in bytes
    assert gpu == Gpu(0, None, 0, 283 * 2**20, 309_220_868_096, 239, None, 36)


def test_not_available_is_unknown_and_never_zero():
    first, second = gpus.amd_gpus(recorded("mi300x_metric"))
    assert (first.utilisation, first.power, first.temperature, first.memory_used) == (94, 612, None, None)
    assert (second.utilisation, second.power) == (94, None)


@pytest.mark.parametrize("wrap", [list, lambda entries: {"gpu_data": entries}])
def test_both_shapes_of_an_answer_are_read(wrap):
    assert gpus.amd_gpus(wrap(recorded("mi355x_metric")["gpu_data"]))[0].power == 239
    static = wrap(recorded("mi355x_static"))
    (gpu,) = gpus.amd_named([Gpu(0)], static)
    assert (gpu.name, gpu.power_limit) == ("AMD Instinct MI355X", 1400)
    assert gpus.amd_versions(static, [{"rocm_version": "7.2.1"}]) == {"driver": "6.16.6", "ROCm": "7.2.1"}
    assert gpus.amd_versions(static, {"rocm_version": "N/A"}) == {"driver": "6.16.6"}


def test_older_releases_keep_the_limit_elsewhere():
    static = [{"gpu": 0, "limit": {"socket_power": {"value": 750, "unit": "W"}}}]
    assert gpus.amd_named([Gpu(0)], static)[0].power_limit == 750


def test_processes_are_read_and_an_idle_gpus_sentence_is_not():
    assert gpus.amd_processes(recorded("process")) == [GpuProcess(4242, 0, 120 * 2**30)]


def test_a_stale_amd_smi_is_passed_over_though_it_exits_with_0(tmp_path, no_library):
    stale = program(tmp_path / "usr/local/bin/amd-smi")
    good = program(
        tmp_path / "opt/rocm/bin/amd-smi",
        **{name: (RECORDED / f"mi355x_{name}.json").read_text() for name in ("static", "metric")},
        version='WARNING: not in the group "render"\n[{"rocm_version": "7.2.1"}]',
        process=(RECORDED / "process.json").read_text(),
    )
    source = gpus.amd_source([stale, good])
    assert source.complaints == (f"{stale} printed no JSON but 'Invalid platform'",)
    assert source.describe()[0].name == "AMD Instinct MI355X"
    assert source.versions() == {"driver": "6.16.6", "ROCm": "7.2.1"}
    assert source.processes()[0].pid == 4242
    with pytest.raises(GpuToolError, match="Invalid platform"):
        gpus.amd_source([stale])


def test_rocms_own_amd_smi_comes_before_the_one_on_the_path(tmp_path, monkeypatch):
    for place in ("bin", "opt/rocm/bin", "opt/rocm-7.0.0/bin"):
        program(tmp_path / place / "amd-smi")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    places = [Path(found).parent.relative_to(tmp_path) for found in gpus.amd_programs(tmp_path / "opt")]
    assert [str(place) for place in places] == ["opt/rocm/bin", "opt/rocm-7.0.0/bin", "bin"]


def amdsmi(**changes):
    """A stand-in for AMD's Python library: errors where an MI300X has no value."""

    class AmdSmiException(Exception):
        pass

    def no_sensor(*_):
        raise AmdSmiException("AMDSMI_STATUS_NOT_SUPPORTED")

    parts = {
        "AmdSmiException": AmdSmiException,
        "AmdSmiTemperatureType": SimpleNamespace(HOTSPOT=1),
        "AmdSmiTemperatureMetric": SimpleNamespace(CURRENT=0),
        "amdsmi_init": lambda: None,
        "amdsmi_get_processor_handles": lambda: ["first"],
        "amdsmi_get_gpu_activity": lambda _: {"gfx_activity": 94, "umc_activity": 61, "mm_activity": "N/A"},
        "amdsmi_get_gpu_vram_usage": lambda _: {"vram_total": 196592, "vram_used": 283},
        "amdsmi_get_power_info": lambda _: {"socket_power": "N/A", "current_socket_power": 612},
        "amdsmi_get_temp_metric": no_sensor,
    }
    return SimpleNamespace(**(parts | changes))


def test_amds_library_says_the_same_without_a_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi())
    assert gpus.amd_library_reader()() == [
        Gpu(0, None, 94, 283 * 2**20, 196592 * 2**20, 612, None, temperature=None)
    ]


def test_a_lost_amd_gpu_is_an_error_and_not_an_idle_one(monkeypatch):
    module = amdsmi()
    module.amdsmi_get_gpu_vram_usage = module.amdsmi_get_power_info = module.amdsmi_get_temp_metric
    monkeypatch.setitem(sys.modules, "amdsmi", module)
    with pytest.raises(GpuToolError, match="nothing about GPU 0"):
        gpus.amd_library_reader()()


def pynvml(**changes):
    """A stand-in for NVML with one H200, in NVML's units."""

    class NVMLError(Exception):
        pass

    parts = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=2**30, total=141 * 2**30),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=97, memory=40),
        "nvmlDeviceGetPowerUsage": lambda _: 612_345,
        "nvmlDeviceGetPowerManagementLimit": lambda _: 700_000,
        "nvmlDeviceGetName": lambda _: b"NVIDIA H200",
        "nvmlDeviceGetTemperature": lambda _, sensor: 55,
        "nvmlDeviceGetComputeRunningProcesses": lambda _: [SimpleNamespace(pid=7, usedGpuMemory=None)],
        "nvmlSystemGetDriverVersion": lambda: "580.82.07",
        "nvmlSystemGetCudaDriverVersion": lambda: 13_010,
    }
    return SimpleNamespace(**(parts | changes))


def test_nvml_speaks_milliwatts_and_bytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", pynvml())
    source = gpus.nvidia_source()
    (gpu,) = source.read()
    assert gpu == Gpu(0, "NVIDIA H200", 97, 2**30, 141 * 2**30, 612.345, 700, 55)
    assert source.processes() == [GpuProcess(7, 0, None)]
    assert source.versions() == {"driver": "580.82.07", "CUDA": "13.1"}


def test_what_a_card_does_not_know_is_left_out_and_a_lost_card_is_an_error(monkeypatch):
    module = pynvml()

    def unsupported(*_):
        raise module.NVMLError("Not Supported")

    module.nvmlDeviceGetPowerUsage = module.nvmlDeviceGetPowerManagementLimit = unsupported
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert gpus.nvidia_source().read()[0].power is None
    module.nvmlDeviceGetMemoryInfo = module.nvmlDeviceGetUtilizationRates = unsupported
    with pytest.raises(GpuToolError, match="lost"):
        gpus.nvidia_source().read()


def test_the_source_is_chosen_by_the_device_files(tmp_path, monkeypatch):
    assert gpus.find(tmp_path)[0] is None
    (tmp_path / "nvidia0").touch()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.find(tmp_path) == (None, "there is an NVIDIA GPU, but no NVML: pip install nvidia-ml-py")
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(gpus, "amd_programs", list)
    assert gpus.find(tmp_path) == (None, "there is an AMD GPU, but no amd-smi (part of ROCm)")
