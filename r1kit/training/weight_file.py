"""A safetensors file written tensor by tensor, hashed as it goes.

`safetensors.torch.save_file` wants all tensors at once and copies each into a bytes object first. A trainer
with sharded parameters (ZeRO-3, FSDP) has only one whole tensor at a time, and at 7B the second copy is 15 GB
more. The format is simple enough to stream: eight bytes with the header's length, the header in JSON, the raw
data (https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from r1kit.runs.files import write_json_atomic
from r1kit.runs.weight_versions import CHUNK, MANIFEST, WEIGHTS, Version, new_token

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
