"""A kernel and the client that talks to it.

They talk through unix sockets, which need no network, not even a loopback interface, and which nobody else
on a shared machine can reach.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient

from r1kit.pipeline.notebook_errors import KernelDied
from r1kit.pipeline.record import Manager

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
