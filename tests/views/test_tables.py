"""The tables at the end of a run."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from r1kit.evaluation import level_metrics
from r1kit.views.progress import print_summary

SUMMARY = {
    "run_id": "x",
    "status": "completed",
    "seconds": 312.4,
    "stages": {
        "02_sft": {"status": "completed", "seconds": 125.0, "peak_rss_bytes": 2**30, "metrics": {}},
        "05_evaluation": {"status": "completed", "seconds": 40.25, "peak_rss_bytes": 0, "metrics": {}},
    },
    "pass@1": {
        "base": {"value": 0.0512, "low": 0.03, "high": 0.08, "problems": 210, "samples": 840},
        "grpo": {"value": 0.9, "low": 0.87, "high": 0.93, "problems": 210, "samples": 840},
    },
}


@pytest.fixture
def summary():
    rows = pd.DataFrame(
        {
            "checkpoint": ["base", "base", "grpo", "grpo"],
            "level": ["1", "1-3"] * 2,
            "headline": [False, True] * 2,
            "pass@1": [0.1, 0.05, 0.98, 0.9],
            "pass@1 low": [0.06, 0.03, 0.95, 0.87],
            "pass@1 high": [0.15, 0.08, 0.99, 0.93],
            "greedy": [0.1, float("nan"), 1.0, 1.0],
            "greedy low": [0.0, float("nan"), 1.0, 1.0],
            "greedy high": [0.2, float("nan"), 1.0, 1.0],
        }
    )
    metrics = level_metrics(rows)
    assert metrics["pass@1/grpo/level_1-3"] == 0.9
    assert metrics["greedy/base/level_1/high"] == 0.2
    assert "greedy/base/level_1-3" not in metrics
    stages = SUMMARY["stages"] | {"05_evaluation": SUMMARY["stages"]["05_evaluation"] | {"metrics": metrics}}
    return SUMMARY | {"stages": stages}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_plain_tables_hold_intervals_per_level_seconds_per_stage_and_the_path(summary):
    out = io.StringIO()
    print_summary(summary, "runs/x", out)
    text = out.getvalue()
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "level 1" in lines["checkpoint"]
    assert "mean of 1-3" in lines["checkpoint"]
    assert "0.98 [0.95, 0.99]" in lines["grpo"]
    assert "0.90 [0.87, 0.93]" in lines["grpo"]
    assert "210 x 4" in lines["base"]
    assert "125.0" in lines["02_sft"]
    assert "1.00 GiB" in lines["02_sft"]
    assert text.splitlines()[-1] == "completed in 5:12: runs/x"


def test_a_terminal_gets_the_same_numbers(summary, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    out = Terminal()
    print_summary(summary, "runs/x", out)
    assert "0.98 [0.95, 0.99]" in out.getvalue()
    assert "125.0" in out.getvalue()


def test_a_run_without_an_evaluation_shows_its_stages_only():
    out = io.StringIO()
    print_summary(SUMMARY | {"pass@1": {}, "status": "failed"}, "runs/x", out)
    assert "pass@1" not in out.getvalue()
    assert "02_sft" in out.getvalue()
    assert "failed in" in out.getvalue()


def test_levels_without_intervals_show_their_value():
    metrics = {"pass@1/base/level_2": 0.25}
    stages = {"05_evaluation": {"status": "completed", "seconds": 1, "metrics": metrics}}
    out = io.StringIO()
    print_summary(SUMMARY | {"stages": stages}, "runs/x", out)
    assert "level 2" in out.getvalue()
    assert " 0.25 " in out.getvalue()
