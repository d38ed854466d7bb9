"""Runs over several nodes of a Slurm job: which nodes train, which serve, how programs start and stop there.

A profile sets `num_machines` in accelerate.yaml. `srun` then starts the training, one task per process.
torch's and accelerate's agents are not used: they kill a trainer 30 s after a signal, and writing a
checkpoint of 7.6 billion parameters takes longer; nor can `accelerate launch` start CPU processes on several
machines (accelerate 1.15 needs mpirun there). Run folder, package and Python are on a disk that all nodes
share.

Three programs of this module do the work, because srun answers SIGTERM by killing its tasks at once and
Slurm's own signals go to every process of a step, helpers included:

    python -m r1kit.runs.nodes step --folder JOB --grace S -- srun ...   here, under the supervisor
    python -m r1kit.runs.nodes task --folder JOB -- CMD ...              on each node, started by srun
    python -m r1kit.runs.nodes rank --folder JOB -- MODULE ARGUMENT      CMD of a training, one per rank

A request to stop is a file, JOB/stop. Each task looks for it and signals only its own program; the ranks
agree on a training step, and save. Shortly before the grace period ends the step tells srun to kill.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
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

from r1kit.runs.outcome import ExitCode
from r1kit.runs.processes import TOKEN, Tree, become_subreaper, end_with_parent
from r1kit.settings.errors import UserError

KILL_SECONDS = 3.0  # at the end of the grace period, for srun to kill the tasks on all nodes
POLL_SECONDS = 0.5  # between two checks of a task for a stop request
STOP = "stop"  # a file in the job folder
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SERVER_NODES = "R1KIT_SERVER_NODES"
"""Set by the batch script: how many of the job's nodes are for servers, counted from the end."""

VARIABLES_FROM_SLURM = {  # variables of torch's launcher: Slurm's
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_NTASKS",
    "GROUP_RANK": "SLURM_NODEID",
}
# accelerate sets these for one machine; Slurm and `training_step` know them for all.
NOT_FROM_ACCELERATE = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


class NoNodes(UserError):
    """A profile asks for more nodes than there are."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of this job by their task; the batch script runs on the first trainer."""

    trainers: tuple[str, ...]
    servers: tuple[str, ...] = ()


def allocated(environment: Mapping[str, str] = os.environ) -> Nodes | None:
    """Return the nodes of the Slurm job that this process is part of; None outside of one."""
    if "SLURM_JOB_NODELIST" not in environment:
        return None
    names = _scontrol("show", "hostnames", environment["SLURM_JOB_NODELIST"]).split()
    servers = int(environment.get(SERVER_NODES, "0"))
    return Nodes(tuple(names[: len(names) - servers]), tuple(names[len(names) - servers :]))


def address(node: str) -> str:
    """Return a node's address for other nodes: its name if it resolves, else the address that Slurm knows."""
    try:
        socket.getaddrinfo(node, None)
    except OSError:
        match = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", node, "-o"))
        return match[1] if match else node
    return node


def machines(accelerate: Mapping[str, Any]) -> int:
    """Return the number of nodes that a profile's accelerate.yaml trains on."""
    return int(accelerate.get("num_machines") or 1)


# Commands


def training_step(
    module: str, folder: Path, accelerate: Mapping[str, Any], grace: float
) -> tuple[list[str], dict[str, str]]:
    """Return command and variables that run `module` on folder/resolved.yaml on every trainer node.

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
    with socket.socket() as probe:  # this process is on the first trainer node, where rank 0 will be
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    rank = [*_program("rank", folder), "--", module, str(folder / "resolved.yaml")]
    rendezvous = {"MASTER_ADDR": address(trainers[0]), "MASTER_PORT": str(port)}
    return step(rank, folder, grace, trainers, processes // wanted), rendezvous


def serving_step(command: list[str], folder: Path, grace: float) -> list[str]:
    """Return the command that runs `command` on the job's first server node; unchanged if it has none.

    A server on its own node must listen on more than loopback, and get weights through a shared folder.
    """
    nodes = allocated()
    return step(command, folder, grace, nodes.servers[:1]) if nodes and nodes.servers else command


def step(
    command: list[str], folder: Path, grace: float, on: tuple[str, ...], tasks_per_node: int = 1
) -> list[str]:
    """Return the command that runs `command` as tasks on some nodes, and can be stopped (see above)."""
    here = [*_program("step", folder), "--grace", str(grace), "--"]
    there = [*_program("task", folder), "--"]
    return [*here, *srun_command(on, tasks_per_node), *there, *command]


def srun_command(nodes: tuple[str, ...], tasks_per_node: int = 1) -> list[str]:
    """Return `srun` and its options for a step on some of the job's nodes, beside other steps there."""
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


