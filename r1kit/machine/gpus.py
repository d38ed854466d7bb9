"""The state of GPUs: NVIDIA's through NVML, AMD's through amd-smi.

`find` returns a `Source`, which is read repeatedly. It sees every GPU of the machine: neither tool respects
CUDA_VISIBLE_DEVICES, and amd-smi's order may differ from HIP's. Unknown values are None, never 0.

NVML (package nvidia-ml-py) counts in milliwatts and bytes. amd-smi replaces rocm-smi, which AMD only
maintains. Its JSON changed between releases, so both known shapes are read: a bare list, and
`{"gpu_data": [...]}` (metric since ROCm 7, static since AMD SMI 26.2.1). A number is
`{"value": 239, "unit": "W"}`, or the text "N/A". What it calls MB are MiB: 294,896 of them are the 288 GiB of
an MI350X. Its exit code is meaningless: a stale /usr/local/bin/amd-smi prints "Invalid platform" and exits
with 0. So /opt/rocm comes first, and a program that prints no JSON is skipped.

Where Python can import amd-smi's own binding (part of ROCm and of vLLM's ROCm images; the `amdsmi` on PyPI is
another project's copy), samples are read through it: a millisecond instead of a process of a second or two,
which `runs.sampler` could only afford every five minutes. Names and units follow amdsmi 7.0.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r1kit.machine.devices import DEV, accelerator

AMD_SMI_SECONDS = 30.0  # a healthy command takes one or two; a hung driver never answers
AMD_SIZES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}


class GpuToolError(RuntimeError):
    """The tool that reads the GPUs is missing, or its answer was unexpected."""


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
    """A process that holds memory (bytes, if known) on a GPU."""

    pid: int
    gpu: int
    memory: int | None = None


@dataclass(frozen=True)
class Source:
    """A tool that reads the GPUs.

    Attributes:
        name: the tool, with its path.
        vendor: "AMD" or "NVIDIA".
        read: the GPUs now, cheap enough to repeat; raises GpuToolError.
        describe: as `read`, with names and limits that never change.
        processes: the processes that hold memory.
        versions: {"driver": …, "ROCm" or "CUDA": …}, without unknown ones.
        complaints: tools that were skipped, each with its reason.
    """

    name: str
    vendor: str
    read: Callable[[], list[Gpu]]
    describe: Callable[[], list[Gpu]]
    processes: Callable[[], list[GpuProcess]] = list
    versions: Callable[[], dict[str, str]] = dict
    complaints: tuple[str, ...] = field(default=())


def find(dev: Path = DEV) -> tuple[Source | None, str]:
    """Return the machine's source and its name; (None, the reason) without one."""
    vendor, reason = accelerator(dev)
    if vendor is None:
        return None, reason
    try:
        source = amd_source() if vendor == "AMD" else nvidia_source()
    except GpuToolError as error:
        return None, str(error)
    return source, source.name


def nvidia_source() -> Source:
    """Initialise NVML.

    Raises:
        GpuToolError: the package or the driver's library is missing, or no GPU answers.
    """
    try:
        import pynvml as nvml
    except ImportError:
        raise GpuToolError("there is an NVIDIA GPU, but no NVML: pip install nvidia-ml-py") from None
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise GpuToolError(f"NVML: {error}; is the driver loaded?") from error

    def ask(function: str, *arguments: Any) -> Any:
        try:
            answer = getattr(nvml, function)(*arguments)
        except nvml.NVMLError:
            return None
        return answer.decode() if isinstance(answer, bytes) else answer  # older bindings return bytes

    def gpu(index: int, handle: Any) -> Gpu:
        memory = ask("nvmlDeviceGetMemoryInfo", handle)
        rates = ask("nvmlDeviceGetUtilizationRates", handle)
        power = ask("nvmlDeviceGetPowerUsage", handle)
        limit = ask("nvmlDeviceGetPowerManagementLimit", handle)
        if memory is None and rates is None and power is None:
            raise GpuToolError(f"NVML says nothing about GPU {index}: lost?")
        return Gpu(
            index=index,
            name=ask("nvmlDeviceGetName", handle),
            utilisation=rates and rates.gpu,
            memory_used=memory and memory.used,
            memory_total=memory and memory.total,
            power=None if power is None else power / 1000,
            power_limit=None if limit is None else limit / 1000,
            temperature=ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        )

    def read() -> list[Gpu]:
        return [gpu(index, handle) for index, handle in enumerate(handles)]

    def processes() -> list[GpuProcess]:
        return [
            GpuProcess(process.pid, index, process.usedGpuMemory)
            for index, handle in enumerate(handles)
            for process in ask("nvmlDeviceGetComputeRunningProcesses", handle) or []
        ]

    def versions() -> dict[str, str]:
        cuda = ask("nvmlSystemGetCudaDriverVersion")  # 13010 is 13.1
        known = {
            "driver": ask("nvmlSystemGetDriverVersion"),
            "CUDA": cuda and f"{cuda // 1000}.{cuda % 1000 // 10}",
        }
        return {name: value for name, value in known.items() if value}

    return Source("NVML", "NVIDIA", read, read, processes, versions)


