"""`python -m r1kit.runs.step --folder JOB --grace S -- srun ...`: a step of a Slurm job that can be stopped.

srun answers SIGTERM by killing its tasks at once, and Slurm's own signals go to every process of a step,
helpers included. So a stop is a file, JOB/stop, on the disk that all nodes share: each task looks for it
(`task`) and signals its program alone; the ranks agree on a step, and save. Shortly before the grace is over
srun is told to kill.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LAST_SECONDS = 3.0  # of the grace, for srun to kill the tasks on all nodes
STOP, ANEW = "stop", "anew"


def stop_requested(folder: Path) -> bool:
    """Whether somebody wants the step in this job folder to end."""
    return (folder / STOP).exists()


def ask_anew(folder: Path) -> None:
    """Send the program of the step in this job folder SIGUSR1, on whichever node it runs."""
    (folder / ANEW).touch()


def anew_requested(folder: Path) -> bool:
    """Whether somebody asked for that since the last call."""
    try:
        (folder / ANEW).unlink()
    except FileNotFoundError:
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit code, or 143 where it was stopped and srun knows no better."""
    parser = argparse.ArgumentParser(prog="python -m r1kit.runs.step", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="the job folder, on a shared disk")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds from the request to the kill")
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --")
    options = parser.parse_args(argv)
    asked: list[float] = []

    def ask(number: int, _frame: Any) -> None:
        asked.append(time.monotonic())
        (options.folder / STOP).touch()

    for request in (STOP, ANEW):  # of an earlier start of this job
        (options.folder / request).unlink(missing_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    step = subprocess.Popen(options.command, stdin=subprocess.DEVNULL)
    while True:
        try:
            code = step.wait(0.2)
            break
        except subprocess.TimeoutExpired:
            if asked and time.monotonic() - asked[0] > options.grace - LAST_SECONDS:
                step.terminate()
                code = step.wait()
                break
    (options.folder / STOP).unlink(missing_ok=True)
    if asked and code:
        return 128 + signal.SIGTERM
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
