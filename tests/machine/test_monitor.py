"""The machine is sampled while a job runs, cheaply, and a GPU tool that fails costs nothing but its rows."""

from __future__ import annotations

import json
import sys
import time

import pytest

from r1kit.machine import gpus
from r1kit.machine.gpus import Gpu, GpuToolError, Source
from r1kit.machine.resources import Monitor
from r1kit.runs import jsonl
from r1kit.runs.launch import supervise
from r1kit.runs.supervise import SAMPLE_SECONDS, sampling_pause


def test_a_reading_has_processor_and_memory_everywhere(tmp_path):
    monitor = Monitor(tmp_path)
    assert "cpu" not in monitor.read()  # a percentage needs a reading before
    row = monitor.read()
    assert 0 < row["memory_used"] < row["memory_total"]
    assert row["cpu"] >= 0
    assert "gpus" not in row


def test_a_reading_holds_what_a_gpu_says_and_leaves_out_what_it_does_not(monkeypatch):
    source = Source("tool", "AMD", lambda: [Gpu(0, "MI350X", utilisation=0, power=239.0)], list)
    monkeypatch.setattr(gpus, "find", lambda dev: (source, "tool"))
    row = Monitor().read()
    assert row["gpus"] == [{"index": 0, "utilisation": 0, "power": 239.0}]
    json.dumps(row)


def test_a_tool_that_keeps_failing_is_asked_three_times(monkeypatch):
    asked = []

    def read():
        asked.append(1)
        raise GpuToolError("Invalid platform")

    monkeypatch.setattr(gpus, "find", lambda dev: (Source("tool", "AMD", read, list), "tool"))
    monitor = Monitor()
    rows = [monitor.read() for _ in range(5)]
    assert [row.get("gpu_error") for row in rows] == ["Invalid platform"] * 3 + [None] * 2
    assert len(asked) == 3


@pytest.mark.parametrize(("cost", "seconds"), [(0.001, 5.0), (0.025, 5.0), (1.5, 300.0)])
def test_a_dear_source_is_asked_less_often(cost, seconds):
    assert sampling_pause(cost) == seconds
    assert cost / sampling_pause(cost) <= 0.005  # of one core


def test_the_supervisor_samples_its_job_at_little_cost(tmp_path):
    code = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.02)"
    job = supervise([sys.executable, "-c", code, str(tmp_path / "go")], tmp_path, name="waiting")
    deadline = time.monotonic() + 20
    while not jsonl.read(tmp_path / "system.jsonl"):
        assert time.monotonic() < deadline, job.log_tail()
        time.sleep(0.02)
    (tmp_path / "go").touch()
    job.wait()
    rows = jsonl.read(tmp_path / "system.jsonl")
    assert len(rows) == 2  # the first and the last: the job was shorter than a period
    assert all(row["cost"] < 0.01 * SAMPLE_SECONDS for row in rows)  # seconds; 0.001 on two quiet cores
    assert rows[0]["time"] <= rows[1]["time"]
    assert {"job_rss_bytes", "memory_used", "memory_total"} <= set(rows[1])
