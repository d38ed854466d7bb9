"""Weights sent from trainer to server as files: one folder per version, whole or absent.

Layout of the sync folder, in shared memory or on a disk that both sides see:

    v00000012-3f9a1c/model.safetensors     the weights after step 12
    v00000012-3f9a1c/version.json          {"step", "token", "bytes", "checksum"}

A version is written under a name with a leading dot and then renamed, so that a server never sees half a
model. `token` is new for every sync: a server that was restarted, or that serves another run, cannot return
it by chance. The checksum is xxh3 over the whole file: it guards against torn and stale files (a network disk
that answers from its cache), not against an attacker.

A trainer makes its folder with `sync_folder` and frees it with `release`; `sweep` deletes the folders of
killed trainers. `model_fingerprint` tells whether two model folders have the same shape and tokens.
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
CHUNK = 4 * 2**20  # bytes hashed at once, while they are still in the cache
# config.json: what transformers writes about the program that saved the model.
NOT_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")

_locks: dict[Path, int] = {}  # descriptors of this process's sync folders


class BadVersion(ValueError):
    """A folder without a whole version."""


@dataclass(frozen=True)
class Version:
    """The identity of weights, as the trainer wrote them or as the server loaded them."""

    step: int
    token: str
    bytes: int = 0
    checksum: str = ""

    @property
    def name(self) -> str:
        """The version's folder."""
        return f"v{self.step:08d}-{self.token}"

    def as_dict(self) -> dict[str, Any]:
        """Return the content of version.json."""
        return asdict(self)


def new_token() -> str:
    """Return six random hex digits."""
    return secrets.token_hex(3)


def shared_root() -> Path:
    """Return the folder of this user's sync folders in shared memory."""
    return Path(f"/dev/shm/r1kit-{os.getuid()}")


def sync_folder(configured: str | None, fallback: Path) -> Path:
    """Make this process's folder for versions: in `configured`, else in shared memory, else in `fallback`.

    It first deletes the folders of killed processes of this machine: shared memory is not freed with its
    writer.

    Raises:
        PermissionError: another user owns the folder in shared memory, and could feed the server.
    """
    shared = not configured and os.access("/dev/shm", os.W_OK)
    root = Path(configured) if configured else shared_root() if shared else fallback
    root.mkdir(mode=0o700 if shared else 0o777, parents=True, exist_ok=True)
    state = root.lstat()
    if shared and (not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid()):
        raise PermissionError(f"{root} is not a folder of this user; set weight_sync.folder")
    sweep(root)
    folder = root / f"{socket.gethostname()}-{os.getpid()}-{new_token()}"
    hidden = root / f".{folder.name}"  # another process's sweep must not see it before it is locked
    hidden.mkdir()
    _locks[folder] = os.open(hidden / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    with contextlib.suppress(OSError):  # on a network disk without locks `sweep` deletes nothing
        fcntl.flock(_locks[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
    return hidden.rename(folder)


def release(folder: Path) -> None:
    """Delete a sync folder of this process."""
    shutil.rmtree(folder, ignore_errors=True)
    if (descriptor := _locks.pop(folder, None)) is not None:
        os.close(descriptor)


def sweep(root: Path) -> list[Path]:
    """Delete and return the sync folders in `root` whose processes, of this machine, are gone.

    A living process holds a lock in its folder, which the kernel drops with it. Its pid would not do: two
    containers that share memory and the host's name count their processes separately.
    """
    of_this_host = re.compile(re.escape(socket.gethostname()) + r"-\d+-[0-9a-f]{6}")
    try:
        left = [path for path in root.iterdir() if of_this_host.fullmatch(path.name) and not _in_use(path)]
    except OSError:
        return []
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return left


def _in_use(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return True  # cannot be checked: another user's, or being deleted just now
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_version(folder: str | Path) -> Version:
    """Return the version in `folder` after comparing the file's length and checksum with its manifest.

    Raises:
        BadVersion: no manifest, or the weights are not those it describes.
    """
    folder = Path(folder)
    try:
        version = Version(**read_json(folder / MANIFEST))
    except TypeError:
        raise BadVersion(f"{folder} has no readable {MANIFEST}") from None
    path = folder / WEIGHTS
    size = path.stat().st_size if path.exists() else 0
    if size != version.bytes:
        raise BadVersion(f"{path} has {size:,} bytes; {version.bytes:,} were written")
    if (checksum := checksum_of(path)) != version.checksum:
        raise BadVersion(f"{path} has checksum {checksum}; {version.checksum} was written")
    return version


def checksum_of(path: str | Path) -> str:
    """Return the xxh3 of a file as 16 hex digits."""
    import xxhash

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return xxhash.xxh3_64(content).hexdigest()


def drop_old(folder: str | Path, keep: str) -> None:
    """Delete every version in a sync folder but `keep`, half-written ones included."""
    for path in Path(folder).iterdir():
        if path.name != keep and NAME.fullmatch(path.name.removeprefix(".")):
            shutil.rmtree(path, ignore_errors=True)


def model_fingerprint(model: str | Path) -> str:
    """Hash config.json and tokenizer.json of a model folder to 16 hex digits; "" for a hub id.

    Weights are left out: a server's change with every sync.
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
