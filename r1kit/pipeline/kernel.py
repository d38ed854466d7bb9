"""Executing the cells of a notebook in a kernel, so that every end of it is told truthfully in the notebook.

papermill's own client marks a cell that timed out, or whose kernel died, `completed`; here the cell is
`failed`, those after it stay `pending`, and the reason stands in the cell and in the notebook's metadata.
Kernel and client talk through unix sockets, which need no network, not even a loopback interface.

Imported only when a notebook is executed: papermill takes seconds to import.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient

from r1kit.pipeline.engine import CellFailed, EngineError, Interrupted, KernelDied, Timeout
from r1kit.pipeline.record import Manager

PRINTED_LIMIT = (
    1_000_000  # characters of printed text that a cell keeps; a flood must not fill memory and disk
)
SOCKET_PATH_LIMIT = 60  # unix socket paths end at 107 bytes (104 on macOS), and zmq adds to ours
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INLINE = "module://matplotlib_inline.backend_inline"


class Client(PapermillNotebookClient):
    """nbclient with a limit on printed text."""

    def __init__(self, manager: Manager, **options: Any) -> None:
        super().__init__(manager, **options)
        self.printed: dict[int, int] = {}

    def process_message(self, message: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """As nbclient's; a cell's text beyond PRINTED_LIMIT is dropped, with one line that says so."""
        if message["msg_type"] == "stream":
            before = self.printed.get(cell_index, 0)
            self.printed[cell_index] = before + len(message["content"]["text"])
            if before > PRINTED_LIMIT:
                return None
            if self.printed[cell_index] > PRINTED_LIMIT:
                text = message["content"]["text"][: PRINTED_LIMIT - before]
                message["content"]["text"] = (
                    f"{text}\n[r1kit: more than {PRINTED_LIMIT:,} characters; cut here]\n"
                )
        return super().process_message(message, cell, cell_index)


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
    deadline = time.monotonic() + timeout if timeout else None

    async def work() -> None:
        with _sockets() as folder, _signals() as signals:
            kernel = AsyncKernelManager(
                kernel_name=kernel_name,
                transport="ipc",
                ip=f"{folder}/k",
                connection_file=f"{folder}/kernel.json",
            )
            client = Client(
                manager, km=kernel, startup_timeout=int(start_timeout), iopub_timeout=60, **options
            )
            client.reset_execution_trackers()
            starting = asyncio.ensure_future(_start(client, cwd, environment))
            try:
                await _unless(signals, starting, None)
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


async def _start(client: Client, cwd: str | None, environment: dict[str, str]) -> None:
    variables = {**os.environ, **environment}
    if variables.get("MPLBACKEND", "agg").lower() == "agg":  # figures would not appear in the notebook
        variables["MPLBACKEND"] = INLINE
    try:
        await client.async_start_new_kernel(env=variables, **({"cwd": cwd} if cwd else {}))
        await client.async_start_new_kernel_client()
        reply = await client.async_wait_for_reply(client.kc.kernel_info())
    except (RuntimeError, OSError, NoSuchKernel) as error:
        raise KernelDied(f"the kernel did not start: {error}") from error
    client.nb.metadata["language_info"] = reply["content"]["language_info"]


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
        failure = KernelDied(f"the kernel died in {where}{_cause_of_death(client)}", index)
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


@contextmanager
def _sockets() -> Iterator[Path]:
    """A private folder with a path short enough for unix sockets."""
    short = len(tempfile.gettempdir()) <= SOCKET_PATH_LIMIT
    folder = Path(tempfile.mkdtemp(prefix="r1kit-", dir=None if short else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first_line(cell: NotebookNode) -> str:
    return next((line.strip() for line in cell.source.splitlines() if line.strip()), "")[:60]


def _cause_of_death(client: Client) -> str:
    process = getattr(client.km.provisioner, "process", None)
    code = process.poll() if process else None
    if code is None:
        return ""
    if code == -signal.SIGKILL:
        return ": killed (SIGKILL), often by the system for lack of memory"
    return f": signal {signal.Signals(-code).name}" if code < 0 else f": it exited with code {code}"
