"""What can come out of running a model-written program, and the limits it runs under.

Plain data, shared by the sandbox, by the judge that compares outputs outside of it, and by the code reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

KIB, MIB, GIB = 1024, 1024**2, 1024**3
LEAST_MEMORY = 64 * MIB  # Python takes 20 MB of address space before it runs a line


class Verdict(StrEnum):
    """How a run ended. The sandbox says all of these but `wrong`, which takes a comparison."""

    OK = "ok"  # exit code 0
    WRONG = "wrong"  # exit code 0 and another output than expected; said by the judge only
    TIMEOUT = "timeout"  # the wall clock ran out
    CPU = "cpu"  # the processor time ran out
    MEMORY = "memory"  # an uncaught MemoryError, or killed for lack of memory
    OUTPUT = "output"  # more output than allowed
    SIGNAL = "signal"  # ended by a signal: a crash, an abort
    ERROR = "error"  # exit code other than 0: an uncaught exception, a compiler's complaint
    REFUSED = "refused"  # not run: no program that could be run (a NUL, too large)
    INFRA = "infra"  # trouble of ours: says nothing about the program, and must never become a 0


@dataclass(frozen=True)
class Limits:
    """What one run may use. The wall clock counts from the start of the program, not from the queue."""

    cpu_seconds: int = 4
    wall_seconds: float = 8.0
    memory_bytes: int = 768 * MIB  # address space of the process, interpreter included
    processes: int = 64  # threads for a program; processes and threads for a compiler
    file_bytes: int = 8 * MIB  # the largest file it may write
    scratch_bytes: int = 16 * MIB  # all that it may write, where the tier has a scratch disk of its own
    scratch_files: int = 4096  # files there, with an eye kept on it: their names are the kernel's memory
    open_files: int = 64
    output_bytes: int = 64 * KIB
    error_bytes: int = 16 * KIB
    source_bytes: int = 1 * MIB  # a longer program is refused

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"limits: {name} must be greater than 0, found {value!r}")
        if self.memory_bytes < LEAST_MEMORY:
            raise ValueError(
                f"limits: memory_bytes must be at least {LEAST_MEMORY}, found {self.memory_bytes}"
            )


@dataclass(frozen=True)
class Execution:
    """One run. stdout and stderr are what the program wrote, cut at their limits; seconds is wall time."""

    verdict: Verdict
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None  # None if it did not exit by itself
    signal: int | None = None
    seconds: float = 0.0
    detail: str = ""  # one line for a reader: why this verdict
