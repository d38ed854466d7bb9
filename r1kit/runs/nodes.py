"""Runs over several nodes of a Slurm job: which train, which serve, how programs start and stop there.

A profile sets `num_machines` in accelerate.yaml. `srun` then starts its trainings, one task per process, and
`r1kit.runs.rank` tells each task its rank. No agent of torch or accelerate stands between: theirs kill a
trainer 30 s after a signal, and a checkpoint of 7.6 billion parameters takes longer. Run folder, package and
Python are on a disk that all nodes share.

Two programs of this module do the work, because srun answers SIGTERM by killing its tasks at once and Slurm's
own signals go to every process of a step, helpers included:

    python -m r1kit.runs.nodes step --folder JOB --grace S -- srun ...   here, under the supervisor
    python -m r1kit.runs.nodes task --folder JOB -- CMD ...              on each node, started by srun

A request to stop is a file, JOB/stop. Each task looks for it and signals its program alone; the ranks agree
on a training step, and save. Shortly before the grace is over the step tells srun to kill.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.runs import processes
from r1kit.settings.errors import UserError

LAST_SECONDS = 3.0  # of the grace, for srun to kill the tasks on all nodes
TICK_SECONDS = 0.5  # between two looks of a task for a request
STOP = "stop"  # a file in the job folder
SERVER_NODES = "R1KIT_SERVER_NODES"
"""Set by the batch script: how many of the job's nodes are for servers, counted from the end."""


class NoNodes(UserError):
    """A profile asks for more nodes than there are."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of this job by what they do; the batch script runs on the first trainer."""

    trainers: tuple[str, ...]
    servers: tuple[str, ...] = ()


def allocated(environment: Mapping[str, str] = os.environ) -> Nodes | None:
    """The nodes of the Slurm job that this process is part of; None outside of one."""
    if "SLURM_JOB_NODELIST" not in environment:
        return None
    names = _scontrol("show", "hostnames", environment["SLURM_JOB_NODELIST"]).split()
    servers = int(environment.get(SERVER_NODES, "0"))
    return Nodes(tuple(names[: len(names) - servers]), tuple(names[len(names) - servers :]))


def address(node: str) -> str:
    """Where others reach a node: its name where that resolves, else the address that Slurm knows."""
    try:
        socket.getaddrinfo(node, None)
    except OSError:
        found = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", node, "-o"))
        return found[1] if found else node
    return node


def machines(accelerate: Mapping[str, Any]) -> int:
    """Nodes that a profile's accelerate.yaml trains on."""
    return int(accelerate.get("num_machines") or 1)


