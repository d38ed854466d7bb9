"""Execute the cells of a notebook one by one, and record in the notebook how it ended.

`run_cells` starts a kernel, executes the cells and handles signals and timeouts; `Manager` records the status
of each cell; `AtomicHandler` saves the notebook. Differences from plain papermill:

- papermill marks a cell `completed` that timed out or lost its kernel. Here that cell is `failed`, later
  cells stay `pending`, and the reason is in the cell's outputs and in the notebook's metadata.
- Kernel and client talk through unix sockets in a private folder: they need no network, not even a loopback
  interface, and other users of a shared machine cannot connect.
- A running cell is interrupted and gets time to save its work; printed text is limited; saving is atomic.

Import this module only to execute a notebook: papermill takes seconds to import.
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
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.iorw import LocalHandler, papermill_io
from papermill.log import logger

from r1kit.pipeline.notebook_errors import CellFailed, EngineError, Interrupted, KernelDied, Timeout
from r1kit.runs.files import WriteFailed, write_text_atomic

PRINTED_LIMIT = 1_000_000  # characters that a cell may print, so that a flood fills neither memory nor disk
SOCKET_PATH_LIMIT = 60  # unix socket paths end at 107 bytes (104 on macOS), and zmq appends to ours
INLINE = "module://matplotlib_inline.backend_inline"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# Running the cells


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
    """Execute the manager's notebook in a new kernel; return when every cell has completed.

    SIGINT, SIGTERM, SIGHUP and timeouts interrupt the running cell, which then has `grace` seconds to finish
    (a training job saves a checkpoint and stops); a second signal ends this time at once.

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
                client.set_widgets_metadata()  # also after the kernel died: the last state of the widgets
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
    manager.report(index, "running")
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
        scope = "cell" if limit == cell_timeout else "notebook"
        failure = Timeout(f"{where} ran out of the {scope}'s time", index)
        await _interrupt(client, running, signals, grace)
    except Interrupted as caught:
        failure = Interrupted(caught.signal, f"{where} was interrupted by {caught.signal}", index)
        await _interrupt(client, running, signals, grace)
    except Exception as error:  # nbclient's own, such as lost output messages
        failure = EngineError(f"{where} failed: {type(error).__name__}: {error}", index)
    else:
        manager.cell_complete(cell, cell_index=index)
        manager.report(index, "completed")
        return
    manager.failed(index, failure)
    raise failure


async def _interrupt(
    client: Client, running: asyncio.Future, signals: asyncio.Queue[str], grace: float
) -> None:
    """Interrupt the kernel and wait for the cell: a KeyboardInterrupt in it stops the training."""
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
    """Call asyncio.run, in a separate thread if a loop is already running (inside a notebook)."""
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
    """Return a queue that gets the names of received signals. SIGHUP stays ignored under nohup."""
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


# The kernel and its client


