"""`system.jsonl`: what the machine did while a job ran, sampled by the job's supervisor.

One row every five seconds, and never so often that it costs more than half a percent of one core: a source
that needs a process a sample (amd-smi without its library) is asked less often. The sampler is a thread,
because a driver may hang; then the rows end, and nothing else. On two cores without a GPU a sample took
0.9 ms, 0.02% of a core; the whole supervisor, which looks at its tree every second, 0.3% (2026-11-24).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r1kit.machine.monitor import Monitor
from r1kit.runs import metrics

SECONDS = 5.0
SHARE = 0.005  # of one core


def pause(cost: float, seconds: float = SECONDS) -> float:
    """Seconds to the next sample, after one that took `cost` seconds."""
    return max(seconds, cost / SHARE)


def start(folder: Path, extra: Callable[[], dict[str, Any]] = dict, seconds: float = SECONDS) -> Callable:
    """Sample into `folder`/system.jsonl until the returned function is called; it writes the last row.

    `extra` adds what the supervisor knows of its job. Rows hold `time` (unix seconds) and `cost` (the seconds
    this sample took).
    """
    ended = threading.Event()
    path = folder / "system.jsonl"

    def sample(monitor: Monitor) -> float:
        began = time.perf_counter()
        row = {"time": round(time.time(), 3), **extra(), **monitor.read()}
        cost = time.perf_counter() - began
        with contextlib.suppress(OSError):  # a full disk must not end the training
            metrics.append(path, row | {"cost": round(cost, 5)})
        return cost

    def work() -> None:
        monitor = Monitor()
        while True:
            cost = sample(monitor)
            if ended.wait(pause(cost, seconds)):
                break
        if cost < 0.1:  # the last row must not keep anybody waiting
            sample(monitor)

    thread = threading.Thread(target=work, name="system.jsonl", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join(1.0)

    return stop
