"""New weights for the server after every optimizer step, by file or by NCCL, and the proof that they arrived.

TRL sends and hopes: nothing tells whether the server samples from what was sent, and a group that cannot be
built hangs without a word (seed: "GRPO + vLLM hanging"; rocm-systems#10609: 2 successes in 62 tries under
different device masks). `file` needs no group at all: safetensors in shared memory, loaded by the server's
own workers. With both transports every sync has a version, and the server's is asked back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from r1kit.runs.weight_versions import Version, drop_old, new_token
from r1kit.training.server_client import Replicas, ServerTrouble, WrongVersion
from r1kit.training.weight_file import Metadata, size_of, write_version

SAMPLED = 2**22
"""Parameters compared for `weights/change_norm`: all of a small model, every k-th of a large one."""


class ChangeNorm:
    """How far the weights moved between two syncs: the L2 norm of the difference of all parameters.

    It keeps a copy of at most about `SAMPLED` parameters (16 MB). Beyond that it looks at every k-th and
    scales by sqrt(k): an estimate, whose error falls with the square root of their number.
    """

    def __init__(self, metadata: Metadata):
        total = sum(torch.Size(shape).numel() for _, _, shape in metadata)
        self.every = max(1, total // SAMPLED)
        self.before: dict[str, torch.Tensor] = {}
        self.squares: float | None = None

    def watch(
        self, tensors: Iterable[tuple[str, torch.Tensor]], again: bool = False
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass the tensors on and compare them with those of the last complete pass.

        `again`: they are the same as then, sent to a server that was restarted; the norm stays.
        """
        squares, first, seen = 0.0, not self.before, {}
        for name, tensor in tensors:
            sample = tensor.detach().reshape(-1)[:: self.every].to("cpu", torch.float32, copy=True)
            if not first:
                squares += float((sample - self.before[name]).double().square().sum())
            seen[name] = sample
            yield name, tensor
        self.before = seen
        if not (first or again):
            self.squares = squares

    @property
    def norm(self) -> float | None:
        """Of the last pass; None after the first."""
        return None if self.squares is None else (self.squares * self.every) ** 0.5


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
            WrongVersion: one holds others than those sent last.
        """
        assert self.version is not None, "nothing was sent yet"
        for client, workers in zip(
            self.servers.clients,
            self.servers.each(lambda client: client.worker_call("r1kit_version")),
            strict=True,
        ):
            for worker in workers:
                if (worker["step"], worker["token"]) != (self.version.step, self.version.token):
                    held = "the weights it was started with" if worker["step"] < 0 else describe(worker)
                    raise WrongVersion(
                        f"The server at {client.base_url} holds {held}, the trainer sent "
                        f"{describe(self.version.as_dict())}: it was restarted, or another trainer uses it"
                    )
        return self.version.step

    def send(self, step: int, metadata: Metadata, tensors: Iterator[tuple[str, torch.Tensor]]) -> Version:
        """Move the tensors; return their version."""
        raise NotImplementedError

    def probe(self, device: torch.device) -> None:
        """Move something small before any model is loaded. Raises ServerTrouble or OSError."""
        raise NotImplementedError

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
        tensor = torch.arange(1024, dtype=torch.float32)
        metadata: Metadata = [("probe", "float32", [1024])]
        version = write_version(self.folder, 0, metadata, [("probe", tensor)])
        path = str(self.folder / version.name)
        for workers in self.servers.each(lambda client: client.worker_call("r1kit_probe", folder=path)):
            for worker in workers:
                if worker["checksum"] != version.checksum:
                    raise ServerTrouble(f"the server reads {worker} in {path}; {version} was written")

    def close(self) -> None:
        """Free the shared memory."""
        shutil.rmtree(self.folder, ignore_errors=True)


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
        """Build the groups, which stay for the training; NCCL moves a tensor of its own to warm them up."""
        for client in self.servers.clients:
            client.init_communicator(device=device)

    def close(self) -> None:
        """Leave the groups."""
        for client in self.servers.clients:
            client.close_communicator()


def describe(version: dict[str, Any]) -> str:
    """A version for people."""
    return f"version {version['step']} ({version['token']})"
