"""Send new weights to the servers after each optimizer step, by file or NCCL, and verify that they arrived.

TRL does not check whether the server samples from the weights that were sent, and a group that cannot be
built hangs silently (rocm-systems#10609: 2 successes in 62 tries under different device masks).
`FileTransport` needs no group: safetensors in shared memory, loaded by the server's own workers. With both
transports each sync has a version, and `Transport.check` compares it with the servers'. `ChangeNorm` measures
how far the weights moved between two syncs, which shows a frozen policy.

`write_version` writes the safetensors file tensor by tensor and hashes it on the way. `save_file` of
safetensors needs all tensors at once and copies each into a bytes object first. A trainer with sharded
parameters (ZeRO-3, FSDP) has only one whole tensor at a time, and at 7B the second copy takes 15 GB more. The
format: eight bytes with the header's length, the header in JSON, the raw data
(https://huggingface.co/docs/safetensors, "Format").
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

PROBE_LENGTH = 1024  # numbers in the tensor of the preflight
SAMPLED = 2**22  # parameters compared for `weights/change_norm`

Metadata = list[tuple[str, str, list[int]]]
"""(name, dtype such as "bfloat16", shape) of each tensor, in the order in which they come."""

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
    "bool": "BOOL",
}  # fmt: skip


class Transport:
    """Moves the weights to all replicas and compares versions; subclasses differ in `send` and `probe`."""

    def __init__(self, servers: Replicas):
        self.servers = servers
        self.version: Version | None = None
        self.change: ChangeNorm | None = None
        self.sent = -1  # the step sent last, arrived or not

    def sync(
        self, step: int, metadata: Metadata, tensors: Iterable[tuple[str, torch.Tensor]]
    ) -> dict[str, float]:
        """Bring the weights after `step` to every server and return the metrics of this sync.

        Returns:
            `sync/bytes`, `sync/seconds`, `weights/version` (the step), `weights/server_version` and, from the
            second time on, `weights/change_norm`.

        Raises:
            ServerTrouble: a server did not load them.
            NoRoom: the sync folder is full.
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
        """Return the step of the weights that all servers hold.

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
        """Send the tensors and return their version."""
        raise NotImplementedError

    def probe(self, device: torch.device) -> None:
        """Send a small tensor before any model is loaded.

        Raises:
            ServerTrouble, OSError: a worker did not get it.
        """
        raise NotImplementedError

    def reconnect(self, servers: Replicas, device: torch.device) -> None:
        """Use the restarted `servers` from now on."""
        self.servers = servers

    def close(self) -> None:
        """Free the transport's resources."""


class FileTransport(Transport):
    """Weights through a folder that trainer and servers see; the newest version stays, for restarts."""

    def __init__(self, servers: Replicas, folder: Path):
        super().__init__(servers)
        self.folder = folder

    def send(self, step: int, metadata: Metadata, tensors: Iterator[tuple[str, torch.Tensor]]) -> Version:
        """Write a version, have every worker load it, delete older versions."""
        version = write_version(self.folder, step, metadata, tensors)
        path = str(self.folder / version.name)
        self.servers.each(lambda client: client.worker_call("r1kit_load", folder=path))
        drop_old(self.folder, version.name)
        return version

    def probe(self, device: torch.device) -> None:
        """Have every worker read one small version."""
        tensor = torch.arange(PROBE_LENGTH, dtype=torch.float32)
        metadata: Metadata = [("probe", "float32", [PROBE_LENGTH])]
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
    """TRL's own transport: trainer and workers in one NCCL (RCCL) group, tensors broadcast from the GPU."""

    def send(self, step: int, metadata: Metadata, tensors: Iterator[tuple[str, torch.Tensor]]) -> Version:
        """Broadcast to each replica in turn, then stamp the version.

        A broadcast empties the iterator, so for several replicas the tensors are kept meanwhile: one more
        copy of the model on the trainer's GPU. One server on several GPUs needs none.
        """
        kept = list(tensors) if len(self.servers.clients) > 1 else tensors
        for client in self.servers.clients:
            client.update_named_params(metadata, iter(kept))
        version = Version(step, new_token(), size_of(metadata))
        self.servers.each(
            lambda client: client.worker_call("r1kit_stamp", step=version.step, token=version.token)
        )
        return version

    def probe(self, device: torch.device) -> None:
        """Build the groups, which stay for the training, and send one tensor to every worker.

        If this hangs (different device masks, different network cards), the watchdog ends it: its phase
        `preflight` has the bound of a sync.
        """
        for client in self.servers.clients:
            try:
                client.init_communicator(device=device)
            except ServerTrouble:
                raise
            except Exception as error:  # vLLM's and NCCL's own, without a common base class
                raise ServerTrouble(
                    f"trainer and server at {client.base_url} cannot build an NCCL group "
                    f"({type(error).__name__}: {error}); weight_sync.transport: file needs none"
                ) from error
            move_one_tensor(client, torch.device(device))

    def reconnect(self, servers: Replicas, device: torch.device) -> None:
        """Build new groups; the old ones ended with the old servers."""
        self.close()
        self.servers = servers
        self.probe(device)

    def close(self) -> None:
        """Leave the groups."""
        for client in self.servers.clients:
            client.close_communicator()


