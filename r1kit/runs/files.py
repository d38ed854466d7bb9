"""Atomic writes of small files, and reads that expect the writer to have died half way.

A reader sees the old content or the new, never a mixture: the text goes to a temporary file in the same
folder, reaches the disk (fsync), and takes the name with `os.replace`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class WriteFailed(OSError):
    """A file could not be written; the previous content, if there was any, is untouched."""


def write_text_atomic(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Replace the content of `path` by `text` (UTF-8), all or nothing; the folder is made if missing.

    `durable=False` skips fsync: for heartbeats, where losing the last second in a power cut costs nothing.

    Raises:
        WriteFailed: disk full, no permission, ...; no temporary file stays, and the old file is as it was.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        # mkstemp makes files private (0600); results are to be read by whoever may read the folder.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        kept = "the old content is kept" if path.exists() else "nothing was written"
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
    """The content of a JSON file, or `default` if the file is missing or not whole."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return default


def plain(obj: Any) -> Any:
    """`obj` in JSON's own types: numpy and torch scalars become numbers, paths text, NaN and infinities None.

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
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's umask (there is no way to read it but to set it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def shown(path: str | Path) -> str:
    """The path as a person would type it: relative to the working folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
