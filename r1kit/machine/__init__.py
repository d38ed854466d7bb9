"""What this machine is and whether it can do the work. torch is imported only if a GPU could be there."""

from r1kit.machine.devices import detect_device
from r1kit.machine.resources import cores, disk_free, memory, threads

__all__ = ["cores", "detect_device", "disk_free", "memory", "threads"]