def training_step(
    module: str, folder: Path, accelerate: Mapping[str, Any], grace: float
) -> tuple[list[str], dict[str, str]]:
    """Command and variables that run `module` on folder/resolved.yaml on every trainer node.

    Raises:
        NoNodes: this is no Slurm job, it has too few nodes, or the processes do not divide among them.
    """
    wanted, processes = machines(accelerate), int(accelerate.get("num_processes") or 1)
    nodes = allocated()
    if nodes is None:
        raise NoNodes(
            f"accelerate.yaml says num_machines: {wanted}, but this is no Slurm job: r1kit run --on slurm"
        )
    if len(nodes.trainers) < wanted:
        have = f"{len(nodes.trainers)} of its nodes train"
        raise NoNodes(f"accelerate.yaml says num_machines: {wanted}, but in this job {have}")
    if processes % wanted:
        raise NoNodes(f"num_processes {processes} of accelerate.yaml does not divide among {wanted} machines")
    trainers = nodes.trainers[:wanted]
    rank = [sys.executable, "-m", "r1kit.runs.rank", module, str(folder / "resolved.yaml")]
    rendezvous = {"MASTER_ADDR": address(trainers[0]), "MASTER_PORT": str(_free_port())}
    return step(rank, folder, grace, trainers, processes // wanted), rendezvous


def serving_step(command: list[str], folder: Path, grace: float) -> list[str]:
    """The same command on the job's first server node; as it is where no node is a server's.

    A server on a node of its own must listen on more than loopback, and get weights through a shared folder.
    """
    nodes = allocated()
    return step(command, folder, grace, nodes.servers[:1]) if nodes and nodes.servers else command


def step(
    command: list[str], folder: Path, grace: float, on: tuple[str, ...], tasks_per_node: int = 1
) -> list[str]:
    """Return the command that runs `command` as tasks on some nodes, and can be stopped (see above)."""
    here = [
        sys.executable,
        "-m",
        "r1kit.runs.nodes",
        "step",
        "--folder",
        str(folder),
        "--grace",
        str(grace),
        "--",
    ]
    there = [sys.executable, "-m", "r1kit.runs.nodes", "task", "--folder", str(folder), "--"]
    return [*here, *step_on(on, tasks_per_node), *there, *command]


def step_on(nodes: tuple[str, ...], tasks_per_node: int = 1) -> list[str]:
    """`srun` and its options for a step on some of the job's nodes, beside whatever else runs there."""
    cores = int(re.match(r"\d+", os.environ.get("SLURM_CPUS_ON_NODE", "1"))[0])
    return [
        "srun",
        f"--nodes={len(nodes)}",
        f"--nodelist={','.join(nodes)}",
        f"--ntasks={len(nodes) * tasks_per_node}",
        f"--ntasks-per-node={tasks_per_node}",
        f"--cpus-per-task={max(1, cores // tasks_per_node)}",
        "--overlap",
        "--mpi=none",
        "--kill-on-bad-exit=1",
    ]


def _free_port() -> int:
    """A port for the ranks to meet at; this process is on the first trainer node, where rank 0 will be."""
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


def _scontrol(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout


def stop_requested(folder: Path) -> bool:
    """Whether somebody wants the step in this job folder to end."""
    return (folder / STOP).exists()


def main(argv: list[str] | None = None) -> int:
    """Run the program `step` or `task` and return the exit code of its command (128 + n for a signal)."""
    parser = argparse.ArgumentParser(prog="python -m r1kit.runs.nodes", description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=("step", "task"))
    parser.add_argument("--folder", type=Path, required=True, help="the job folder, on a shared disk")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds from the request to the kill")
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --")
    options = parser.parse_args(argv)
    if options.program == "step":
        return run_step(options.command, options.folder, options.grace)
    return run_task(options.command, options.folder)


def run_step(command: list[str], folder: Path, grace: float) -> int:
    """Run srun until it ends or is stopped; return its exit code, or 143 if it was stopped."""
    asked: list[float] = []

    def ask(number: int, _frame: Any) -> None:
        asked.append(time.monotonic())
        (folder / STOP).touch()

    (folder / STOP).unlink(missing_ok=True)  # of an earlier start of this job
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    srun = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while True:
        try:
            code = srun.wait(0.2)
            break
        except subprocess.TimeoutExpired:
            if asked and time.monotonic() - asked[0] > grace - LAST_SECONDS:
                srun.terminate()
                code = srun.wait()
                break
    (folder / STOP).unlink(missing_ok=True)
    if asked and code:
        return 128 + signal.SIGTERM
    return code if code >= 0 else 128 - code


def run_task(command: list[str], folder: Path) -> int:
    """Run the command, pass requests on to it, and kill what it leaves behind; return its exit code."""
    token = secrets.token_hex(8)
    tree = processes.Tree(token, processes.become_subreaper())
    child = os.fork()
    if child == 0:
        processes.end_with_parent()
        os.execvpe(command[0], command, os.environ | {processes.TOKEN: token})
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # Slurm's own reach the child as well
        signal.signal(number, signal.SIG_IGN)
    asked = False
    while child not in tree.exit_codes:
        if not asked and stop_requested(folder):
            asked = True
            os.kill(child, signal.SIGTERM)
        time.sleep(TICK_SECONDS)
        tree.reap()
    tree.end([], grace=2.0)
    code = tree.exit_codes[child]
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