def amd_source(programs: list[str] | None = None) -> Source:
    """Find a working amd-smi.

    Raises:
        GpuToolError: no program gives JSON, with what each did.
    """
    complaints: list[str] = []
    for program in amd_programs() if programs is None else programs:
        try:
            ask_amd_smi(program, "static")
        except GpuToolError as error:
            complaints.append(str(error))
            continue
        return _amd_source_of(program, tuple(complaints))
    raise GpuToolError("; ".join(complaints) or "there is an AMD GPU, but no amd-smi (part of ROCm)")


def _amd_source_of(program: str, complaints: tuple[str, ...]) -> Source:
    def read() -> list[Gpu]:
        sampled = ("--usage", "--power", "--temperature", "--mem-usage")
        return amd_gpus(ask_amd_smi(program, "metric", *sampled))

    fast = amd_library_reader()
    return Source(
        name=f"{program}, sampled through its Python library" if fast else program,
        vendor="AMD",
        read=fast or read,
        describe=lambda: amd_named(read(), ask_amd_smi(program, "static")),
        processes=lambda: amd_processes(ask_amd_smi(program, "process")),
        versions=lambda: amd_versions(ask_amd_smi(program, "static"), ask_amd_smi(program, "version")),
        complaints=complaints,
    )


def amd_programs(opt: Path = Path("/opt")) -> list[str]:
    """Return the programs to try, ROCm's own before the one on PATH."""
    installed = [opt / "rocm/bin/amd-smi", *sorted(opt.glob("rocm-*/bin/amd-smi"), reverse=True)]
    found = [str(program) for program in installed if program.exists()]
    on_path = shutil.which("amd-smi")
    return list(dict.fromkeys([*found, *([on_path] if on_path else [])]))


def ask_amd_smi(program: str, *arguments: str) -> Any:
    """Return the JSON that `program ARGUMENTS --json` prints, without the warnings before it.

    Raises:
        GpuToolError: it cannot be run, takes longer than 30 s, or prints something that is not JSON.
    """
    command = [program, *arguments, "--json"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=AMD_SMI_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuToolError(f"{program}: {error}") from error
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    try:
        return json.loads(text[min(starts, default=0) :])
    except json.JSONDecodeError:
        printed = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
        raise GpuToolError(f"{program} printed no JSON but {printed[:80]!r}") from None


def amd_entries(answer: Any) -> list[dict[str, Any]]:
    """Return the GPUs of an answer in either shape."""
    if isinstance(answer, dict):
        answer = answer.get("gpu_data", [])
    return [entry for entry in answer if isinstance(entry, dict) and isinstance(entry.get("gpu"), int)]


def amd_number(entry: Any, *paths: str) -> float | None:
    """Return the first number at one of the dotted paths, sizes in bytes; None for "N/A" and for no entry."""
    for path in paths:
        value, unit = entry, ""
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            value, unit = value.get("value"), str(value.get("unit", "")).upper().replace("IB", "B")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value * AMD_SIZES[unit]) if unit in AMD_SIZES else value
    return None


