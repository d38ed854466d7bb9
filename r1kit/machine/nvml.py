"""NVIDIA GPUs through NVML (package nvidia-ml-py): milliwatts and bytes in, watts and bytes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r1kit.machine.gpus import Gpu, GpuProcess, GpuToolError, Source


def source() -> Source:
    """NVML, initialised.

    Raises:
        GpuToolError: the package or the driver's library is missing, or no GPU answers.
    """
    try:
        import pynvml
    except ImportError:
        raise GpuToolError("there is an NVIDIA GPU, but no NVML: pip install nvidia-ml-py") from None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise GpuToolError(f"NVML: {error}; is the driver loaded?") from error

    def read() -> list[Gpu]:
        return [_gpu(pynvml, index, handle) for index, handle in enumerate(handles)]

    def processes() -> list[GpuProcess]:
        return [
            GpuProcess(process.pid, index, process.usedGpuMemory)
            for index, handle in enumerate(handles)
            for process in _maybe(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        ]

    def versions() -> dict[str, str]:
        driver = _maybe(pynvml, pynvml.nvmlSystemGetDriverVersion)
        cuda = _maybe(pynvml, pynvml.nvmlSystemGetCudaDriverVersion)  # 13010 is 13.1
        known = {"driver": _text(driver), "CUDA": cuda and f"{cuda // 1000}.{cuda % 1000 // 10}"}
        return {name: value for name, value in known.items() if value}

    return Source("NVML", "NVIDIA", read, read, processes, versions)


def _gpu(pynvml: Any, index: int, handle: Any) -> Gpu:
    def ask(function: Callable[..., Any], *arguments: Any) -> Any:
        return _maybe(pynvml, function, handle, *arguments)

    memory = ask(pynvml.nvmlDeviceGetMemoryInfo)
    rates = ask(pynvml.nvmlDeviceGetUtilizationRates)
    power, limit = ask(pynvml.nvmlDeviceGetPowerUsage), ask(pynvml.nvmlDeviceGetPowerManagementLimit)
    if memory is None and rates is None and power is None:
        raise GpuToolError(f"NVML says nothing about GPU {index}: lost?")
    return Gpu(
        index=index,
        name=_text(ask(pynvml.nvmlDeviceGetName)),
        utilisation=rates and rates.gpu,
        memory_used=memory and memory.used,
        memory_total=memory and memory.total,
        power=None if power is None else power / 1000,
        power_limit=None if limit is None else limit / 1000,
        temperature=ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
    )


def _maybe(pynvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function says, None where this card or driver does not know."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value  # older bindings return bytes
