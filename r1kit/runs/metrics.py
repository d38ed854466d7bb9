"""`metrics.jsonl`: one JSON object a logged step, append-only; every curve can be redrawn from it.

The writer may be killed in the middle of a line, and a resumed training writes some steps again. So readers
skip a torn line, `append` never glues a row onto one, and `truncate_after` drops what a resumed training
will repeat.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from r1kit.runs.files import plain, write_text_atomic


def append(path: str | Path, row: dict[str, Any]) -> None:
    """Add one row with a single write call, so that concurrent readers never see half of it on a local disk.

    NaN and infinities are written as null: a diverged loss is a gap in the curve, and the file stays JSON.
    """
    line = json.dumps(plain(row), ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = "\n" + line  # a killed writer left half a line: let it be the only one that is lost
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(path: str | Path) -> list[dict[str, Any]]:
    """All whole rows of the file, in order; an empty list if there is no file."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    return _rows(data)


def truncate_after(path: str | Path, step: int) -> int:
    """Drop the rows whose `step` is greater than `step` (atomically); returns how many were dropped.

    Called by a training program that resumes from the checkpoint of `step`.
    """
    rows = read(path)
    kept = [row for row in rows if row.get("step", 0) <= step]
    if len(kept) < len(rows):
        write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    return len(rows) - len(kept)


class Follower:
    """Reads a growing metrics file a piece at a time.

    `rows` holds everything the file says now; it starts anew when the file is replaced (a resumed training).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        self._offset = 0
        self._inode: int | None = None

    def poll(self) -> list[dict[str, Any]]:
        """Rows that became complete since the last call (all of them again after the file was replaced)."""
        try:
            with open(self.path, "rb") as file:
                state = os.fstat(file.fileno())
                if state.st_ino != self._inode or state.st_size < self._offset:
                    self.rows, self._offset, self._inode = [], 0, state.st_ino
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = _rows(whole)
        self.rows.extend(new)
        return new


def follow(path: str | Path) -> Follower:
    """A `Follower` of `path`, which need not exist yet."""
    return Follower(path)


def _rows(data: bytes) -> list[dict[str, Any]]:
    rows = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue  # torn by a kill; see `append`
        if isinstance(row, dict):
            rows.append(row)
    return rows
