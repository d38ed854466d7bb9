"""A file of JSON lines that only grows and survives a kill: the record of work that was paid for.

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
