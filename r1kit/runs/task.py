"""`python -m r1kit.runs.task --folder JOB -- CMD...`: one task of a step, on whichever node srun put it.

Gives CMD the one SIGTERM that a stop means (`step`: the file JOB/stop), a server's keeper the SIGUSR1 that
means to start anew (JOB/anew), and leaves nothing behind when CMD has ended: runaways are adopted and killed.
Slurm finds them by itself only where it tracks processes with cgroups.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import time
from pathlib import Path

from r1kit.runs import processes
from r1kit.runs.step import anew_requested, stop_requested
from r1kit.runs.tree import Tree

TICK = 0.5  # seconds between two looks for the file


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code (128 + n for a signal)."""
    parser = argparse.ArgumentParser(prog="python -m r1kit.runs.task", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="the job folder, on a shared disk")
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --")
    options = parser.parse_args(argv)
    token = secrets.token_hex(8)
    tree = Tree(token, processes.become_subreaper())
    child = os.fork()
    if child == 0:
        processes.end_with_parent()
        os.execvpe(options.command[0], options.command, os.environ | {processes.TOKEN: token})
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # Slurm's own reach the child as well
        signal.signal(number, signal.SIG_IGN)
    asked = False
    while child not in tree.exit_codes:
        if not asked and stop_requested(options.folder):
            asked = True
            os.kill(child, signal.SIGTERM)
        if anew_requested(options.folder):
            os.kill(child, signal.SIGUSR1)
        time.sleep(TICK)
        tree.reap()
    tree.end([], grace=2.0)
    code = tree.exit_codes[child]
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
