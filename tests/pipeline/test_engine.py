"""The papermill engine tells the truth about every end of a notebook."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from r1kit.pipeline import engine
from r1kit.pipeline.notebook_errors import (
    CellFailed,
    EngineError,
    Interrupted,
    KernelDied,
    Timeout,
    UnknownParameter,
)

slow = pytest.mark.slow
pytestmark = pytest.mark.failures


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook with a parameters cell and the given cells; returns its path."""
    from nbformat import write
    from nbformat.v4 import new_code_cell, new_notebook

    def make(*cells, parameters="X = 0\nNAME: str = 'a=b'\nTABLE = {'k=v': 1}", kernel="python3"):
        first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
        spec = {"name": kernel, "display_name": "Python 3", "language": "python"}
        others = [new_code_cell(textwrap.dedent(cell).strip()) for cell in cells]
        write(new_notebook(cells=[first, *others], metadata={"kernelspec": spec}), tmp_path / "in.ipynb")
        return tmp_path / "in.ipynb"

    return make


@pytest.fixture
def run(notebook, tmp_path):
    """Write and execute a notebook; returns (the executed notebook, the error or None)."""

    def run(*cells, parameters=None, **options):
        path, output, caught = notebook(*cells), tmp_path / "out" / "out.ipynb", None
        try:
            engine.execute(path, output, parameters or {}, cwd=tmp_path, **options)
        except (EngineError, Interrupted) as error:
            caught = error
        return read(output), caught

    return run


def read(path):
    import nbformat

    return nbformat.read(path, 4)


def statuses(executed):
    known = [cell.metadata.get("papermill", {}).get("status") for cell in executed.cells]
    return [status for status in known if status]


