"""A server on a Slurm node of its own: what it needs that one beside the trainer does not.

`launch(serving=True)` starts the keeper there with srun. Everything it says reaches us through the server's
folder, which all nodes see; what we want of it goes the same way, because no signal crosses nodes.
"""

from __future__ import annotations

from r1kit.runs import nodes
from r1kit.serving.server import is_loopback
from r1kit.settings import Problem, SettingsError
from r1kit.settings.machine import MachineSettings


def node_for_servers() -> str:
    """The node of this Slurm job on which a server will run; "" where it runs beside the trainer."""
    found = nodes.allocated()
    return found.servers[0] if found and found.servers else ""


def check_reachable(machine: MachineSettings) -> None:
    """Refuse a server that the trainers' nodes could not reach, before anything starts.

    Neither is changed silently: who listens to other machines lets them replace the weights, and which disk
    all nodes share is the site's to know.

    Raises:
        SettingsError: it would listen to its own node only, or take weights from its own node's memory.
    """
    problems = []
    if is_loopback(machine.server.host):
        message = (
            "The server has a node of its own (server_nodes of the site file), and the trainers' nodes could "
            "not reach it. Whoever reaches that address can replace the weights: a private network only."
        )
        problems.append(
            Problem("machine.yaml", "server.host", machine.server.host, "0.0.0.0", message=message)
        )
    sync = machine.weight_sync
    if sync.transport == "file" and sync.folder is None:
        message = (
            "The server has a node of its own, and weights in the memory of the trainer's node (/dev/shm) do "
            "not reach it."
        )
        allowed = "a folder on a disk that all nodes share"
        problems.append(Problem("machine.yaml", "weight_sync.folder", "null", allowed, message=message))
    if problems:
        raise SettingsError(problems)
