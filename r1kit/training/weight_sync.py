"""New weights for the server after every optimizer step, by file or by NCCL, and the proof that they arrived.

TRL sends and hopes: nothing tells whether the server samples from what was sent, and a group that cannot be
built hangs without a word (seed: "GRPO + vLLM hanging"; rocm-systems#10609: 2 successes in 62 tries under
different device masks). `file` needs no group at all: safetensors in shared memory, loaded by the server's
own workers. With both transports every sync has a version, and the server's is asked back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from r1kit.runs.weight_versions import Version, drop_old, new_token, release
from r1kit.serving.session import ServerGone, ServerTrouble
from r1kit.training.server_client import Replicas, ServerClient
from r1kit.training.weight_change import ChangeNorm
from r1kit.training.weight_file import Metadata, size_of, write_version

PROBE = 1024  # numbers in the tensor of the preflight


class Transport:
    """Moves the weights to all replicas and compares versions; `send` and `probe` differ."""

    def __init__(self, servers: Replicas):
        self.servers = servers
        self.version: Version | None = None
        self.change: ChangeNorm | None = None
        self.sent = -1  # the step sent last, arrived or not

    def sync(
        self, step: int, metadata: Metadata, tensors: Iterable[tuple[str, torch.Tensor]]
    ) -> dict[str, float]:
        """Bring the weights after `step` to every server; the metrics of this sync.

        Returns:
            `sync/bytes`, `sync/seconds`, `weights/version` (the step), `weights/server_version` and, from the
            second time on, `weights/change_norm`.

        Raises:
            ServerTrouble: a server did not take them; NoRoom: the sync folder is full.
        """
        start = time.perf_counter()
        self.change = self.change or ChangeNorm(metadata)
        self.version = None  # until all servers have it
        version = self.send(step, metadata, self.change.watch(tensors, again=step == self.sent))
        self.sent = step
        for answer in self.servers.each(lambda client: client.reset_prefix_cache_checked()):
            if not answer:
                raise ServerTrouble("the server kept answers of the old weights in its prefix cache")
        self.version = version
        loaded = self.check()
        measured = {
            "sync/bytes": float(size_of(metadata)),
            "sync/seconds": time.perf_counter() - start,
            "weights/version": float(step),
            "weights/server_version": float(loaded),
        }
        if self.change.norm is not None:
            measured["weights/change_norm"] = self.change.norm
        return measured

    def check(self) -> int:
        """The step whose weights all servers hold.

        Raises:
            ServerGone: one was restarted and holds its first weights.
            ServerTrouble: one holds the weights of another trainer.
        """
        assert self.version is not None, "nothing was sent yet"
        answers = self.servers.each(lambda client: client.worker_call("r1kit_version"))
        for client, workers in zip(self.servers.clients, answers, strict=True):
            for held in workers:
                if (held["step"], held["token"]) == (self.version.step, self.version.token):
                    continue
                sent = f"the trainer sent version {self.version.step} ({self.version.token})"
                if held["step"] < 0:
                    raise ServerGone(
                        f"The server at {client.base_url} holds the weights it was started with, {sent}: "
                        "it was restarted"
                    )
                raise ServerTrouble(
                    f"The server at {client.base_url} holds version {held['step']} ({held['token']}), "
                    f"{sent}: another trainer uses it"
                )
        return self.version.step

    def send(self, step: int, metadata: Metadata, tensors: Iterator[tuple[str, torch.Tensor]]) -> Version:
        """Move the tensors; return their version."""
        raise NotImplementedError

    def probe(self, device: torch.device) -> None:
        """Move something small before any model is loaded. Raises ServerTrouble or OSError."""
        raise NotImplementedError

    def reconnect(self, servers: Replicas, device: torch.device) -> None:
        """Move weights to `servers` from now on, which were started in place of the others."""
        self.servers = servers

    def close(self) -> None:
        """Leave nothing behind."""


class FileTransport(Transport):
    """Through a folder that trainer and servers see; the newest version stays there, for restarts."""

    def __init__(self, servers: Replicas, folder: Path):
        super().__init__(servers)
        self.folder = folder

    def send(self, step: int, metadata: Metadata, tensors: Iterator[tuple[str, torch.Tensor]]) -> Version:
        """Write a version, have every worker load it, drop the older ones."""
        version = write_version(self.folder, step, metadata, tensors)
        path = str(self.folder / version.name)
        self.servers.each(lambda client: client.worker_call("r1kit_load", folder=path))
        drop_old(self.folder, version.name)
        return version

    def probe(self, device: torch.device) -> None:
        """Have every worker read one small tensor."""
        tensor = torch.arange(PROBE, dtype=torch.float32)
        metadata: Metadata = [("probe", "float32", [PROBE])]
        version = write_version(self.folder, 0, metadata, [("probe", tensor)])
        path = str(self.folder / version.name)
        for workers in self.servers.each(lambda client: client.worker_call("r1kit_probe", folder=path)):
            for worker in workers:
                if worker["checksum"] != version.checksum:
                    raise ServerTrouble(f"the server reads {worker} in {path}; {version} was written")

    def close(self) -> None:
        """Free the shared memory."""
        release(self.folder)


class NcclTransport(Transport):
    """TRL's own way: trainer and workers in one NCCL (RCCL) group, tensors broadcast from the GPU."""

    def send(self, step: int, metadata: Metadata, tensors: Iterator[tuple[str, torch.Tensor]]) -> Version:
        """Broadcast to each replica in turn, then stamp the version.

        A broadcast empties the iterator, so several replicas need the tensors several times: they are kept
        for that long (one more copy of the model on the trainer's GPU). One server of several GPUs needs
        none.
        """
        given = list(tensors) if len(self.servers.clients) > 1 else tensors
        for client in self.servers.clients:
            client.update_named_params(metadata, iter(given))
        version = Version(step, new_token(), size_of(metadata))
        self.servers.each(
            lambda client: client.worker_call("r1kit_stamp", step=version.step, token=version.token)
        )
        return version

    def probe(self, device: torch.device) -> None:
        """Build the groups, which stay for the training, and move one tensor to every worker.

        What never returns here (device masks that differ, a network card that is not the other's) is ended by
        the watchdog, whose phase `preflight` lasts as long as a sync may.
        """
        for client in self.servers.clients:
            try:
                client.init_communicator(device=device)
            except ServerTrouble:
                raise
            except Exception as error:  # vLLM's and NCCL's own, of no common kind
                raise ServerTrouble(
                    f"trainer and server at {client.base_url} cannot build an NCCL group "
                    f"({type(error).__name__}: {error}); weight_sync.transport: file needs none"
                ) from error
            move_one_tensor(client, torch.device(device))

    def reconnect(self, servers: Replicas, device: torch.device) -> None:
        """Build new groups: the old ones died with their peers."""
        self.close()
        self.servers = servers
        self.probe(device)

    def close(self) -> None:
        """Leave the groups."""
        for client in self.servers.clients:
            client.close_communicator()


def move_one_tensor(client: ServerClient, device: torch.device) -> None:
    """Broadcast a small tensor through the group that `client` has built, and compare what arrived.

    The workers wait in the broadcast while they answer, so the request runs beside the sending.

    Raises:
        ServerTrouble: a worker received something else.
    """
    tensor = torch.arange(PROBE, dtype=torch.float32, device=device)
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(client.worker_call, "r1kit_receive", length=PROBE)
        client.communicator.broadcast(tensor, src=0, stream=stream)
        expected = float(tensor.sum())
        for worker in answers.result():
            if worker["sum"] != expected:
                raise ServerTrouble(
                    f"a worker of {client.base_url} received a tensor with the sum {worker['sum']:g} through "
                    f"NCCL, {expected:g} was sent; use weight_sync.transport: file"
                )