def _program(name: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "r1kit.runs.nodes", name, "--folder", str(folder)]


def _scontrol(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout


# Programs


def run_step(command: list[str], folder: Path, grace: float) -> int:
    """Run srun until it ends or is stopped; return its exit code, or TERMINATED if it was stopped."""
    requests: list[float] = []

    def request_stop(number: int, _frame: Any) -> None:
        requests.append(time.monotonic())
        (folder / STOP).touch()

    (folder / STOP).unlink(missing_ok=True)  # of an earlier start of this job
    for number in SIGNALS:
        signal.signal(number, request_stop)
    srun = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while True:
        try:
            code = srun.wait(0.2)
            break
        except subprocess.TimeoutExpired:
            if requests and time.monotonic() - requests[0] > grace - KILL_SECONDS:
                srun.terminate()
                code = srun.wait()
                break
    (folder / STOP).unlink(missing_ok=True)
    if requests and code:
        return ExitCode.TERMINATED
    return code if code >= 0 else 128 - code


def run_task(command: list[str], folder: Path) -> int:
    """Run the command, pass a stop request on to it, kill what it leaves behind; return its exit code."""
    token = secrets.token_hex(8)
    tree = Tree(token, become_subreaper())
    child = os.fork()
    if child == 0:
        end_with_parent()
        os.execvpe(command[0], command, os.environ | {TOKEN: token})
    for number in SIGNALS:  # Slurm's own signals reach the child as well
        signal.signal(number, signal.SIG_IGN)
    stopped = False
    while child not in tree.exit_codes:
        if not stopped and (folder / STOP).exists():
            stopped = True
            os.kill(child, signal.SIGTERM)
        time.sleep(POLL_SECONDS)
        tree.reap()
    tree.end([], grace=2.0)
    code = tree.exit_codes[child]
    return code if code >= 0 else 128 - code


def run_rank(command: list[str], folder: Path) -> None:
    """Take rank and settings from Slurm and accelerate.yaml, and run the module in `command` as `__main__`.

    Its exit code is this process's.
    """
    os.environ.update({name: os.environ[source] for name, source in VARIABLES_FROM_SLURM.items()})
    os.environ["LOCAL_WORLD_SIZE"] = str(int(os.environ["SLURM_NTASKS"]) // int(os.environ["SLURM_NNODES"]))
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    os.environ.update(accelerate_environment(folder / "accelerate.yaml"))
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def accelerate_environment(config: Path) -> dict[str, str]:
    """Return the variables by which `accelerate launch` hands accelerate.yaml to its processes.

    They come from accelerate's own functions, called for one machine: rank and address come from Slurm.
    """
    from accelerate.commands import launch
    from accelerate.utils import launch as prepare

    options = ["--config_file", str(config), "--num_machines", "1", "--main_process_port", "0", "none.py"]
    args = launch.launch_command_parser().parse_args(options)
    args, defaults, precision_from_file = launch._validate_launch_command(args)
    if args.use_deepspeed:
        fields = [*defaults.deepspeed_config, *(["mixed_precision"] if precision_from_file else [])]
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        _, variables = prepare.prepare_deepspeed_cmd_env(args)
    elif args.multi_gpu or args.use_fsdp:
        variables = prepare.prepare_multi_gpu_env(args)
    else:
        _, variables = prepare.prepare_simple_launcher_cmd_env(args)
    return {
        name: value
        for name, value in variables.items()
        if os.environ.get(name) != value and name not in NOT_FROM_ACCELERATE
    }


def main(argv: list[str] | None = None) -> int:
    """Run one of the programs and return the exit code of its command (128 + n for a signal)."""
    parser = argparse.ArgumentParser(prog="python -m r1kit.runs.nodes", description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=("step", "task", "rank"))
    parser.add_argument("--folder", type=Path, required=True, help="the job folder, on a shared disk")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds from the request to the kill")
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --")
    options = parser.parse_args(argv)
    if options.program == "step":
        return run_step(options.command, options.folder, options.grace)
    if options.program == "task":
        return run_task(options.command, options.folder)
    run_rank(options.command, options.folder)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
