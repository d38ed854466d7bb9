"""A notebook run by plain papermill, with nothing before it."""

import nbformat
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_notebook_alone_runs_first_what_it_needs(runs, short_profile, tmp_path):
    """No other run has these settings, so the data must be made, and the cell says so while it happens."""
    output = tmp_path / "out.ipynb"
    own = type(runs)(tmp_path / "runs")
    done = own.papermill("notebooks/02_sft.ipynb", str(output), "-p", "PROFILE", str(short_profile))
    assert done.returncode == 0, done.stderr[-3000:]
    text = output.read_text()
    assert "01_data has not been run with these settings: running it first" in text
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "01_data" / "result.json").is_file()
    assert (run / "02_sft" / "model" / "model.safetensors").is_file()
    cells = [cell for cell in nbformat.read(output, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
