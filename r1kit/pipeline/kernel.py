"""Executing the cells of a notebook one by one, so that every end of it is told truthfully in the notebook.

Imported only when a notebook is executed: papermill takes seconds to import.

What the executed notebook says about its own execution, and how it reaches the disk.

papermill's own record calls a cell `completed` that timed out or whose kernel died. Here that cell is
`failed`, those after it stay `pending`, and the reason stands in the cell and in the notebook's metadata.

A kernel and the client that talks to it.

They talk through unix sockets, which need no network, not even a loopback interface, and which nobody else
on a shared machine can reach.
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


class Manager(NotebookExecutionManager):
    """papermill's record keeping, less its assumption that what was not seen to fail has completed."""

    def __init__(
        self, nb: NotebookNode, handler: AtomicHandler | None, on_cell: Callable | None, **options: Any
    ):
        super().__init__(nb, **options)
        self.handler, self.on_cell = handler, on_cell
        nb.metadata.papermill.pop("reason", None)  # of an earlier execution

    def save(self, **_: Any) -> None:
        """Save what there is. A full disk on the way does not end the work; at the end it is an error."""
        try:
            super().save()
        except WriteFailed as error:
            if self.end_time is not None:
                raise
            logger.warning(str(error))

    def tell(self, index: int, status: str) -> None:
        """Report to `on_cell(index, cells in all, cell, status)`; status: running, completed or failed."""
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
        self.tell(index, "failed")

    def notebook_complete(self, **_: Any) -> None:
        """Note the time and save: atomically, and signed, so that JupyterLab shows the widgets."""
        self.end_time = self.now()
        took = (self.end_time - self.start_time).total_seconds()
        self.nb.metadata.papermill.update(end_time=self.end_time.isoformat(), duration=took)
        self.cleanup_pbar()
        if self.handler is not None:
            self.handler.final = True
        self.save()


class AtomicHandler(LocalHandler):
    """Writes one output notebook all or nothing; under plain papermill too, which writes once more itself."""

    def __init__(self, cwd: str | None) -> None:
        super().__init__()
        self._cwd = cwd  # papermill's word for: where relative paths start
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
            except Exception as error:  # a home that cannot be written costs the widgets, not the run
                logger.warning("cannot sign %s: %s", path, error)

    @classmethod
    def register(cls, path: str | None) -> AtomicHandler | None:
        """Have papermill use a new one for `path`; None if papermill would not write that to a local disk."""
        usual = papermill_io.get_handler(path) if isinstance(path, str) else None
        if not isinstance(usual, LocalHandler):
            return None
        handler = cls(usual._cwd)
        papermill_io.register(path, handler)
        return handler


PRINTED_LIMIT = 1_000_000  # characters that a cell may print; a flood must not fill memory and disk
SOCKET_PATH_LIMIT = 60  # unix socket paths end at 107 bytes (104 on macOS), and zmq adds to ours
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


def new_client(
    manager: Manager, kernel_name: str, folder: Path, start_timeout: float, **options: Any
) -> Client:
    """A client for the manager's notebook, its kernel not yet started, its sockets in `folder`."""
    kernel = AsyncKernelManager(
        kernel_name=kernel_name, transport="ipc", ip=f"{folder}/k", connection_file=f"{folder}/kernel.json"
    )
    # A flood of output may lag far behind the reply: nbclient's own 4 s are too short on a busy machine.
    client = Client(manager, km=kernel, startup_timeout=int(start_timeout), iopub_timeout=60, **options)
    client.reset_execution_trackers()
    return client


async def start(client: Client, cwd: str | None, environment: dict[str, str]) -> None:
    """Start the client's kernel and wait until it answers.

    Raises:
        KernelDied: it does not.
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
    """A private folder with a path short enough for unix sockets."""
    short = len(tempfile.gettempdir()) <= SOCKET_PATH_LIMIT
    folder = Path(tempfile.mkdtemp(prefix="r1kit-", dir=None if short else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cause_of_death(client: Client) -> str:
    """How the kernel ended, to be put after a sentence; empty if nobody knows."""
    process = getattr(client.km.provisioner, "process", None)
    code = process.poll() if process else None
    if code is None:
        return ""
    if code == -signal.SIGKILL:
        return ": killed (SIGKILL), often by the system for lack of memory"
    return f": signal {signal.Signals(-code).name}" if code < 0 else f": it exited with code {code}"


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
