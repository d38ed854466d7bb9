"""The terminal's lines while a stage runs, and the tables at the end of a run."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pandas as pd
import pytest

from r1kit.evaluation import level_metrics
from r1kit.runs import jsonl, status
from r1kit.views.progress import Progress, clock, describe, newest, print_summary


def wait_for(out: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in out.getvalue():
        assert time.monotonic() < deadline, out.getvalue()
        time.sleep(0.01)


def row(step: int, **more) -> dict:
    return {"step": step, "total_steps": 250, "loss": 1.234, "seconds_left": 70.2, **more}


@pytest.fixture
def out():
    return io.StringIO()


def test_a_row_reads_as_step_loss_and_time_left():
    assert describe(row(40)) == "step 40/250  loss 1.234  left 1:10"
    grpo = row(40, reward=0.5, **{"rewards/accuracy_reward/mean": 0.41})
    assert describe(grpo) == "step 40/250  reward 0.500  accuracy 0.410  left 1:10"
    assert describe({"step": 1, "total_steps": 2, "loss": None}) == "step 1/2"
    assert [clock(5), clock(3725)] == ["0:05", "1:02:05"]


def test_a_step_without_new_rollouts_keeps_the_last_reward():
    rows = [row(39, reward=0.5), row(40)]
    assert describe(newest(rows)) == "step 40/250  reward 0.500  left 1:10"


def test_lines_appear_while_the_stage_runs_and_the_end_is_told(tmp_path, out):
    progress = Progress(out, tick=0.01)
    progress.stage_started("02_sft", tmp_path, "starts at the beginning")
    jsonl.append(tmp_path / "metrics.jsonl", row(40))
    wait_for(out, "02_sft  step 40/250  loss 1.234  left 1:10\n")
    jsonl.append(tmp_path / "metrics.jsonl", row(250, seconds_left=0))
    wait_for(out, "step 250/250")  # the last step does not wait for the interval
    progress.stage_ended("02_sft", tmp_path)
    assert out.getvalue().splitlines()[0] == "02_sft  starts at the beginning"
    assert out.getvalue().endswith("02_sft  done in 0:00\n")


def test_many_rows_become_few_lines(tmp_path, out):
    progress = Progress(out, tick=0.005, interval=60)
    progress.stage_started("02_sft", tmp_path)
    for step in range(1, 101):
        jsonl.append(tmp_path / "metrics.jsonl", row(step))
    wait_for(out, "step")
    progress.stage_ended("02_sft", tmp_path)
    lines = [line for line in out.getvalue().splitlines() if "step" in line]
    assert len(lines) <= 2
    assert "step 100/250" in lines[-1]  # what was held back is said at the end


def test_rows_from_before_a_resume_are_not_repeated(tmp_path, out):
    jsonl.append(tmp_path / "metrics.jsonl", row(40))
    progress = Progress(out, tick=0.01)
    progress.stage_started("02_sft", tmp_path, "continues from its checkpoint at step 40")
    jsonl.append(tmp_path / "metrics.jsonl", row(50))
    wait_for(out, "step 50/250")
    progress.close()
    assert "step 40/250" not in out.getvalue()


def test_a_second_job_of_a_stage_is_named(tmp_path, out):
    (tmp_path / "collapse").mkdir()
    progress = Progress(out, tick=0.01)
    progress.stage_started("04_grpo", tmp_path)
    jsonl.append(tmp_path / "collapse" / "metrics.jsonl", row(3))
    wait_for(out, "04_grpo/collapse  step 3/250")
    progress.close()


def test_a_stage_without_metrics_shows_its_status_message(tmp_path, out):
    progress = Progress(out, tick=0.01)
    progress.stage_started("05_evaluation", tmp_path)
    status.update(tmp_path, state="running", message="sft: 200 of 840 answers")
    wait_for(out, "05_evaluation  sft: 200 of 840 answers\n")
    status.update(tmp_path, state="failed", message="out of memory")
    progress.stage_ended("05_evaluation", tmp_path, "out of memory")
    assert out.getvalue().count("out of memory") == 1


def test_a_failure_is_one_line_and_a_skipped_stage_says_so(tmp_path, out):
    progress = Progress(out)
    progress.stage_skipped("01_data", tmp_path)
    progress.stage_started("02_sft", tmp_path)
    progress.stage_ended("02_sft", tmp_path, "out of memory\nTraceback ...")
    assert "01_data  skipped" in out.getvalue()
    assert "02_sft  FAILED after 0:00: out of memory\n" in out.getvalue()
    assert "Traceback" not in out.getvalue()


def test_a_terminal_gets_one_line_that_is_rewritten(tmp_path, out):
    progress = Progress(out, tick=0.01, live=True)
    progress.stage_started("02_sft", tmp_path)
    jsonl.append(tmp_path / "metrics.jsonl", row(40))
    wait_for(out, "step 40/250")
    progress.stage_ended("02_sft", tmp_path)
    assert "done in" in out.getvalue()


def test_progress_and_tables_load_neither_pandas_nor_torch():
    code = (
        "import sys, r1kit.views.progress;"
        "print([m for m in ('pandas', 'torch', 'matplotlib', 'ipywidgets', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
