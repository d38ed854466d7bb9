"""New weights for the server after every optimizer step, by file or by NCCL, and the proof that they arrived.

TRL sends and hopes: nothing tells whether the server samples from what was sent, and a group that cannot be
built hangs without a word (seed: "GRPO + vLLM hanging"; rocm-systems#10609: 2 successes in 62 tries under
different device masks). `file` needs no group at all: safetensors in shared memory, loaded by the server's
own workers. With both transports every sync has a version, and the server's is asked back.

A safetensors file written tensor by tensor, hashed as it goes.

`safetensors.torch.save_file` wants all tensors at once and copies each into a bytes object first. A trainer
with sharded parameters (ZeRO-3, FSDP) has only one whole tensor at a time, and at 7B the second copy is 15 GB
more. The format is simple enough to stream: eight bytes with the header's length, the header in JSON, the raw
data (https://huggingface.co/docs/safetensors, "Format").

How far the weights moved between two syncs: a generator that is frozen, or fed old weights, shows here.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from r1kit.runs.files import write_json_atomic
from r1kit.runs.weight_versions import CHUNK, MANIFEST, WEIGHTS, Version, drop_old, new_token, release
from r1kit.serving.client import Replicas, ServerClient
from r1kit.serving.session import ServerGone, ServerTrouble

Metadata = list[tuple[str, str, list[int]]]
"""(name, dtype such as "bfloat16", shape) of each tensor, in the order in which they come."""

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
    "bool": "BOOL",
}  # fmt: skip


class NoRoom(OSError):
    """The medium of the sync folder cannot hold another version."""


def size_of(metadata: Metadata) -> int:
    """Bytes of the tensors together."""
    sizes = {name: getattr(torch, name).itemsize for name in {dtype for _, dtype, _ in metadata}}
    return sum(sizes[dtype] * torch.Size(shape).numel() for _, dtype, shape in metadata)


def header(metadata: Metadata) -> bytes:
    """The head of the file, padded to eight bytes as the format asks."""
    entries, offset = {}, 0
    for name, dtype, shape in metadata:
        end = offset + size_of([(name, dtype, shape)])
        entries[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_version(
    folder: Path, step: int, metadata: Metadata, tensors: Iterable[tuple[str, torch.Tensor]]
) -> Version:
    """Write a new version into the sync folder; it appears there in one rename.

    Args:
        folder: the sync folder.
        step: the optimizer step the weights belong to.
        metadata: what the file's head says.
        tensors: (name, tensor) in the same order; each is dropped before the next is asked for.

    Raises:
        NoRoom: the disk is full; nothing of the attempt stays.
        ValueError: a tensor is not what `metadata` says.
    """
    import xxhash

    version = Version(step, new_token())
    partial = folder / f".{version.name}"
    digest = xxhash.xxh3_64()
    try:
        partial.mkdir()
        with open(partial / WEIGHTS, "wb", buffering=0) as file:
            head = header(metadata)
            reserve(file.fileno(), len(head) + size_of(metadata))
            for chunk in chunks(head, metadata, tensors):
                digest.update(chunk)
                written = file.write(chunk)
                while written < len(chunk):
                    written += file.write(chunk[written:])
            size = file.tell()
        version = Version(step, version.token, size, digest.hexdigest())
        # Not fsynced: the reader is a process of this machine, or asks the checksum of what it sees.
        write_json_atomic(partial / MANIFEST, version.as_dict(), durable=False)
        partial.rename(folder / version.name)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            free = shutil.disk_usage(folder).free
            raise NoRoom(
                error.errno,
                f"cannot write weights of {size_of(metadata):,} bytes to {folder}: {error.strerror}, "
                f"{free:,} bytes free",
            ) from error
        raise
    return version


def reserve(descriptor: int, size: int) -> None:
    """Ask for the whole file's room before the first byte, where the system can: a full disk shows then."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def chunks(
    head: bytes, metadata: Metadata, tensors: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[memoryview]:
    """The file in pieces of at most `CHUNK` bytes."""
    yield memoryview(head)
    given = iter(tensors)
    for name, dtype, shape in metadata:
        found, tensor = next(given, (None, None))
        kind = (found, str(getattr(tensor, "dtype", None)).removeprefix("torch."))
        if kind != (name, dtype) or list(tensor.shape) != list(shape):
            raise ValueError(f"weights changed their form: {name} {dtype} {shape} expected, {kind} came")
        data = tensor.detach().contiguous().cpu()
        raw = memoryview(data.reshape(-1).view(torch.uint8).numpy()) if data.numel() else memoryview(b"")
        for start in range(0, len(raw), CHUNK):
            yield raw[start : start + CHUNK]
    if next(given, None) is not None:
        raise ValueError("weights changed their form: more tensors came than were announced")


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