class Client(PapermillNotebookClient):
    """nbclient with a limit on printed text."""

    def __init__(self, manager: Manager, **options: Any) -> None:
        super().__init__(manager, **options)
        self.printed: dict[int, int] = {}

    def process_message(self, message: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Process a kernel message; drop a cell's text beyond PRINTED_LIMIT, with a line that says so."""
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


def new_client(
    manager: Manager, kernel_name: str, folder: Path, start_timeout: float, **options: Any
) -> Client:
    """Return a client for the manager's notebook, with sockets in `folder` and no kernel yet."""
    kernel = AsyncKernelManager(
        kernel_name=kernel_name, transport="ipc", ip=f"{folder}/k", connection_file=f"{folder}/kernel.json"
    )
    # Much output may arrive long after the reply: nbclient's default of 4 s is too short on a busy machine.
    client = Client(manager, km=kernel, startup_timeout=int(start_timeout), iopub_timeout=60, **options)
    client.reset_execution_trackers()
    return client


async def start(client: Client, cwd: str | None, environment: dict[str, str]) -> None:
    """Start the client's kernel and wait until it answers.

    Raises:
        KernelDied: it does not answer.
    """
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    if variables.get("MPLBACKEND", "agg").lower() == "agg":  # figures would not appear in the notebook
        variables["MPLBACKEND"] = INLINE
    try:
        await client.async_start_new_kernel(env=variables, **({"cwd": cwd} if cwd else {}))
        await client.async_start_new_kernel_client()
        reply = await client.async_wait_for_reply(client.kc.kernel_info())
    except (RuntimeError, OSError, NoSuchKernel) as error:
        raise KernelDied(f"the kernel did not start: {error}") from error
    client.nb.metadata["language_info"] = reply["content"]["language_info"]


@contextmanager
def sockets() -> Iterator[Path]:
    """Make a private folder with a path short enough for unix sockets."""
    short = len(tempfile.gettempdir()) <= SOCKET_PATH_LIMIT
    folder = Path(tempfile.mkdtemp(prefix="r1kit-", dir=None if short else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cause_of_death(client: Client) -> str:
    """Return how the kernel ended, to append to a sentence; empty if unknown."""
    process = getattr(client.km.provisioner, "process", None)
    code = process.poll() if process else None
    if code is None:
        return ""
    if code == -signal.SIGKILL:
        return ": killed (SIGKILL), often by the system for lack of memory"
    return f": signal {signal.Signals(-code).name}" if code < 0 else f": it exited with code {code}"


# The record in the notebook


class Manager(NotebookExecutionManager):
    """papermill's record of an execution, but a cell without an error is not assumed to have completed."""

    def __init__(
        self, nb: NotebookNode, handler: AtomicHandler | None, on_cell: Callable | None, **options: Any
    ):
        super().__init__(nb, **options)
        self.handler, self.on_cell = handler, on_cell
        nb.metadata.papermill.pop("reason", None)  # of an earlier execution

    def save(self, **_: Any) -> None:
        """Save the notebook. A full disk does not stop the execution, but fails the last save."""
        try:
            super().save()
        except WriteFailed as error:
            if self.end_time is not None:
                raise
            logger.warning(str(error))

    def report(self, index: int, status: str) -> None:
        """Call `on_cell(index, number of cells, cell, status)`; status: running, completed or failed."""
        if self.on_cell is not None:
            self.on_cell(index, len(self.nb.cells), self.nb.cells[index], status)

    def failed(self, index: int | None, error: EngineError | Interrupted) -> None:
        """Record `error` in the notebook, and in the cell where it happened."""
        self.nb.metadata.papermill.update(exception=True, reason=str(error).partition("\n")[0])
        if index is None:
            return
        cell = self.nb.cells[index]
        self.cell_exception(cell, cell_index=index)
        if not isinstance(error, CellFailed) and cell.cell_type == "code":
            name = type(error).__name__
            cell.outputs.append(
                new_output("error", ename=name, evalue=str(error), traceback=[f"{name}: {error}"])
            )
        self.cell_complete(cell, cell_index=index)
        self.report(index, "failed")

    def notebook_complete(self, **_: Any) -> None:
        """Record the time and save: atomically, and signed, so that JupyterLab shows the widgets."""
        self.end_time = self.now()
        seconds = (self.end_time - self.start_time).total_seconds()
        self.nb.metadata.papermill.update(end_time=self.end_time.isoformat(), duration=seconds)
        self.cleanup_pbar()
        if self.handler is not None:
            self.handler.final = True
        self.save()


class AtomicHandler(LocalHandler):
    """Writes one output notebook atomically; under plain papermill too, which writes once more itself."""

    def __init__(self, cwd: str | None) -> None:
        super().__init__()
        self._cwd = cwd  # papermill's name for the base of relative paths
        self.final = False

    def write(self, buf: str, path: str) -> None:
        """Write `buf`; a finished notebook is signed as trusted, since this user has just executed it."""
        target = Path(self._cwd or "", path).absolute()
        if not target.parent.is_dir():
            raise FileNotFoundError(f"output folder {target.parent} doesn't exist.")
        write_text_atomic(target, buf)
        if self.final:
            try:
                import nbformat
                from nbformat.sign import NotebookNotary

                NotebookNotary().sign(nbformat.reads(buf, as_version=4))
            except Exception as error:  # a read-only home costs the widgets, not the run
                logger.warning("cannot sign %s: %s", path, error)

    @classmethod
    def register(cls, path: str | None) -> AtomicHandler | None:
        """Make papermill use a new handler for `path`; return None if the path is not on a local disk."""
        default = papermill_io.get_handler(path) if isinstance(path, str) else None
        if not isinstance(default, LocalHandler):
            return None
        handler = cls(default._cwd)
        papermill_io.register(path, handler)
        return handler
