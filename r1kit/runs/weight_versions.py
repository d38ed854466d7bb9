"""Weights on their way from trainer to server as files: one folder a version, whole or not there.

Layout of the sync folder, in shared memory or on a disk that both sides see:

    v00000012-3f9a1c/model.safetensors     the weights after step 12
    v00000012-3f9a1c/version.json          {"step", "token", "bytes", "checksum"}

A version is written under a name with a leading dot and gets its own by a rename, so that a server never sees
half a model. `token` is new for every sync: a server that was restarted, or that serves another run, cannot
answer with it by chance. The checksum is xxh3 over the whole file: it guards against torn and stale files (a
network disk that answers from its cache), not against an attacker.
"""

from __future__ import annotations

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

import psutil

from r1kit.runs.files import read_json

WEIGHTS, MANIFEST = "model.safetensors", "version.json"
NAME = re.compile(r"v\d{8}-[0-9a-f]{6}")
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


def sync_folder(asked: str | None, fallback: Path) -> Path:
    """This process's own folder for versions: in `asked`, else in shared memory, else in `fallback`.

    What processes of this machine left behind that were killed is deleted: shared memory is not freed with
    its writer.

    Raises:
        PermissionError: the folder in shared memory is not ours; whoever owns it could feed the server.
    """
    shared = not asked and os.access("/dev/shm", os.W_OK)
    root = Path(asked) if asked else Path(f"/dev/shm/r1kit-{os.getuid()}") if shared else fallback
    root.mkdir(mode=0o700 if shared else 0o777, parents=True, exist_ok=True)
    found = root.lstat()
    if shared and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
        raise PermissionError(f"{root} is not a folder of this user; set weight_sync.folder")
    host = socket.gethostname()
    for old in root.glob(f"{host}-*"):
        pid = old.name.removeprefix(f"{host}-")
        if pid.isdigit() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            shutil.rmtree(old, ignore_errors=True)
    folder = root / f"{host}-{os.getpid()}"
    folder.mkdir()
    return folder


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
