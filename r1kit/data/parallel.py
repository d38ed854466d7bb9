"""A function over the batches of a set on several cores, results in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

Result = TypeVar("Result")
Work = Callable[[list[dict[str, Any]]], Result]

AHEAD = 2
"""Batches a worker may be ahead of what is taken, so that memory stays bounded."""

_work: Work | None = None


def each_batch(work: Work, batches: Iterable[pa.RecordBatch], workers: int = 1) -> Iterator[Result]:
    """`work(rows)` for every batch, in order, in `workers` processes; in this one for 1.

    Args:
        work: picklable; it is sent to each process once. What it raises is raised here.
    """
    if workers <= 1:
        yield from (work(batch.to_pylist()) for batch in batches)
        return
    # Spawned, not forked: the parent may hold threads of Arrow's, and a fork inherits their locks.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(work,))
    waiting: deque[Future[Result]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(_do, batch))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(work: Work) -> None:
    global _work
    _work = work
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's processes wait for work for ever, even when nobody is left to give it.
    parent_process().join()
    os._exit(1)


def _do(batch: pa.RecordBatch) -> Any:
    return _work(batch.to_pylist())
