"""Sets of rows on disk, read in batches: JSONL, Parquet, a folder of Parquet files, or `save_to_disk`.

`open_rows` reads them, `write_parquet` writes one, and `map_in_order` processes batches on several cores.

A set of 350,000 traces is larger than memory, so only one batch is in memory at a time. JSONL is read twice:
the type of a column is known only after its last row, and a column may be empty in the first thousand rows.
`datasets.load_dataset` would read these files too, but it first copies each into its cache (7 GB for
Mixture-of-Thoughts) and takes the types of JSONL from the first rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from r1kit.runs.files import replacing
from r1kit.settings.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH = 500
"""Rows per batch: 500 traces of 60,000 characters are 30 MB."""
PREFETCHED_PER_WORKER = 2
"""Items sent to the workers before a result is taken, per worker; limits memory."""


class NotASet(UserError):
    """A path has no readable rows; the command line exits with 2."""


@dataclass(frozen=True)
class RowFile:
    """A set of rows: its columns, their number (None for a stream that does not state it), and the rows.

    `batches()` yields all rows from the first in order, at most `BATCH` at a time.
    """

    path: Path
    schema: pa.Schema
    rows: int | None
    batches: Callable[[], Iterator[pa.RecordBatch]]

    def head(self, most: int) -> RowFile:
        """Return the first `most` rows as a set."""
        return replace(self, rows=min(self.rows, most), batches=partial(_head, self.batches, most))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches():
            yield from batch.to_pylist()


def _head(batches: Callable[[], Iterator[pa.RecordBatch]], most: int) -> Iterator[pa.RecordBatch]:
    for batch in batches():
        if most <= 0:
            return
        yield batch.slice(0, most)
        most -= batch.num_rows


# Reading.


def open_rows(path: str | Path, files: list[Path] | None = None) -> RowFile:
    """Open the set at `path`.

    Args:
        files: the files in `path` with the rows, in order; None takes those that are there.

    Raises:
        NotASet: the path does not exist or has another form, a line is not a JSON object, or a column has
            values of two kinds.
    """
    path = Path(path)
    if files and len(files) == 1:
        return open_rows(files[0])
    if path.is_dir() and (path / "state.json").is_file():
        from datasets import Dataset

        return dataset_rows(path, Dataset.load_from_disk(str(path)))
    if files is None:
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if files and all(file.suffix == ".parquet" for file in files) and files[0].is_file():
        return _parquet(path, files)
    if path.is_file() and path.suffix in (".jsonl", ".ndjson"):
        return _jsonl(path)
    if len(files) > 1:
        names = [file.name for file in files]
        raise NotASet(f"{path}: several files are one set only as Parquet, found {names}")
    reason = "it does not exist" if not path.exists() else "it has another form"
    raise NotASet(
        f"{path} is not a set of rows ({reason}): .jsonl, .parquet, a folder of them, or save_to_disk"
    )


def dataset_rows(path: str | Path, dataset: Any, rows: int | None = None) -> RowFile:
    """Read a `datasets.Dataset`, or an `IterableDataset` of `rows` rows (None: unknown)."""
    arrow = dataset.with_format("arrow")

    def read() -> Iterator[pa.RecordBatch]:
        for table in arrow.iter(BATCH):
            yield from table.combine_chunks().to_batches()

    # A stream knows its columns only if the dataset's card or its files state them.
    schema = dataset.features.arrow_schema if dataset.features else next(iter(arrow.iter(1))).schema
    return RowFile(Path(path), schema, len(dataset) if hasattr(dataset, "__len__") else rows, read)


def rows_in_memory(name: str, rows: list[dict[str, Any]]) -> RowFile:
    """Make a set of a list of rows."""
    import pyarrow as pa

    schema = pa.Table.from_pylist(rows).schema
    return RowFile(Path(name), schema, len(rows), partial(in_batches, rows, schema))


def _parquet(path: Path, files: list[Path]) -> RowFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schemas = [pq.read_schema(file).remove_metadata() for file in files]
        rows = sum(pq.read_metadata(file).num_rows for file in files)
    except pa.ArrowInvalid as error:
        raise NotASet(f"{path} is not readable as Parquet: {error}") from error
    if odd := [file for file, schema in zip(files, schemas, strict=True) if schema != schemas[0]]:
        raise NotASet(f"{odd[0]} has other columns than {files[0]}: they are not parts of one set")

    def read() -> Iterator[pa.RecordBatch]:
        for file in files:
            # With pre_buffer=True pyarrow keeps every chunk it has read until the file is closed.
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
            part_schema = pa.Table.from_pylist([columns | row for row in part]).schema
            schema = pa.unify_schemas([schema, part_schema], promote_options="permissive")
        except pa.ArrowException as error:
            message = f"{path}, rows up to {rows}: a column has two kinds of values ({error})"
            raise NotASet(message) from error
    return RowFile(path, schema, rows, lambda: in_batches(_lines(path), schema))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise NotASet(f"{path}:{number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise NotASet(f"{path}:{number} is not a JSON object")
            yield row


# Batches.


def parts(rows: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the rows in lists of `size`, the last one shorter."""
    rows = iter(rows)
    while part := list(islice(rows, size)):
        yield part


def in_batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield rows as batches with these columns; a column that a row does not have is null there."""
    import pyarrow as pa

    for part in parts(rows, BATCH):
        yield pa.RecordBatch.from_pylist(part, schema=schema)


def in_steps(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Divide the rows of batches into new batches of exactly `size` rows, the last one shorter."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        while sum(part.num_rows for part in held) >= size:
            table = pa.Table.from_batches(held)
            yield table.slice(0, size).combine_chunks().to_batches()[0]
            held = table.slice(size).to_batches()
    if any(part.num_rows for part in held):
        yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]


# Writing.


def write_parquet(path: str | Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches as one complete Parquet file, or none if an error occurs; return the number of rows."""
    rows = 0
    with parquet_writer(path, schema) as write:
        for batch in batches:
            write(batch)
            rows += batch.num_rows
    return rows


@contextlib.contextmanager
def parquet_writer(path: str | Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Yield a function that adds a batch to a new Parquet file, which appears if the block succeeds."""
    import pyarrow.parquet as pq

    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield writer.write_batch


# Worker processes.

_work: Callable[[Any], Any] | None = None


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int = 1) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order, from `workers` processes; 1 works in this process.

    Args:
        work: a picklable function, sent to each process once. Its exceptions are raised here.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    # Spawned, not forked: the parent may have Arrow's threads, and a fork inherits their locks.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(work,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_do, item))
            if len(waiting) >= PREFETCHED_PER_WORKER * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's processes wait for work even after their parent was killed.
    parent_process().join()
    os._exit(1)


def _do(item: Any) -> Any:
    return _work(item)