def amd_gpus(metric: Any) -> list[Gpu]:
    """Return the GPUs of `amd-smi metric --json`."""
    return [
        Gpu(
            index=entry["gpu"],
            utilisation=amd_number(entry, "usage.gfx_activity"),
            memory_used=amd_number(entry, "mem_usage.used_vram"),
            memory_total=amd_number(entry, "mem_usage.total_vram"),
            power=amd_number(entry, "power.socket_power", "power.average_socket_power"),
            temperature=amd_number(entry, "temperature.hotspot", "temperature.edge"),
        )
        for entry in amd_entries(metric)
    ]


def amd_named(gpus: Iterable[Gpu], static: Any) -> list[Gpu]:
    """Return the same GPUs with name and power limit from `amd-smi static --json`."""
    by_index = {entry["gpu"]: entry for entry in amd_entries(static)}
    limits = ("limit.ppt0.socket_power_limit", "limit.socket_power", "limit.max_power")
    return [
        replace(
            gpu,
            name=(by_index.get(gpu.index, {}).get("asic") or {}).get("market_name"),
            power_limit=amd_number(by_index.get(gpu.index), *limits),
        )
        for gpu in gpus
    ]


def amd_processes(answer: Any) -> list[GpuProcess]:
    """Return the processes of `amd-smi process --json`; an idle GPU has text instead of a list."""
    found = []
    for entry in amd_entries(answer):
        for item in entry.get("process_list") or []:
            information = item.get("process_info") if isinstance(item, dict) else None
            if isinstance(information, dict) and isinstance(information.get("pid"), int):
                memory = amd_number(information, "memory_usage.vram_mem")
                found.append(GpuProcess(information["pid"], entry["gpu"], memory))
    return found


def amd_versions(static: Any, version: Any) -> dict[str, str]:
    """Return the versions of the kernel driver and of ROCm, from `static` and `version`."""
    drivers = [entry["driver"].get("version") for entry in amd_entries(static) if entry.get("driver")]
    version = version[0] if isinstance(version, list) and version else version
    rocm = version.get("rocm_version") if isinstance(version, dict) else None
    known = {"driver": next(iter(drivers), None), "ROCm": rocm}
    return {name: value for name, value in known.items() if isinstance(value, str) and value != "N/A"}


def amd_library_reader() -> Callable[[], list[Gpu]] | None:
    """Return a function that reads all GPUs through AMD's Python binding; None where it is not installed."""
    try:
        import amdsmi
    except (ImportError, OSError, KeyError, AttributeError):  # it loads libamd_smi.so when imported
        return None
    try:
        amdsmi.amdsmi_init()
        handles = amdsmi.amdsmi_get_processor_handles()
    except amdsmi.AmdSmiException:
        return None

    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(amdsmi, f"amdsmi_get_{function}")(*arguments)
        except amdsmi.AmdSmiException:
            return None

    def gpu(index: int, handle: Any) -> Gpu:
        memory, power = ask("gpu_vram_usage", handle), ask("power_info", handle)
        if memory is None and power is None:
            raise GpuToolError(f"amdsmi says nothing about GPU {index}")
        used, total = amd_number(memory, "vram_used"), amd_number(memory, "vram_total")
        sensor, now = amdsmi.AmdSmiTemperatureType.HOTSPOT, amdsmi.AmdSmiTemperatureMetric.CURRENT
        temperature = {"hotspot": ask("temp_metric", handle, sensor, now)}
        return Gpu(
            index=index,
            utilisation=amd_number(ask("gpu_activity", handle), "gfx_activity"),
            memory_used=None if used is None else int(used * 2**20),
            memory_total=None if total is None else int(total * 2**20),
            power=amd_number(power, "socket_power", "current_socket_power", "average_socket_power"),
            temperature=amd_number(temperature, "hotspot"),
        )

    return lambda: [gpu(index, handle) for index, handle in enumerate(handles)]
