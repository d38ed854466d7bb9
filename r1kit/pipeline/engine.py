"""The papermill engine "r1kit", and `execute`, which runs a notebook through it and raises typed errors.

It also works with plain papermill: `papermill --engine r1kit in.ipynb out.ipynb -p PROFILE cpu-tiny`. The
exit code is then 1 for a failed cell, a timeout or a wrong parameter, 138 for a dead kernel, 130 after SIGINT
and 143 after SIGTERM.

papermill loads this module whenever it is imported itself, so this module imports papermill and other heavy
libraries only inside functions.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r1kit.pipeline.notebook_errors import CellFailed, KernelDied, UnknownParameter


class Engine:
    """The engine for papermill. It has no base class: papermill is half imported when it loads this."""

    @classmethod
    def execute_notebook(
        cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any
    ) -> Any:
        """Execute `nb` in place and return it; papermill itself reports a failed cell.

        Raises:
            UnknownParameter: before anything has started.
            DeadKernelError: papermill's command turns this error into exit code 138.
            Timeout, Interrupted: the output notebook records them too.
        """
        from nbclient.exceptions import DeadKernelError

        check_parameters(nb, nb.metadata.papermill.get("parameters", {}))
        try:
            return _execute(nb, kernel_name, output_path, **options)
        except CellFailed:
            return nb
        except KernelDied as error:
            raise DeadKernelError(str(error)) from error

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """Return the kernel name: `name`, else the notebook's."""
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """Return the language: `language`, else the notebook's."""
        from papermill.utils import nb_language

        return nb_language(nb, language)


def execute(
    notebook: str | Path,
    output: str | Path,
    parameters: Mapping[str, Any],
    *,
    cwd: str | Path,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    on_cell: Callable[[int, int, Any, str], None] | None = None,
    grace: float = 30.0,
) -> None:
    """Run a notebook with parameters and save the executed copy, also after a failure.

    Args:
        parameters: values by name; the notebook gets them with their types.
        cwd: the kernel's working folder.
        timeout: seconds for all cells together.
        environment: variables of the kernel, added to this process's.
        on_cell: called with (index, number of cells, cell, "running" | "completed" | "failed").
        grace: seconds that an interrupted cell has to finish.

    Raises:
        UnknownParameter: nothing was started, nothing written.
        CellFailed, KernelDied, Timeout, Interrupted: the output notebook records them too.
        FileNotFoundError: the notebook does not exist.
        WriteFailed: the output cannot be written.
    """
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import prepare_notebook_metadata, raise_for_execution_errors, remove_error_markers
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source, target = Path(notebook).resolve(), Path(output).resolve()
    if not source.is_file():
        raise FileNotFoundError(f"there is no notebook {source}")
    target.parent.mkdir(parents=True, exist_ok=True)
    papermill_engines.register("r1kit", Engine)  # in case the package is used without being installed
    nb = load_notebook_node(str(source))
    check_parameters(nb, parameters)
    if parameters:
        nb = parameterize_notebook(nb, dict(parameters), engine_name="r1kit")
    nb = remove_error_markers(prepare_notebook_metadata(nb, str(source), str(target)))
    try:
        _execute(
            nb,
            Engine.nb_kernel_name(nb),
            str(target),
            progress_bar=False,
            cwd=str(cwd),
            timeout=timeout,
            environment=dict(environment or {}),
            on_cell=on_cell,
            grace=grace,
        )
    except CellFailed:
        with contextlib.suppress(PapermillExecutionError):
            # Writes papermill's link from the top of the notebook to the failed cell.
            raise_for_execution_errors(nb, str(target))
        raise


def check_parameters(nb: Any, parameters: Mapping[str, Any]) -> None:
    """Compare the names of parameters with those assigned in the cell tagged `parameters`.

    papermill itself only warns, and its line-by-line search misses names whose default contains `=`.

    Raises:
        UnknownParameter: naming each unknown one, what is known, and the nearest.
    """
    cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    known = [name for cell in cells for name in _assigned(cell.source)]
    problems = []
    for name in parameters:
        if name not in known:
            from r1kit.settings.errors import nearest_name

            near = nearest_name(name, known)
            hint = f"; did you mean {near}?" if near else ""
            problems.append(f"unknown notebook parameter {name!r}; known: {', '.join(known) or 'none'}{hint}")
    if problems:
        raise UnknownParameter("\n".join(problems))


def _execute(
    nb: Any,
    kernel_name: str,
    output_path: str | None,
    *,
    progress_bar: bool | dict = True,
    log_output: bool = False,
    autosave_cell_every: int = 30,
    execution_timeout: float | None = None,
    timeout: float | None = None,
    cwd: str | None = None,
    environment: dict[str, str] | None = None,
    on_cell: Callable | None = None,
    start_timeout: float = 60,
    grace: float = 30.0,
    stdout_file: Any = None,
    stderr_file: Any = None,
    **_unused: Any,
) -> Any:
    from r1kit.pipeline.kernel import AtomicHandler, Manager, run_cells

    options = {"output_path": output_path, "log_output": log_output, "progress_bar": progress_bar}
    handler = AtomicHandler.register(output_path)
    manager = Manager(nb, handler, on_cell, autosave_cell_every=autosave_cell_every, **options)
    manager.notebook_start()
    try:
        run_cells(
            manager,
            kernel_name,
            environment=environment or {},
            cwd=cwd,
            grace=grace,
            start_timeout=start_timeout,
            cell_timeout=execution_timeout,
            timeout=timeout,
            log_output=log_output,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
        )
    finally:
        manager.notebook_complete()
    return nb


def _assigned(source: str) -> list[str]:
    names: list[str] = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
