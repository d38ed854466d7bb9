"""The cost of isolation: runs per second of a tiny program in bare Python and in each tier.

All are measured in one invocation, because a ratio holds on a busy machine and a single number does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from r1kit.sandbox import Sandbox, Verdict, tiers
from r1kit.sandbox.runner import default_workers

PROGRAM = "import sys; print(sum(map(int, sys.stdin.read().split())))"
STDIN, EXPECTED = b"1 2 39\n", b"42\n"
SECONDS = 3.0  # for each way
TARGETS = {"bubblewrap": 50, "bubblewrap, fork server": 250}  # runs per second on two cores


def bench(seconds: float = SECONDS, workers: int | None = None) -> list[dict]:
    """Return one row per way of running the program that works here, bare Python first.

    Keys: way, runs_per_second (all workers together), milliseconds (median of one run while the others run),
    overhead_milliseconds and ratio (of runs per second) against bare Python.
    """
    workers = workers or min(default_workers(), len(os.sched_getaffinity(0)))
    rows = []
    best = next((tier for tier in tiers.probe() if tier.available), None)
    python = best.interpreter if best else sys.executable
    rows.append({"way": f"bare {python}", **_measure(lambda: _bare(python), seconds, workers)})
    for fork_server in (False, True):
        for tier in tiers.probe(fork_server=fork_server):
            if tier.available:
                with Sandbox(workers, tier=tier.name, fork_server=fork_server) as sandbox:
                    way = tier.name + ", fork server" * fork_server
                    rows.append({"way": way, **_measure(lambda box=sandbox: _boxed(box), seconds, workers)})
    for row in rows:
        row["overhead_milliseconds"] = row["milliseconds"] - rows[0]["milliseconds"]
        row["ratio"] = row["runs_per_second"] / rows[0]["runs_per_second"]
    return rows


def table(rows: list[dict]) -> str:
    """Format the rows as text, with the targets for two cores."""
    lines = [f"{'':32} {'runs/s':>8} {'median ms':>10} {'over bare':>10} {'ratio':>6}  target (2 cores)"]
    for row in rows:
        target = f"{TARGETS[row['way']]} runs/s" if row["way"] in TARGETS else ""
        lines.append(
            f"{row['way']:32} {row['runs_per_second']:8.0f} {row['milliseconds']:10.1f} "
            f"{row['overhead_milliseconds']:+10.1f} {row['ratio']:6.2f}  {target}".rstrip()
        )
    return "\n".join(lines)


def _measure(run: Callable[[], None], seconds: float, workers: int) -> dict[str, float]:
    def repeat(_: int) -> list[float]:
        times = []
        while (began := time.perf_counter()) < deadline:
            run()
            times.append(time.perf_counter() - began)
        return times

    with ThreadPoolExecutor(workers) as pool:
        deadline = time.perf_counter() + 60
        list(pool.map(lambda _: run(), range(workers)))  # starts the brokers
        began = time.perf_counter()
        deadline = began + seconds
        times = [t for part in pool.map(repeat, range(workers)) for t in part]
        elapsed = time.perf_counter() - began
    return {"runs_per_second": len(times) / elapsed, "milliseconds": 1000 * median(times)}


def _bare(python: str) -> None:
    done = subprocess.run([python, "-I", "-B", "-c", PROGRAM], input=STDIN, capture_output=True, check=True)
    _check(done.stdout)


def _boxed(sandbox: Sandbox) -> None:
    execution = sandbox.run(PROGRAM, STDIN)
    if execution.verdict is not Verdict.OK:
        raise RuntimeError(f"{sandbox.tier.name}: {execution.verdict}: {execution.detail}")
    _check(execution.stdout)


def _check(output: bytes) -> None:
    if output != EXPECTED:
        raise RuntimeError(f"expected {EXPECTED!r}, found {output!r}")
