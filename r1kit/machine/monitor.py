"""One reading of the machine: processor, memory, temperature through psutil, GPUs through their source."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from r1kit.machine import gpus, resources
from r1kit.machine.devices import DEV

SAMPLED = ("index", "utilisation", "memory_used", "memory_total", "power", "temperature")
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class Monitor:
    """A repeated reading of this machine; it finds its source of GPUs once.

    A GPU tool that fails three times in a row is not asked again: the readings then hold the reason.
    """

    def __init__(self, dev: Path = DEV) -> None:
        self.source, self.reason = gpus.find(dev)
        self._failures = 0
        self._before = False

    def read(self) -> dict[str, Any]:
        """Return one row of system.jsonl.

        Bytes, percent (`cpu` of all cores together), watts, degrees Celsius; unknown values are left out.
        Memory is what this process could have: a container's limit counts.
        """
        now, cpu = resources.memory(), psutil.cpu_percent(None)
        row: dict[str, Any] = {
            "memory_used": now.total - now.available,
            "memory_total": now.total,
        }
        if self._before:  # psutil counts from the reading before
            row["cpu"] = cpu
        self._before = True
        temperature = cpu_temperature()
        if temperature is not None:
            row["cpu_temperature"] = temperature
        if self.source is not None:
            row |= self._gpus()
        return row

    def _gpus(self) -> dict[str, Any]:
        try:
            found = self.source.read()
        except gpus.GpuToolError as error:
            self._failures += 1
            if self._failures == 3:
                self.source = None
            return {"gpu_error": str(error)}
        self._failures = 0
        return {
            "gpus": [
                {key: value for key, value in asdict(gpu).items() if key in SAMPLED and value is not None}
                for gpu in found
            ]
        }


def cpu_temperature() -> float | None:
    """Return the processor's hottest sensor; None where the system shows none (most virtual machines)."""
    with contextlib.suppress(AttributeError, OSError, RuntimeError):  # only on Linux and FreeBSD
        sensors = psutil.sensors_temperatures()
        readings = [entry.current for name in CPU_SENSORS for entry in sensors.get(name, [])]
        return max(readings, default=None)
    return None
