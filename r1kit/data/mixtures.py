"""Which rows of a dataset are taken, and how often: a weight, a cap, and a seed.

open-r1 takes `int(rows * weight)` rows of the shuffled dataset, so a weight above 1 takes no more than all.
Here 2.5 takes each row twice and half of them a third time. Rows keep the dataset's order: trainers draw
them in random order themselves, and an order that follows from the source alone lets `prepare` go on where it
was killed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1kit.data.sources.opening import Opened

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class Drawn:
    """How often each row of a dataset is taken, int array [rows]; None takes the first `most` rows once."""

    copies: np.ndarray | None
    most: int | None

    @property
    def total(self) -> int | None:
        """Rows taken, copies counted; None for a stream of unknown length."""
        return int(self.copies.sum()) if self.copies is not None else self.most

    def of_batch(self, start: int, rows: int) -> np.ndarray:
        """Copies of the rows from `start` on, [rows]."""
        import numpy as np

        if self.copies is not None:
            return self.copies[start : start + rows]
        left = rows if self.most is None else max(0, min(rows, self.most - start))
        return (np.arange(rows) < left).astype(np.int64)

    def ends_before(self, start: int) -> bool:
        """Whether no row from `start` on is taken, so that reading can end."""
        if self.copies is not None:
            return not self.copies[start:].any()
        return self.most is not None and start >= self.most


def draw(opened: Opened, seed: int) -> Drawn:
    """The rows that `weight` and `most` of a dataset's entry take.

    Raises:
        ValueError: a weight for a stream that does not say how many rows it has.
    """
    import numpy as np

    entry = opened.entry
    if opened.rows is None:
        if entry.weight != 1:
            message = f"{opened.name}: a weight needs the number of rows, which this stream does not say"
            raise ValueError(f"{message}; write most: instead, or stream: false")
        return Drawn(None, entry.most)
    wanted = int(opened.rows * entry.weight)
    wanted = min(wanted, entry.most or wanted)
    copies = np.full(opened.rows, wanted // max(1, opened.rows), dtype=np.int64)
    rng = np.random.default_rng([seed, zlib.crc32(opened.name.encode())])
    copies[rng.permutation(opened.rows)[: wanted - int(copies.sum())]] += 1
    return Drawn(copies, None)


def drawn_batches(
    opened: Opened, drawn: Drawn, size: int
) -> Iterator[tuple[int, pa.RecordBatch, np.ndarray]]:
    """(first row, rows, copies of each) in steps of exactly `size` rows, those that are not taken included.

    Files cut their batches where they like; steps that follow from the row number alone are the same when a
    preparation goes on after a kill.
    """
    import pyarrow as pa

    start, waiting, held = 0, [], 0
    for batch in opened.read():
        waiting.append(batch)
        held += batch.num_rows
        while held >= size:
            table = pa.Table.from_batches(waiting)
            yield start, _one(table.slice(0, size)), drawn.of_batch(start, size)
            start, held = start + size, held - size
            waiting = table.slice(size).to_batches()
            if drawn.ends_before(start):
                return
    if held:
        yield start, _one(pa.Table.from_batches(waiting)), drawn.of_batch(start, held)


def _one(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]
