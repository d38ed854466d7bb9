"""The watchdog's words: who is overdue, who died, and whose fault comes first."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from r1kit.runs.outcome import ExitCode
from r1kit.training import watchdog
from r1kit.training.watchdog import Watchdog, write_exit_reason


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def sibling(job, pid: int, rank: int = 1, **fields: object) -> None:
    state = {"rank": rank, "pid": pid, "phase": "step", "step": 7, "since": time.time(), "bound": None}
    (job / "ranks").mkdir(exist_ok=True)
    content = {**state, "host": socket.gethostname(), **fields}
    (job / f"ranks/{rank}.json").write_text(json.dumps(content))


def test_a_phase_that_lasts_too_long_names_the_bound_and_the_siblings(tmp_path):
    dog = Watchdog(tmp_path, 0, 2, step_seconds=0.01)
    sibling(tmp_path, os.getppid(), phase="generate")
    dog.beat(3)
    time.sleep(0.05)
    reason = dog.overdue()
    assert "phase 'step' of step 3" in reason
    assert "step_seconds in machine.yaml allows 0.01" in reason
    assert "Process 1" in reason
    assert "in phase 'generate' of step 7" in reason


def test_work_with_a_bound_of_its_own_is_not_overdue_and_without_one_never(tmp_path):
    dog = Watchdog(tmp_path, step_seconds=0.01)
    with dog.phase("generate", 60):
        time.sleep(0.03)
        assert not dog.overdue()
    dog.finish()
    time.sleep(0.03)
    assert not dog.overdue()


def test_a_group_that_is_never_built_is_named_and_loading_the_model_after_it_has_no_bound(tmp_path):
    dog = Watchdog(tmp_path, step_seconds=1)
    with dog.phase("preflight", 20):
        dog.state["since"] -= 26
        assert "weight_sync.transport: file needs no group" in dog.overdue()
        assert "server.sync_seconds in machine.yaml allows 20" in dog.overdue()
    dog.state["since"] -= 3600
    assert not dog.overdue()


def test_rank_0_speaks_first(tmp_path):
    first, second = (Watchdog(tmp_path, rank, 2, step_seconds=10) for rank in (0, 1))
    for dog in (first, second):
        dog.beat(1)
        dog.state["since"] -= 11
    assert first.overdue()
    assert not second.overdue()


def test_a_sibling_that_died_without_a_word_is_the_first_cause(tmp_path, dead):
    sibling(tmp_path, dead)
    code, message = Watchdog(tmp_path, 0, 2).first_cause()
    assert code == ExitCode.HUNG
    assert f"Process 1 of the training (pid {dead}) died in phase 'step' of step 7" in message


def test_a_sibling_that_said_why_is_quoted(tmp_path, dead):
    sibling(tmp_path, dead, ended=3, message="OutOfMemoryError: 80 GB")
    assert Watchdog(tmp_path, 0, 2).first_cause() == (3, "OutOfMemoryError: 80 GB")
    assert not Watchdog(tmp_path, 0, 2).dead_sibling()


def test_a_sibling_on_another_machine_is_not_looked_up_here(tmp_path, dead, monkeypatch):
    monkeypatch.setattr(watchdog, "SIBLING_GRACE_SECONDS", 0.1)
    sibling(tmp_path, dead, host="elsewhere")
    assert Watchdog(tmp_path, 0, 2).first_cause() is None


def test_the_first_explanation_stays(tmp_path):
    write_exit_reason(tmp_path, 4, "the server died")
    write_exit_reason(tmp_path, 1, "connection reset by peer")
    assert json.loads((tmp_path / "exit.json").read_text())["message"] == "the server died"
