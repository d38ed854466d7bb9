"""Errors of a notebook's execution.

They are a separate module because papermill loads `engine` while it is only half imported itself, and
`kernel` imports papermill.
"""

from __future__ import annotations

import signal as signals


class EngineError(RuntimeError):
    """A notebook did not run to its end. `cell_index` counts from 0; None if no cell failed."""

    def __init__(self, message: str, cell_index: int | None = None) -> None:
        super().__init__(message)
        self.cell_index = cell_index


class UnknownParameter(EngineError):
    """A parameter is not in the notebook's parameters cell; nothing was started."""


class CellFailed(EngineError):
    """A cell raised: `ename` and `evalue` as in Jupyter's protocol, `traceback` as text with colour codes."""

    def __init__(self, message: str, cell_index: int, ename: str, evalue: str, traceback: str = "") -> None:
        super().__init__(message, cell_index)
        self.ename, self.evalue, self.traceback = ename, evalue, traceback


class KernelDied(EngineError):
    """The kernel ended during a cell, or did not start."""


class Timeout(EngineError):
    """A cell or the notebook ran longer than allowed."""


class Interrupted(SystemExit):
    """SIGINT, SIGTERM or SIGHUP (its name is `signal`). Uncaught, it ends the program with 128 + number."""

    def __init__(self, signal: str, message: str, cell_index: int | None = None) -> None:
        super().__init__(message)
        self.signal, self.cell_index = signal, cell_index
        self.code = 128 + signals.Signals[signal]
