"""Sets of rows on disk, read in batches: JSONL, Parquet, a folder of Parquet files, or `save_to_disk`.

A set of 350,000 traces is larger than memory, so nothing here holds more than one batch. JSONL is read twice:
no column's type is known before its last row, and a column may be empty for the first thousand.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

Row = TypeVar("Row")

BATCH = 500
"""Rows of a batch: 500 traces of 60,000 characters are 30 MB."""


class NotASet(ValueError):
    """A path holds no rows that can be read; the command line exits with 2."""

    exit_code = 2


@dataclass(frozen=True)
class RowFile:
    """A set on disk: its columns, how many rows it has, and the rows in batches, in order."""

    path: Path
    schema: pa.Schema
    rows: int
    read: Callable[[], Iterator[pa.RecordBatch]]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows from the first, at most `BATCH` at a time."""
        return self.read()

    def head(self, most: int) -> RowFile:
        """The first `most` rows as a set of its own."""
        return RowFile(self.path, self.schema, min(self.rows, most), partial(_head, self.read, most))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches():
            yield from batch.to_pylist()


def _head(read: Callable[[], Iterator[pa.RecordBatch]], most: int) -> Iterator[pa.RecordBatch]:
    for batch in read():
        if most <= 0:
            return
        yield batch.slice(0, most)
        most -= batch.num_rows


def rows_in_memory(name: str, rows: list[dict[str, Any]]) -> RowFile:
    """Rows that are on no disk as a set."""
    import pyarrow as pa

    schema = pa.Table.from_pylist(rows).schema
    return RowFile(Path(name), schema, len(rows), partial(in_batches, rows, schema))


def open_rows(path: str | Path) -> RowFile:
    """The set at `path`.

    Raises:
        NotASet: nothing is there, it has another form, a line is no JSON object, or a column holds two kinds
            of values.
    """
    path = Path(path)
    if path.is_dir() and (path / "state.json").is_file():
        return _saved(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if files and all(file.suffix == ".parquet" for file in files) and files[0].is_file():
        return _parquet(path, files)
    if path.is_file() and path.suffix in (".jsonl", ".ndjson"):
        return _jsonl(path)
    found = "there is nothing" if not path.exists() else "it has another form"
    raise NotASet(f"{path} is no set of rows ({found}): .jsonl, .parquet, a folder of them, or save_to_disk")


def open_files(path: str | Path, files: list[Path]) -> RowFile:
    """The set whose rows lie in these files one after the other: Parquet in any number, or one JSONL.

    Raises:
        NotASet: as `open_rows`.
    """
    if len(files) == 1:
        return open_rows(files[0])
    if files and all(file.suffix == ".parquet" for file in files):
        return _parquet(Path(path), files)
    raise NotASet(f"{path}: several files are one set only as Parquet, found {[file.name for file in files]}")


@contextlib.contextmanager
def parquet_writer(path: str | Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """A function that adds a batch to a new Parquet file, which takes its name when the block ends well."""
    import pyarrow.parquet as pq

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                yield writer.write_batch
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_parquet(path: str | Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches as one Parquet file, all or nothing, and return the number of rows."""
    rows = 0
    with parquet_writer(path, schema) as write:
        for batch in batches:
            write(batch)
            rows += batch.num_rows
    return rows


def in_batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows as batches with these columns; a column that a row lacks is empty there."""
    import pyarrow as pa

    for part in parts(rows, BATCH):
        yield pa.RecordBatch.from_pylist(part, schema=schema)


def parts(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """The rows in lists of `size`, the last one shorter."""
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _saved(path: Path) -> RowFile:
    from datasets import Dataset

    dataset = Dataset.load_from_disk(str(path)).with_format("arrow")

    def read() -> Iterator[pa.RecordBatch]:
        for table in dataset.iter(BATCH):
            yield from table.combine_chunks().to_batches()

    return RowFile(path, dataset.features.arrow_schema, len(dataset), read)


def _parquet(path: Path, files: list[Path]) -> RowFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schemas = [pq.read_schema(file).remove_metadata() for file in files]
        rows = sum(pq.read_metadata(file).num_rows for file in files)
    except pa.ArrowInvalid as error:
        raise NotASet(f"{path} is no Parquet: {error}") from error
    if odd := [file for file, schema in zip(files, schemas, strict=True) if schema != schemas[0]]:
        raise NotASet(f"{odd[0]} has other columns than {files[0]}: they are not parts of one set")

    def read() -> Iterator[pa.RecordBatch]:
        for file in files:
            # Buffered ahead, all that was read of the file would be held until its end.
            with pq.ParquetFile(file, pre_buffer=False) as opened:
                yield from opened.iter_batches(BATCH)

    return RowFile(path, schemas[0], rows, read)


def _jsonl(path: Path) -> RowFile:
    import pyarrow as pa

    schema, rows = pa.schema([]), 0
    for part in parts(_lines(path), BATCH):
        rows += len(part)
        try:
            columns = {name: None for row in part for name in row}
            found = pa.Table.from_pylist([columns | row for row in part]).schema
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
        except pa.ArrowException as error:
            raise NotASet(
                f"{path}, rows up to {rows}: a column holds two kinds of values ({error})"
            ) from error
    return RowFile(path, schema, rows, partial(_read_lines, path, schema))


def _read_lines(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    return in_batches(_lines(path), schema)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise NotASet(f"{path}:{number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise NotASet(f"{path}:{number} is no JSON object")
            yield row
