"""Source notebooks are lessons that papermill runs: the rules that keep them so."""

import ast
from pathlib import Path

import nbformat
import pytest

from r1kit.settings.lessons import STAGES

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python_of(cell):
    """The cell's syntax tree; top-level await is allowed as in IPython."""
    return compile(cell.source, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_is_one_notebook_for_every_stage():
    assert [path.stem for path in NOTEBOOKS] == list(STAGES)


def test_it_is_valid_and_names_the_plain_python_kernel(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec["name"] == "python3"


def test_it_carries_no_outputs_counts_or_leftovers(notebook):
    assert "widgets" not in notebook.metadata
    assert "papermill" not in notebook.metadata
    for cell in code_cells(notebook):
        assert not cell.outputs
        assert cell.execution_count is None
        assert "papermill" not in cell.metadata


def test_it_has_one_parameters_cell_with_literals_only(notebook):
    tagged = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for statement in python_of(tagged[0]).body:
        assert isinstance(statement, ast.Assign), "only assignments"
        ast.literal_eval(statement.value)
        assert statement.targets[0].id.isupper()


def test_its_parameters_are_those_that_the_stage_declares(notebook):
    (tagged,) = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    names = [statement.targets[0].id for statement in python_of(tagged).body]
    (opening,) = [cell for cell in code_cells(notebook) if "open_stage(" in cell.source]
    stage_name = opening.source.split('open_stage("')[1].split('"')[0]
    assert names == ["PROFILE", "RUN_ID", *STAGES[stage_name].knobs]


def test_every_parameter_has_a_comment_that_says_what_it_does(notebook):
    (tagged,) = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert all("#" in line for line in tagged.source.splitlines() if "=" in line)


def test_the_cell_after_the_parameters_opens_the_stage(notebook):
    cells = code_cells(notebook)
    position = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    assert "r1kit.open_stage(" in cells[position + 1].source


def test_it_ends_by_recording_its_result(notebook):
    assert "run.finish(" in code_cells(notebook)[-1].source


def test_no_cell_calls_the_shell_or_uses_magics(notebook):
    for cell in code_cells(notebook):
        for line in cell.source.splitlines():
            assert not line.lstrip().startswith(("!", "%")), line


def test_no_cell_branches_on_a_test_mode(notebook):
    for cell in code_cells(notebook):
        for name in (node.id for node in ast.walk(python_of(cell)) if isinstance(node, ast.Name)):
            assert name.upper() not in {"TEST", "TESTING", "CI", "SMOKE", "FAST", "DEBUG"}
        assert "os.environ" not in cell.source


def test_functions_and_classes_live_in_the_package(notebook):
    for cell in code_cells(notebook):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in ast.walk(python_of(cell)) if isinstance(node, kinds)], cell.source


def test_cells_are_small(notebook):
    lengths = [
        len([line for line in cell.source.splitlines() if line.strip()]) for cell in code_cells(notebook)
    ]
    assert max(lengths) <= 14
    assert sorted(lengths)[len(lengths) // 2] <= 6


def test_it_opens_like_its_siblings(notebook):
    first = notebook.cells[0].source
    for heading in (
        "# ",
        "**You will learn**",
        "**Before this**",
        "**Time and memory**",
        "**It establishes**",
    ):
        assert heading in first


def test_text_surrounds_the_code(notebook):
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= 0.7 * len(code_cells(notebook))


def test_lines_fit_a_laptop_screen(notebook):
    for cell in code_cells(notebook):
        assert all(len(line) <= 110 for line in cell.source.splitlines())


def test_cell_ids_are_kept_and_unique(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
