"""Files of JSON lines that survive a killed writer: `metrics.jsonl`, and logs of answers found by key.

Both formats hold one JSON object per line and only grow. A killed writer may leave half a line at the end:
readers skip it, and the next writer does not glue its row onto it.

- `append`, `read`, `truncate_after` and `Follower` are for metrics: one row per logged step, read by others
  while it grows. A resumed training first drops the rows of the steps that it will repeat.
- `AppendLog` is for work that was paid for: records written in batches with one fsync each, and found by key.
  It holds only the position of each record in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

from r1kit.runs.files import lock_within, plain, write_text_atomic


def append(path: str | Path, row: dict[str, Any]) -> None:
    """Add one row with a single write call, so that concurrent readers never see half of it on a local disk.

    NaN and infinities are written as null: a diverged loss is a gap in the curve, and the file stays JSON.
    """
    line = json.dumps(plain(row), ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = "\n" + line  # end the torn line of a killed writer, so that only that line is lost
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(path: str | Path) -> list[dict[str, Any]]:
    """Return all whole rows of the file in order; an empty list if there is no file."""
    try:
        return _rows(Path(path).read_bytes())
    except FileNotFoundError:
        return []


def truncate_after(path: str | Path, step: int) -> int:
    """Drop the rows whose `step` is greater than `step` (atomically) and return how many were dropped.

    A training program that resumes from the checkpoint of `step` calls it.
    """
    rows = read(path)
    kept = [row for row in rows if row.get("step", 0) <= step]
    if len(kept) < len(rows):
        write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    return len(rows) - len(kept)


class Follower:
    """Reads a growing file of rows piece by piece; the file need not exist yet.

    `rows` holds all rows of the file; it starts anew when the file is replaced (a resumed training).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        self._offset = 0
        self._inode: int | None = None

    def poll(self) -> list[dict[str, Any]]:
        """Return the rows completed since the last call (all rows again after the file was replaced)."""
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


class LogInUse(RuntimeError):
    """Another process writes this file; the command line exits with 1."""


class AppendLog:
    """Records by key; of several with one key the last one counts. Use it in a `with` statement.

    Args:
        path: made, with its folder, if missing.
        key: the fields that together are a record's key.

    Attributes:
        places: the position in the file of each key's last record.
        broken: lines in the middle of the file that are not records (a disk that lost a block); skipped.
    """

    def __init__(self, path: str | Path, key: tuple[str, ...]):
        self.path, self.key = Path(path), key
        self.places: dict[Hashable, int] = {}
        self.broken = 0

    def __enter__(self) -> AppendLog:
        """Open the file, cut off a torn last line and index all records.

        Raises:
            LogInUse: another process has it open; two writers would tear each other's lines.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b")
        if not lock_within(self.file.fileno(), 0):
            self.file.close()
            raise LogInUse(f"another process writes {self.path}")
        place = self.file.seek(0)
        for line in self.file:
            if not line.endswith(b"\n"):
                self.file.truncate(place)
                break
            try:
                self.places[self._key(_row(line))] = place
            except (KeyError, TypeError):
                self.broken += 1
            place += len(line)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records and return when they are on disk."""
        place = self.file.seek(0, os.SEEK_END)
        places = {}
        for record in records:
            line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            places[self._key(record)] = place
            self.file.write(line)
            place += len(line)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.places.update(places)

    def get(self, key: Hashable) -> dict[str, Any] | None:
        """Return the last record with this key, read from the file; None if there is none."""
        return self._at(self.places[key]) if key in self.places else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the last record of each key, in the order of the file."""
        return map(self._at, sorted(self.places.values()))

    def _key(self, record: dict[str, Any]) -> Hashable:
        return tuple(record[name] for name in self.key)

    def _at(self, place: int) -> dict[str, Any]:
        self.file.seek(place)
        return json.loads(self.file.readline())


def _rows(data: bytes) -> list[dict[str, Any]]:
    return [row for row in map(_row, data.splitlines()) if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """None for a torn line, or one that is not an object."""
    try:
        row = json.loads(line)
    except ValueError:  # JSONDecodeError, or UnicodeDecodeError inside a letter
        return None
    return row if isinstance(row, dict) else None
