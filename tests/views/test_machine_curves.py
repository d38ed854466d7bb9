"""The machine's curves hold what system.jsonl says, whichever machine wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1kit.runs import jsonl
from r1kit.views.figures import figure_alt, machine_panel, png


def curves(figure) -> dict[str, dict[str, list[float]]]:
    """Panel -> curve -> its values."""
    return {
        axes.get_title(loc="left").split(",")[0]: {
            drawn.get_label(): list(drawn.get_ydata())
            for drawn in axes.get_lines()
            if not drawn.get_label().startswith("_")
        }
        for axes in figure.axes
    }


def test_a_cpu_shows_how_busy_it_was_and_whose_memory_it_is(tmp_path: Path) -> None:
    """The first sample has no utilisation: psutil counts from the one before."""
    for row in (
        {"time": 100.0, "job_rss_bytes": 1e9, "memory_used": 2e9, "memory_total": 24e9, "cost": 0.001},
        {"time": 160.0, "job_rss_bytes": 1.5e9, "memory_used": 3e9, "memory_total": 24e9, "cpu": 98.0},
        {"time": 220.0, "job_rss_bytes": 1.2e9, "memory_used": 2.5e9, "memory_total": 24e9, "cpu": 99.0},
    ):
        jsonl.append(tmp_path / "system.jsonl", row)
    figure = machine_panel(tmp_path / "system.jsonl")
    assert curves(figure) == {
        "Utilisation": {"host utilisation": [98.0, 99.0]},
        "Memory": {"host memory": [2.0, 3.0, 2.5], "this job's memory": [1.0, 1.5, 1.2]},
    }
    assert list(figure.axes[1].get_lines()[0].get_xdata()) == [0.0, 1.0, 2.0]
    assert "This job's memory: 1.23 GB on average, at most 1.5." in figure_alt(figure)
    assert png(figure).startswith(b"\x89PNG")


def test_gpus_are_their_mean_and_a_band_and_one_that_says_nothing_is_left_out() -> None:
    rows = [
        {
            "time": 30.0 * i,
            "gpus": [
                {"index": 0, "utilisation": 100, "memory_used": 200e9, "power": 900, "temperature": 70 + i},
                {"index": 1, "utilisation": 60, "memory_used": 100e9, "temperature": 60 + i},
            ],
        }
        for i in range(3)
    ] + [{"time": 100.0, "gpu_error": "amd-smi took too long"}]
    figure = machine_panel(rows)
    found = curves(figure)
    assert found["Utilisation"] == {"GPUs (2), mean": [80.0, 80.0, 80.0]}
    assert found["Memory"] == {"GPUs (2), mean": [150.0, 150.0, 150.0]}
    assert found["Power"] == {"GPUs (1), mean": [900.0, 900.0, 900.0]}
    assert found["Temperature"] == {"GPUs (2), mean": [65.0, 66.0, 67.0]}
    assert "Temperature of the GPUs: 66 degrees Celsius on average, at most 72." in figure_alt(figure)


def test_a_job_without_a_sample_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows yet"):
        machine_panel(tmp_path / "system.jsonl")