def printed(executed):
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def papermill(path, output, *options, prefix=()):
    command = [
        *prefix,
        sys.executable,
        "-m",
        "papermill",
        "--engine",
        "r1kit",
        str(path),
        str(output),
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@slow
def test_values_reach_the_notebook_with_their_types(run):
    values = {"X": 1e-6, "NAME": "007", "TABLE": {"a": [1, 2.5, None, True]}}
    executed, error = run("print(repr((X, NAME, TABLE)))", parameters=values)
    assert error is None
    assert eval(printed(executed)) == (1e-6, "007", {"a": [1, 2.5, None, True]})
    assert statuses(executed) == ["completed"] * 3


@slow
def test_a_finished_notebook_is_signed_so_that_its_widgets_show(run):
    from nbformat.sign import NotebookNotary

    executed, _ = run("print(1)")
    assert NotebookNotary().check_signature(executed)


@slow
def test_the_kernel_gets_its_folder_its_variables_and_figures(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = "import os; print([os.getcwd(), os.environ['MINE'], os.environ['MPLBACKEND']])"
    executed, _ = run(code, environment={"MINE": "1"})
    folder, mine, backend = eval(printed(executed))
    assert (folder, mine) == (str(tmp_path), "1")
    assert "inline" in backend


@slow
def test_the_caller_hears_of_every_cell(run):
    heard = []
    run("1", "1/0", "2", on_cell=lambda index, total, cell, status: heard.append((index, total, status)))
    assert heard == [
        *[(0, 4, "running"), (0, 4, "completed"), (1, 4, "running"), (1, 4, "completed")],
        *[(2, 4, "running"), (2, 4, "failed")],
    ]


@slow
def test_a_cell_error_names_the_cell_and_leaves_the_rest_pending(run):
    executed, error = run("print('before')", "raise KeyError('nothing')", "print('after')")
    assert isinstance(error, CellFailed)
    assert (error.ename, error.evalue, error.cell_index) == ("KeyError", "'nothing'", 2)
    assert statuses(executed) == ["completed", "completed", "failed", "pending"]
    assert executed.metadata.papermill.exception is True
    assert "KeyError" in executed.metadata.papermill.reason
    assert printed(executed) == "before\n"


@slow
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; print('x', flush=True); os._exit(3)", "it exited with code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_a_dead_kernel_is_a_failure_and_says_how_it_died(run, code, words):
    executed, error = run(code, "print('after')")
    assert isinstance(error, KernelDied)
    assert words in str(error)
    assert statuses(executed) == ["completed", "failed", "pending"]
    assert executed.metadata.papermill.exception is True
    assert words in executed.metadata.papermill.reason
    assert executed.cells[1].outputs[-1].ename == "KernelDied"


@slow
def test_a_timeout_shows_where_the_cell_hung(run):
    executed, error = run("import time\ntime.sleep(600)", "print('after')", timeout=2.5)
    assert isinstance(error, Timeout)
    assert statuses(executed) == ["completed", "failed", "pending"]
    assert executed.metadata.papermill.exception is True
    names = [output.ename for output in executed.cells[1].outputs]
    assert names == ["KeyboardInterrupt", "Timeout"]
    traceback = "".join(executed.cells[1].outputs[0].traceback)
    assert "time.sleep(600)" in re.sub(r"\x1b\[\d+m", "", traceback)


@slow
def test_a_cell_that_ignores_its_interrupt_is_ended_all_the_same(run):
    stubborn = """
    import signal, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        time.sleep(1)
    """
    started = time.monotonic()
    executed, error = run(stubborn, timeout=2.5, grace=0.5)
    assert isinstance(error, Timeout)
    assert statuses(executed) == ["completed", "failed"]
    assert time.monotonic() - started < 20


@slow
def test_a_flood_of_output_is_cut_and_the_notebook_goes_on(run):
    executed, error = run("for n in range(40_000): print('x' * 100)", "print('after')")
    assert error is None
    assert "more than 1,000,000 characters; cut here" in printed(executed)
    assert printed(executed).endswith("after\n")
    assert len(printed(executed)) < 1_100_000


def test_an_unknown_parameter_starts_nothing_and_names_the_nearest(notebook, tmp_path):
    with pytest.raises(UnknownParameter, match=r"unknown notebook parameter 'NAMES'.*did you mean NAME"):
        engine.execute(notebook("1"), tmp_path / "out.ipynb", {"NAMES": 1, "TABLE": {}}, cwd=tmp_path)
    assert not (tmp_path / "out.ipynb").exists()


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no notebook .*none\.ipynb"):
        engine.execute(tmp_path / "none.ipynb", tmp_path / "out.ipynb", {}, cwd=tmp_path)


def test_a_kernel_that_cannot_start_is_told_as_such(notebook, tmp_path):
    with pytest.raises(KernelDied, match="did not start"):
        engine.execute(notebook("1", kernel="no-such-kernel"), tmp_path / "out.ipynb", {}, cwd=tmp_path)
    executed = read(tmp_path / "out.ipynb")
    assert executed.metadata.papermill.exception is True
    assert statuses(executed) == ["pending", "pending"]


@slow
def test_it_runs_inside_a_running_event_loop_too(notebook, tmp_path):
    import asyncio

    async def inside():
        engine.execute(notebook("print(1)"), tmp_path / "out.ipynb", {}, cwd=tmp_path)

    asyncio.run(inside())
    assert printed(read(tmp_path / "out.ipynb")) == "1\n"


@slow
def test_a_full_disk_on_the_way_ends_nothing_but_at_the_end_it_is_an_error(notebook, tmp_path, monkeypatch):
    from r1kit.pipeline import kernel
    from r1kit.runs.files import WriteFailed

    def full(path, text):
        raise WriteFailed(28, f"cannot write {path}: no space left on the disk")

    monkeypatch.setattr(kernel, "write_text_atomic", full)
    with pytest.raises(WriteFailed, match="no space left"):
        engine.execute(
            notebook(f"open({str(tmp_path / 'ran')!r}, 'w')"), tmp_path / "out.ipynb", {}, cwd=tmp_path
        )
    assert (tmp_path / "ran").exists()


@slow
def test_plain_papermill_runs_through_it(notebook, tmp_path):
    done = papermill(notebook("print(X + 1)"), tmp_path / "out.ipynb", "-p", "X", "1")
    log, _ = done.communicate(timeout=60)
    assert done.returncode == 0, log
    assert printed(read(tmp_path / "out.ipynb")) == "2\n"
    assert "without encryption" not in log


@slow
@pytest.mark.parametrize(("code", "returncode"), [("1/0", 1), ("import os; os._exit(1)", 138)])
def test_plain_papermill_ends_with_the_right_code(notebook, tmp_path, code, returncode):
    done = papermill(notebook(code, "print('after')"), tmp_path / "out.ipynb")
    done.communicate(timeout=60)
    assert done.returncode == returncode
    assert statuses(read(tmp_path / "out.ipynb")) == ["completed", "failed", "pending"]


@slow
def test_plain_papermill_refuses_an_unknown_parameter(notebook, tmp_path):
    done = papermill(notebook("1"), tmp_path / "out.ipynb", "-p", "NAMES", "1")
    log, _ = done.communicate(timeout=60)
    assert done.returncode == 1
    assert "did you mean NAME" in log
    assert not (tmp_path / "out.ipynb").exists()


@slow
@pytest.mark.parametrize(("number", "returncode"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_to_the_cell_and_told_in_the_notebook(notebook, tmp_path, number, returncode):
    up, cleaned = tmp_path / "up", tmp_path / "cleaned"
    cell = f"""
    import time
    try:
        open({str(up)!r}, "w")
        time.sleep(600)
    finally:
        open({str(cleaned)!r}, "w")
    """
    running = papermill(notebook(cell, "print('after')"), tmp_path / "out.ipynb", "--no-progress-bar")
    while not up.exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(number)
    running.communicate(timeout=30)
    assert running.returncode == returncode
    assert cleaned.exists()
    executed = read(tmp_path / "out.ipynb")
    assert statuses(executed) == ["completed", "failed", "pending"]
    assert executed.metadata.papermill.exception is True
    assert signal.Signals(number).name in executed.metadata.papermill.reason


@slow
def test_no_network_is_needed_not_even_a_loopback_interface(notebook, tmp_path):
    prefix = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("unshare is not permitted here")
    path = str(tmp_path / "two")
    code = f"import os; print(1); os.system('echo 2 > {path}'); print(open({path!r}).read())"
    done = papermill(notebook(code), tmp_path / "out.ipynb", prefix=prefix)
    log, _ = done.communicate(timeout=60)
    assert done.returncode == 0, log
    assert printed(read(tmp_path / "out.ipynb")).split() == ["1", "2"]


def test_importing_the_engine_loads_neither_papermill_nor_torch():
    code = "import sys, r1kit.pipeline.engine; print({'papermill', 'nbclient', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
