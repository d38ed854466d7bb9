"""The lesson as a reader has it: JupyterLab in a browser, Run All, a live training, Stop, Interrupt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

PROJECT = Path(__file__).parents[2]
PAINTED = "document.querySelector('.r1-dash img')?.naturalWidth > 300"
# Of the model: in the page an error looks like any other line on stderr.
ERROR = """[...window.jupyterapp.shell.currentWidget.content.model.cells].some(
    cell => cell.outputs?.toJSON().some(output => output.output_type === 'error'))"""
FITS = """[...document.querySelectorAll('.r1-dash, .r1-dash *, .r1-mirror, .r1-mirror img')].every(
    part => part.getBoundingClientRect().right <= document.querySelector('.jp-Notebook').clientWidth
        + document.querySelector('.jp-Notebook').getBoundingClientRect().left)"""


def watched(notebook):
    """The outputs of the watching cell in the saved file."""
    return notebook.saved().cells[1].outputs


def mirror(outputs):
    """The static picture in the saved outputs."""
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    return next(page for page in pages if "r1-mirror" in page)


@pytest.fixture
def running(open_notebook, lab, training, request):
    """A notebook that was run by Run All and watches a training that has done ten steps and waits."""
    notebook = open_notebook(lab.write(f"{request.node.name}.ipynb", training.cells))
    notebook.menu("Run", "Run All Cells")
    training.let_it_reach(10)
    notebook.wait_for_status("step 10/40")
    return notebook


def test_run_all_shows_a_training_live_and_leaves_a_picture_in_the_file(running, training):
    running.wait_until(PAINTED, "the plot")
    running.wait_until(FITS, "a dashboard that fits the notebook's width")
    training.let_it_reach(30)
    running.wait_for_status("step 30/40")
    training.let_it_reach(40)
    running.wait_for_end("completed in 0:20")
    running.wait_for_output("the cell after it")
    running.wait_until("document.querySelector('.r1-mirror[open] img')?.naturalWidth > 300", "the picture")
    running.wait_until(FITS, "a picture that fits the notebook's width")
    picture = mirror(watched(running))
    assert "completed in 0:20: step 40/40" in picture
    assert "at step 40." in picture
    assert 'src="data:image/png;base64,' in picture
    assert running.errors == []


def test_the_stop_button_ends_the_training_after_it_has_saved(running, training):
    running.page.locator(".r1-dash button", has_text="Stop").click()
    running.wait_for_end("stopped by you")
    running.wait_until(ERROR, "the error that ends Run All")
    training.wait_until_gone()
    assert training.checkpoints == ["checkpoint-10"]
    outputs = watched(running)
    assert "stopped by you" in mirror(outputs)
    assert [output.ename for output in outputs if output.output_type == "error"] == ["JobFailed"]


def test_interrupting_the_kernel_ends_the_training_after_it_has_saved(running, training):
    running.menu("Kernel", "Interrupt Kernel")
    running.wait_for_end("interrupted")
    running.wait_until(ERROR, "the error that ends Run All")
    training.wait_until_gone()
    assert training.checkpoints == ["checkpoint-10"]
    picture = mirror(watched(running))
    assert "interrupted" in picture
    assert "at step 10." in picture


def test_a_lesson_runs_by_run_all_to_its_last_cell(open_notebook, lab):
    file = Path(shutil.copy(PROJECT / "notebooks" / "00_environment.ipynb", lab.folder))
    notebook = open_notebook(file)
    notebook.menu("Run", "Run All Cells")
    prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')]"
    done = f"{prompts}.every(prompt => /\\[\\d+\\]/.test(prompt.innerText))"
    notebook.wait_until(f"{done} || {ERROR}", "every cell done")
    cells = [cell for cell in notebook.saved().cells if cell.cell_type == "code"]
    assert [out for cell in cells for out in cell.outputs if out.output_type == "error"] == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    (result,) = lab.runs.glob("*/00_environment/result.json")
    assert json.loads(result.read_text())["status"] == "completed"
