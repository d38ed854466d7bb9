"""Atomic writes, and reads that expect a writer to have died half way.

A reader sees the old content or the new, never a mixture: the content goes to a temporary file in the same
folder, reaches the disk (fsync), and takes the name with `os.replace`. `replacing` does this for any writer,
`write_text_atomic` and `write_json_atomic` for the small files of a run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class WriteFailed(OSError):
    """A file could not be written; the previous content, if there was any, is untouched."""


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` when the block ends without an error.

    The folder is made if missing. After an error no temporary file stays, and `path` is as it was.
    `durable=False` skips fsync: for heartbeats, where losing the last second in a power cut costs nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_text_atomic(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Replace the content of `path` by `text` (UTF-8), all or nothing; see `replacing`.

    Raises:
        WriteFailed: disk full, no permission, ...; no temporary file stays, and the old file is as it was.
    """
    try:
        with replacing(path, durable=durable) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        kept = "the old content is kept" if Path(path).exists() else "nothing was written"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "no space left on the disk" if full else (error.strerror or str(error))
        raise WriteFailed(error.errno, f"cannot write {path}: {reason} ({kept})") from error


def write_json_atomic(path: str | Path, obj: Any, *, durable: bool = True) -> None:
    """Replace `path` by `obj` as indented JSON; NaN and infinities become null, which every reader accepts.

    Raises:
        TypeError: `obj` holds something JSON has no form for (before anything is touched).
        WriteFailed: see `write_text_atomic`.
    """
    write_text_atomic(path, json.dumps(plain(obj), indent=2, ensure_ascii=False) + "\n", durable=durable)


def read_json(path: str | Path, default: Any = None) -> Any:
    """Return the content of a JSON file, or `default` if the file is missing or torn."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return default


def plain(obj: Any) -> Any:
    """Return `obj` in JSON's own types: numpy and torch scalars as numbers, paths as text, NaN and infinities
    as None.

    Raises:
        TypeError: for anything else.
    """
    if obj is None or isinstance(obj, (str, bool)):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [plain(value) for value in obj]
    if isinstance(obj, (set, frozenset)):
        return sorted((plain(value) for value in obj), key=repr)
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if hasattr(obj, "tolist"):  # numpy and torch, scalars as well as arrays, without importing either
        return plain(obj.tolist())
    raise TypeError(f"cannot write {type(obj).__name__} as JSON: {obj!r}")


@contextlib.contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Hold an advisory lock on `folder` itself, so that two processes can merge into one file there.

    The system frees it when the holder dies. Where folders cannot be locked (some network disks) it does
    nothing.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock_within(descriptor: int, seconds: float) -> bool:
    """Lock an open file as soon as it is free; return False if it is still locked after `seconds`.

    The lock lives as long as any process that inherited this descriptor. Where files cannot be locked (some
    network disks) it returns True.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        except OSError:
            return True


def shown(path: str | Path) -> str:
    """Return the path as a user would type it: relative to the working folder where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)
