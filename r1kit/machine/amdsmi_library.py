"""AMD's own Python binding of amd-smi, part of ROCm and of vLLM's ROCm images: a sample without a process.

Not from PyPI: the `amdsmi` there is another project's copy. Names and units follow amdsmi 7.0; a value that a
card does not have comes as "N/A" or as an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r1kit.machine.gpus import Gpu, GpuToolError

MIB = 2**20


def reader() -> Callable[[], list[Gpu]] | None:
    """A function that reads all GPUs, or None where the binding or its library is not there."""
    try:
        import amdsmi
    except (ImportError, OSError, KeyError, AttributeError):  # it loads libamd_smi.so when imported
        return None
    try:
        amdsmi.amdsmi_init()
        handles = amdsmi.amdsmi_get_processor_handles()
    except amdsmi.AmdSmiException:
        return None
    return lambda: [_gpu(amdsmi, index, handle) for index, handle in enumerate(handles)]


def _gpu(amdsmi: Any, index: int, handle: Any) -> Gpu:
    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(amdsmi, function)(handle, *arguments)
        except amdsmi.AmdSmiException:
            return None

    def number(answer: Any, *keys: str) -> float | None:
        values = [answer.get(key) for key in keys] if isinstance(answer, dict) else []
        return next((value for value in values if isinstance(value, (int, float))), None)

    memory, power = ask("amdsmi_get_gpu_vram_usage"), ask("amdsmi_get_power_info")
    if memory is None and power is None:
        raise GpuToolError(f"amdsmi says nothing about GPU {index}")
    used, total = number(memory, "vram_used"), number(memory, "vram_total")
    sensors, now = amdsmi.AmdSmiTemperatureType, amdsmi.AmdSmiTemperatureMetric.CURRENT
    temperature = ask("amdsmi_get_temp_metric", sensors.HOTSPOT, now)
    return Gpu(
        index=index,
        utilisation=number(ask("amdsmi_get_gpu_activity"), "gfx_activity"),
        memory_used=None if used is None else int(used * MIB),
        memory_total=None if total is None else int(total * MIB),
        power=number(power, "socket_power", "current_socket_power", "average_socket_power"),
        temperature=temperature if isinstance(temperature, (int, float)) else None,
    )
