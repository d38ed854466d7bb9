"""The terminal's lines while a stage runs."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pytest

from r1kit.runs import jsonl, status
from r1kit.views.progress import Progress, clock, describe, newest


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
        "import sys, r1kit.views.progress, r1kit.views.progress;"
        "print([m for m in ('pandas', 'torch', 'matplotlib', 'ipywidgets', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
