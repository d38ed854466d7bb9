"""What the executed notebook says about its own execution, and how it reaches the disk.

papermill's own record calls a cell `completed` that timed out or whose kernel died. Here that cell is
`failed`, those after it stay `pending`, and the reason stands in the cell and in the notebook's metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.engines import NotebookExecutionManager
from papermill.iorw import LocalHandler, papermill_io
from papermill.log import logger

from r1kit.pipeline.notebook_errors import CellFailed, EngineError, Interrupted
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
