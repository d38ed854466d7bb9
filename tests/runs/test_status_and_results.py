"""status.json, result.json and summary.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from r1kit.runs import results, status
from r1kit.runs.folder import create_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path))
    return create_run("cpu-tiny", argv=[], seeds={})


def entry(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "problems": 200, "samples": 4}


def finish(run, stage, **options):
    options = {"seconds": 2.0, "inputs_hash": "h", "peak_rss_bytes": 10} | options
    return results.write_result(run.stage(stage), stage=stage, **options)


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_an_update_keeps_the_other_fields(tmp_path):
    status.update(tmp_path, state="running", message="a")
    status.update(tmp_path, job={"returncode": 0})
    found = status.read(tmp_path)
    assert (found["state"], found["message"], found["job"]) == ("running", "a", {"returncode": 0})
    assert found["pid"] == os.getpid()
    assert found["updated"] >= found["started"]


def test_an_unknown_state_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of running, completed"):
        status.update(tmp_path, state="done")


def test_a_running_state_of_a_dead_process_reads_as_interrupted(tmp_path):
    pid = dead_pid()
    status.update(
        tmp_path, state="running", pid=pid, job={"state": "running", "pid": pid, "returncode": None}
    )
    found = status.read(tmp_path)
    assert found["state"] == "interrupted"
    assert str(pid) in found["message"]
    assert found["job"]["ended_by"] == "supervisor killed"


def test_a_result_is_there_only_when_all_it_claims_is_there(run):
    stage = run.stage("02_sft")
    with pytest.raises(FileNotFoundError, match="artifact 'model' of 02_sft does not exist"):
        finish(run, "02_sft", artifacts={"model": "model"})
    assert results.read_result(stage) is None
    (stage / "model").mkdir()
    written = finish(run, "02_sft", artifacts={"model": "model"}, metrics={"loss": 0.5})
    assert results.read_result(stage) == written
    assert status.read(stage)["state"] == "completed"


@pytest.mark.parametrize("value", ["0.5", True, [1, 2]])
def test_a_metric_must_be_a_number(run, value):
    with pytest.raises(ValueError, match="not a number"):
        finish(run, "02_sft", metrics={"loss": value})


def test_a_pass_rate_without_its_interval_is_refused(run):
    with pytest.raises(ValueError, match="low, high"):
        finish(run, "05_evaluation", pass_at_1={"sft": {"value": 0.5, "problems": 1, "samples": 1}})


def test_the_peak_is_the_largest_among_the_stages_jobs(run):
    stage = run.stage("04_grpo")
    status.update(stage, job={"peak_rss_bytes": 5})
    status.update(stage / "collapse", job={"peak_rss_bytes": 9})
    status.update(stage / "stale-1", job={"peak_rss_bytes": 99})
    assert finish(run, "04_grpo", peak_rss_bytes=None)["peak_rss_bytes"] == 9
    assert results.peak_rss(run.stage("00_environment")) == 0


def test_the_summary_has_exactly_the_contracts_fields(run):
    finish(run, "02_sft", metrics={"loss": 0.5})
    scores = {"grpo": entry(0.9), "base": entry(0.1), "sft": entry(0.5)}
    finish(run, "05_evaluation", pass_at_1=scores, seconds=3)
    summary = results.write_summary(run, "completed")
    assert json.loads((run.path / "summary.json").read_text()) == summary
    assert list(summary) == ["run_id", "profile", "pipeline", "status", "seconds", "stages", "pass@1"]
    assert summary["seconds"] == 5.0
    sft = {"status": "completed", "seconds": 2.0, "peak_rss_bytes": 10, "metrics": {"loss": 0.5}}
    assert summary["stages"]["02_sft"] == sft
    assert list(summary["pass@1"]) == ["base", "sft", "grpo"]
    assert set(summary["pass@1"]["base"]) == {"value", "low", "high", "problems", "samples"}


def test_checkpoints_with_other_names_keep_the_order_of_their_training(run):
    finish(run, "05_evaluation", pass_at_1={"zero": entry(0.1), "base": entry(0.2), "final": entry(0.9)})
    assert list(results.summarise(run, "completed")["pass@1"]) == ["zero", "base", "final"]


def test_an_unfinished_stage_is_told_as_it_is(run):
    finish(run, "01_data")
    status.update(run.stage("02_sft"), state="failed", message="x")
    status.update(run.stage("04_grpo"), state="completed")  # no result.json: it is not
    stages = results.write_summary(run, "failed")["stages"]
    assert {name: stage["status"] for name, stage in stages.items()} == {
        "01_data": "completed",
        "02_sft": "failed",
        "04_grpo": "failed",
    }


def test_a_live_run_is_running(run):
    status.update(run.stage("02_sft"), state="running")
    assert results.summarise(run)["status"] == "running"
