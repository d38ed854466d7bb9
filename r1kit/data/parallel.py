"""A function over many items on several cores, results in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PREFETCHED_PER_WORKER = 2
"""Items that are sent to the workers before a result is taken, per worker; it bounds memory."""

_work: Callable[[Any], Any] | None = None


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int = 1) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order, from `workers` processes; from this one for 1.

    Args:
        work: picklable; it is sent to each process once. What it raises is raised here.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    # Spawned, not forked: the parent may hold threads of Arrow's, and a fork inherits their locks.
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
    # A pool's processes wait for work for ever, even after their parent was killed.
    parent_process().join()
    os._exit(1)


def _do(item: Any) -> Any:
    return _work(item)