def move_one_tensor(client: ServerClient, device: torch.device) -> None:
    """Broadcast a small tensor through the group that `client` has built, and compare the workers' sums.

    The workers' method returns after the broadcast, so the request runs in a thread beside it.

    Raises:
        ServerTrouble: a worker received something else.
    """
    tensor = torch.arange(PROBE_LENGTH, dtype=torch.float32, device=device)
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(client.worker_call, "r1kit_receive", length=PROBE_LENGTH)
        client.communicator.broadcast(tensor, src=0, stream=stream)
        expected = float(tensor.sum())
        for worker in answers.result():
            if worker["sum"] != expected:
                raise ServerTrouble(
                    f"a worker of {client.base_url} received a tensor with the sum {worker['sum']:g} through "
                    f"NCCL, {expected:g} was sent; use weight_sync.transport: file"
                )


# A version as a safetensors file


class NoRoom(OSError):
    """The medium of the sync folder cannot hold another version."""


def write_version(
    folder: Path, step: int, metadata: Metadata, tensors: Iterable[tuple[str, torch.Tensor]]
) -> Version:
    """Write a new version into the sync folder, where it appears in one rename.

    Args:
        folder: the sync folder.
        step: the optimizer step the weights belong to.
        metadata: what the file's head says.
        tensors: (name, tensor) in the same order; each is dropped before the next is taken.

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
        # Not fsynced: the reader compares the checksum.
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


def size_of(metadata: Metadata) -> int:
    """Return the bytes of all tensors together."""
    sizes = {name: getattr(torch, name).itemsize for name in {dtype for _, dtype, _ in metadata}}
    return sum(sizes[dtype] * torch.Size(shape).numel() for _, dtype, shape in metadata)


def header(metadata: Metadata) -> bytes:
    """Return the head of the file, padded to eight bytes as the format requires."""
    entries, offset = {}, 0
    for name, dtype, shape in metadata:
        end = offset + size_of([(name, dtype, shape)])
        entries[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def reserve(descriptor: int, size: int) -> None:
    """Reserve the disk space of the whole file, where the system can: a full disk then shows at once."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def chunks(
    head: bytes, metadata: Metadata, tensors: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[memoryview]:
    """Yield the file in pieces of at most `CHUNK` bytes."""
    yield memoryview(head)
    remaining = iter(tensors)
    for name, dtype, shape in metadata:
        sent, tensor = next(remaining, (None, None))
        kind = (sent, str(getattr(tensor, "dtype", None)).removeprefix("torch."))
        if kind != (name, dtype) or list(tensor.shape) != list(shape):
            raise ValueError(f"weights changed their form: {name} {dtype} {shape} expected, {kind} came")
        data = tensor.detach().contiguous().cpu()
        raw = memoryview(data.reshape(-1).view(torch.uint8).numpy()) if data.numel() else memoryview(b"")
        for start in range(0, len(raw), CHUNK):
            yield raw[start : start + CHUNK]
    if next(remaining, None) is not None:
        raise ValueError("weights changed their form: more tensors came than were announced")


# The distance between two syncs


class ChangeNorm:
    """The L2 norm of the difference of all parameters between two syncs.

    It keeps a copy of at most about `SAMPLED` parameters (16 MB). Of a larger model it compares every k-th
    parameter and scales by sqrt(k): an estimate whose error falls with the square root of their number.
    """

    def __init__(self, metadata: Metadata):
        total = sum(torch.Size(shape).numel() for _, _, shape in metadata)
        self.every = max(1, total // SAMPLED)
        self.before: dict[str, torch.Tensor] = {}
        self.squares: float | None = None

    def watch(
        self, tensors: Iterable[tuple[str, torch.Tensor]], again: bool = False
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors and compare them with those of the last complete pass.

        `again`: the same tensors are sent to a restarted server; the norm stays.
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
