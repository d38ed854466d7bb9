"""This machine: devices, resources, speed, readiness. torch is imported only if a GPU may be present."""

from r1kit.machine.devices import detect_device
from r1kit.machine.resources import cores, disk_free, memory, threads

__all__ = ["cores", "detect_device", "disk_free", "memory", "threads"]
