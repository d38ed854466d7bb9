"""Executing the cells of a notebook one by one, so that every end of it is told truthfully in the notebook.

Imported only when a notebook is executed: papermill takes seconds to import.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from r1kit.pipeline.client import Client, cause_of_death, new_client, sockets, start
from r1kit.pipeline.notebook_errors import CellFailed, EngineError, Interrupted, KernelDied, Timeout
from r1kit.pipeline.record import Manager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_cells(
    manager: Manager,
    kernel_name: str,
    *,
    environment: dict[str, str],
    cwd: str | None,
    grace: float,
    start_timeout: float,
    cell_timeout: float | None = None,
    timeout: float | None = None,
    **options: Any,
) -> None:
    """Execute the manager's notebook in a new kernel; returns when every cell has completed.

    On SIGINT, SIGTERM, SIGHUP and on a timeout the running cell is interrupted and has `grace` seconds to end
    its work (a training job is stopped then, and saves a checkpoint); a second signal cuts that short.

    Raises:
        CellFailed, KernelDied, Timeout, Interrupted: after the notebook has been marked accordingly.
    """

    async def work() -> None:
        with sockets() as folder, _signals() as signals:
            client = new_client(manager, kernel_name, folder, start_timeout, **options)
            starting = asyncio.ensure_future(start(client, cwd, environment))
            try:
                await _unless(signals, starting, None)
                deadline = time.monotonic() + timeout if timeout else None
                for index in range(len(manager.nb.cells)):
                    await _run_cell(client, manager, index, signals, deadline, cell_timeout, grace)
            except BaseException as error:
                starting.cancel()
                client.shutdown_kernel = "graceful" if isinstance(error, CellFailed) else "immediate"
                raise
            finally:
                client.set_widgets_metadata()  # also after a death: what the widgets showed last
                with suppress(Exception):
                    await client._async_cleanup_kernel()

    try:
        _run(work)
    except (EngineError, Interrupted) as error:
        if error.cell_index is None:
            manager.failed(None, error)
        raise


async def _run_cell(
    client: Client,
    manager: Manager,
    index: int,
    signals: asyncio.Queue[str],
    deadline: float | None,
    cell_timeout: float | None,
    grace: float,
) -> None:
    cell = manager.nb.cells[index]
    manager.cell_start(cell, index)
    manager.tell(index, "running")
    limits = [cell_timeout, deadline - time.monotonic() if deadline else None]
    limit = min((max(value, 0.0) for value in limits if value is not None), default=None)
    where = f"cell {index} ({_first_line(cell)})"
    running = asyncio.ensure_future(client.async_execute_cell(cell, index))
    try:
        await _unless(signals, running, limit)
    except CellExecutionError as error:
        failure: EngineError | Interrupted = CellFailed(
            f"{where} failed: {error.ename}: {error.evalue}",
            index,
            error.ename,
            error.evalue,
            error.traceback,
        )
    except DeadKernelError:
        failure = KernelDied(f"the kernel died in {where}{cause_of_death(client)}", index)
    except TimeoutError:
        whose = "cell" if limit == cell_timeout else "notebook"
        failure = Timeout(f"{where} ran out of the {whose}'s time", index)
        await _interrupt(client, running, signals, grace)
    except Interrupted as caught:
        failure = Interrupted(caught.signal, f"{where} was interrupted by {caught.signal}", index)
        await _interrupt(client, running, signals, grace)
    except Exception as error:  # nbclient's own, such as lost output messages
        failure = EngineError(f"{where} failed: {type(error).__name__}: {error}", index)
    else:
        manager.cell_complete(cell, cell_index=index)
        manager.tell(index, "completed")
        return
    manager.failed(index, failure)
    raise failure


async def _interrupt(
    client: Client, running: asyncio.Future, signals: asyncio.Queue[str], grace: float
) -> None:
    """Interrupt the kernel and let the cell end its work: a KeyboardInterrupt in it stops the training."""
    with suppress(Exception, Interrupted):
        await client.km.interrupt_kernel()
        await _unless(signals, running, grace)
    running.cancel()
    with suppress(Exception, asyncio.CancelledError):
        await running


async def _unless(signals: asyncio.Queue[str], task: asyncio.Future, limit: float | None) -> None:
    """Await `task`, but not longer than `limit` seconds (TimeoutError) or a signal (Interrupted)."""
    caught = asyncio.ensure_future(signals.get())
    try:
        await asyncio.wait({task, caught}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if caught.done():
            raise Interrupted(caught.result(), f"interrupted by {caught.result()}")
        if not task.done():
            raise TimeoutError
        await task
    finally:
        caught.cancel()


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """asyncio.run, in a thread of its own where a loop is running already (inside a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work()).result()


@contextmanager
def _signals() -> Iterator[asyncio.Queue[str]]:
    """A queue of the names of signals received. SIGHUP stays ignored under nohup."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    loop, caught = asyncio.get_running_loop(), []
    for number in SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        with suppress(RuntimeError, ValueError):
            before = signal.getsignal(number)
            loop.add_signal_handler(number, queue.put_nowait, signal.Signals(number).name)
            caught.append((number, before))
    try:
        yield queue
    finally:
        for number, before in caught:
            loop.remove_signal_handler(number)
            signal.signal(number, before)


def _first_line(cell: NotebookNode) -> str:
    return next((line.strip() for line in cell.source.splitlines() if line.strip()), "")[:60]
