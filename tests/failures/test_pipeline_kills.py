"""kill -9 in the middle of a pipeline, five times: the table and the weights are those of an unbroken run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from r1kit.pipeline import open_run
from r1kit.runs.folder import Run
from r1kit.runs.results import read_result
from tests.failures import small_pipeline
from tests.failures.cluster import ROOT
from tests.failures.small_pipeline import NAMES, logged, workers

pytestmark = [pytest.mark.failures, pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]

KILLED = [name for name in NAMES if name != "union"]  # whose one row is written at its end


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return small_pipeline.write_profile(tmp_path_factory.mktemp("profiles") / "small")


@pytest.fixture
def new_run(profile, plain_world, tmp_path_factory, monkeypatch):
    """A run in a runs folder of its own, its data stage done."""

    def make(name: str) -> Run:
        monkeypatch.setenv("R1KIT_RUNS", str(tmp_path_factory.mktemp(name)))
        run, settings = open_run.new_run(str(profile), {}, name, pipeline="small")
        small_pipeline.finish_data(run, settings, plain_world)
        return run

    return make


def go_on(profile, run: Run, *death: str) -> int:
    """Run the pipeline, to its end or to its death; the exit code.

    Nothing of it is left running then, except where a notebook died alone: its training is saving, and what
    goes on next has to wait for it.
    """
    known = {"OMP_NUM_THREADS": "1", "R1KIT_RUNS": str(run.path.parent), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", small_pipeline.__name__, str(profile), run.run_id, *death]
    with open(run.path / "out.txt", "ab") as out:
        code = subprocess.run(
            command, env=os.environ | known, stdout=out, stderr=out, start_new_session=True
        ).returncode
    deadline = time.monotonic() + (0 if "notebook" in death else 120)
    while (left := workers(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left or "notebook" in death, f"what is left of a pipeline: {left}"
    return code


def said(run: Run) -> str:
    return (run.path / "out.txt").read_text()[-3000:]


def content(run: Run) -> dict:
    return {name: read_result(run.path / "06_pipeline" / name)["origin"]["content"] for name in NAMES}


def test_five_kills_leave_no_mark_on_the_table_or_the_weights(profile, new_run):
    whole = new_run("whole")
    assert go_on(profile, whole) == 0, said(whole)
    made = content(whole)
    assert made["cold"]["model"] != made["final"]["model"], "or nothing was trained"

    broken, draw = new_run("broken"), random.Random(0)
    for number, stage in enumerate(KILLED):
        place = str(draw.randint(3, logged(whole, stage)))  # a training has a checkpoint by then
        how = ("all", "notebook")[number % 2]  # of `all`, nobody is left who could save anything
        assert go_on(profile, broken, stage, place, how) == -signal.SIGKILL, said(broken)
    assert go_on(profile, broken) == 0, said(broken)

    for training in ("cold", "final"):
        assert "resuming from step" in (broken.path / "06_pipeline" / training / "train.log").read_text()
    assert content(broken) == made
    tables = [json.loads((run.path / "summary.json").read_text())["pass@1"] for run in (whole, broken)]
    assert tables[0] == tables[1]
