"""Weights on their way from trainer to server as files: one folder a version, whole or not there.

Layout of the sync folder, in shared memory or on a disk that both sides see:

    v00000012-3f9a1c/model.safetensors     the weights after step 12
    v00000012-3f9a1c/version.json          {"step", "token", "bytes", "checksum"}

A version is written under a name with a leading dot and gets its own by a rename, so that a server never sees
half a model. `token` is new for every sync: a server that was restarted, or that serves another run, cannot
answer with it by chance. The checksum is xxh3 over the whole file: it guards against torn and stale files (a
network disk that answers from its cache), not against an attacker.

What makes two model folders one model for server and trainer: shape and tokens, not the weights.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import socket
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1kit.runs.files import read_json

WEIGHTS, MANIFEST = "model.safetensors", "version.json"
NAME = re.compile(r"v\d{8}-[0-9a-f]{6}")
LOCK = "lock"
CHUNK = 4 * 2**20  # bytes hashed at once: what was just written is still in the cache


class BadVersion(ValueError):
    """A folder that holds no whole version."""


@dataclass(frozen=True)
class Version:
    """What the trainer says about the weights, and the server after loading them."""

    step: int
    token: str
    bytes: int = 0
    checksum: str = ""

    @property
    def name(self) -> str:
        """The version's folder."""
        return f"v{self.step:08d}-{self.token}"

    def as_dict(self) -> dict[str, Any]:
        """The content of version.json."""
        return asdict(self)


def new_token() -> str:
    """Six hex digits that no other sync has."""
    return secrets.token_hex(3)


def shared_root() -> Path:
    """Where this user's sync folders are in shared memory."""
    return Path(f"/dev/shm/r1kit-{os.getuid()}")


def sync_folder(asked: str | None, fallback: Path) -> Path:
    """A new folder of this process for versions: in `asked`, else in shared memory, else in `fallback`.

    `release` frees it. What killed processes of this machine left behind is deleted: shared memory is not
    freed with its writer.

    Raises:
        PermissionError: the folder in shared memory is not ours; whoever owns it could feed the server.
    """
    shared = not asked and os.access("/dev/shm", os.W_OK)
    root = Path(asked) if asked else shared_root() if shared else fallback
    root.mkdir(mode=0o700 if shared else 0o777, parents=True, exist_ok=True)
    found = root.lstat()
    if shared and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
        raise PermissionError(f"{root} is not a folder of this user; set weight_sync.folder")
    sweep(root)
    folder = root / f"{socket.gethostname()}-{os.getpid()}-{new_token()}"
    hidden = root / f".{folder.name}"  # nobody may see it before it is locked
    hidden.mkdir()
    _locks[folder] = os.open(hidden / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    with contextlib.suppress(OSError):  # a network disk without locks: then nobody sweeps it either
        fcntl.flock(_locks[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
    return hidden.rename(folder)


def release(folder: Path) -> None:
    """Delete a sync folder of this process."""
    shutil.rmtree(folder, ignore_errors=True)
    if (descriptor := _locks.pop(folder, None)) is not None:
        os.close(descriptor)


def sweep(root: Path) -> list[Path]:
    """Delete the sync folders in `root` whose processes, of this machine, are gone; returns them.

    A living process holds a lock in its folder, which the kernel drops with it. Its number would not do:
    two containers that share memory and the host's name count their processes separately.
    """
    ours = re.compile(re.escape(socket.gethostname()) + r"-\d+-[0-9a-f]{6}")
    left = [path for path in _listed(root) if ours.fullmatch(path.name) and not _in_use(path)]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return left


def _listed(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except OSError:
        return []


def _in_use(folder: Path) -> bool:
    """Whether the process that made a sync folder lives; True where that cannot be seen."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return True  # another user's, or just being deleted
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


_locks: dict[Path, int] = {}


def read_version(folder: str | Path, *, verify: bool = True) -> Version:
    """The version in `folder`; with `verify`, the file's length and checksum are compared first.

    Raises:
        BadVersion: no manifest, or the weights are not those it describes.
    """
    folder = Path(folder)
    found = read_json(folder / MANIFEST)
    try:
        version = Version(**found)
    except TypeError:
        raise BadVersion(f"{folder} holds no {MANIFEST} that can be read") from None
    if verify:
        path = folder / WEIGHTS
        size = path.stat().st_size if path.exists() else 0
        if size != version.bytes:
            raise BadVersion(f"{path} has {size:,} bytes; {version.bytes:,} were written")
        if (checksum := checksum_of(path)) != version.checksum:
            raise BadVersion(f"{path} has checksum {checksum}; {version.checksum} was written")
    return version


def checksum_of(path: str | Path) -> str:
    """xxh3 of a file, as 16 hex digits."""
    import xxhash

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return xxhash.xxh3_64(content).hexdigest()


def drop_old(folder: str | Path, keep: str) -> None:
    """Delete every version in a sync folder but `keep`, half-written ones included."""
    for path in Path(folder).iterdir():
        if path.name != keep and NAME.fullmatch(path.name.removeprefix(".")):
            shutil.rmtree(path, ignore_errors=True)


# What transformers writes about the program that saved the model, not about the model.
NOT_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def model_fingerprint(model: str | Path) -> str:
    """16 hex digits over config.json and tokenizer.json of a model folder; "" for a hub id.

    Weights are left out: those of a server change with every sync.
    """
    folder = Path(model)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return ""
    kept = {key: value for key, value in config.items() if key not in NOT_THE_MODEL}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        digest.update(tokenizer.read_bytes())
    return digest.hexdigest()[:16]
