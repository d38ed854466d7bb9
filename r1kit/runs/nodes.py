"""Several nodes: which of a Slurm job's nodes train and which serve, and how a training starts on them.

A profile says `num_machines` in accelerate.yaml. Its trainings are then started by `srun`, one task a
process, each told its rank by `r1kit.training.rank`. No agent of torch or accelerate stands between, because
theirs kill a trainer 30 s after a signal, and a checkpoint of 7.6 billion parameters takes longer.

Everything is on a disk that all nodes share: the run folder, the package, the Python.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER_NODES = "R1KIT_SERVER_NODES"
"""Set by the batch script: how many of the job's nodes are for servers, counted from the end."""


class NoNodes(ValueError):
    """A profile asks for more nodes than there are."""

    exit_code = 2


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
    rank = [sys.executable, "-m", "r1kit.training.rank", module, str(folder / "resolved.yaml")]
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
    """`command` as tasks on some nodes: what the supervisor starts here, srun, and what srun starts there."""
    here = [sys.executable, "-m", "r1kit.runs.step", "--folder", str(folder), "--grace", str(grace), "--"]
    there = [sys.executable, "-m", "r1kit.runs.task", "--folder", str(folder), "--"]
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
