"""The supervisor samples its job's machine at little cost."""

from __future__ import annotations

import sys
import time

import pytest

from r1kit.runs import jsonl
from r1kit.runs.launch import supervise
from r1kit.runs.supervise import SAMPLE_SECONDS, sampling_pause


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
