"""`metrics.jsonl`: one JSON object a logged step, append-only; every curve can be redrawn from it.

The writer may be killed in the middle of a line, and a resumed training writes some steps again. So readers
skip a torn line, `append` never glues a row onto one, and `truncate_after` drops what a resumed training
will repeat.

A file of JSON lines that only grows and survives a kill: the record of work that was paid for.

Lines are written in batches with one fsync each, so a batch is on disk or it is not, except for the last line
of a process that died while writing: it is cut off when the file is opened again. In memory there is nothing
but where each key's line begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from r1kit.runs import processes
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


class LogInUse(RuntimeError):
    """Another process writes this file; the command line exits with 1."""


class AppendLog:
    """Records by key; of several with one key the last one counts. To be used as `with`.

    Args:
        path: made, with its folder, where it is missing.
        key: the fields that together are a record's key.

    Attributes:
        broken: lines in the middle that are no records (a disk that lost a block); they are passed over.
    """

    def __init__(self, path: str | Path, key: tuple[str, ...]):
        self.path, self.key = Path(path), key
        self.places: dict[Hashable, int] = {}
        self.broken = 0

    def __enter__(self) -> AppendLog:
        """Open the file, cut off a torn last line and find all records.

        Raises:
            LogInUse: two writers would tear each other's lines.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b")
        if not processes.locked(self.file.fileno(), 0):
            self.file.close()
            raise LogInUse(f"another process writes {self.path}")
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records and return when they are on disk."""
        place = self.file.seek(0, os.SEEK_END)
        lines = []
        for record in records:
            line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            lines.append((tuple(record[name] for name in self.key), place))
            self.file.write(line)
            place += len(line)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.places.update(lines)

    def get(self, key: Hashable) -> dict[str, Any] | None:
        """The last record with this key, read from the file; None if there is none."""
        if key not in self.places:
            return None
        self.file.seek(self.places[key])
        return json.loads(self.file.readline())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The last record of each key, in the order of the file."""
        for place in sorted(self.places.values()):
            self.file.seek(place)
            yield json.loads(self.file.readline())

    def _read(self) -> None:
        place = self.file.seek(0)
        for line in self.file:
            if not line.endswith(b"\n"):
                self.file.truncate(place)
                break
            try:
                record = json.loads(line)
                self.places[tuple(record[name] for name in self.key)] = place
            except (ValueError, KeyError, TypeError):
                self.broken += 1
            place += len(line)
