"""`r1kit run --on slurm` submits and follows; the exit code is the run's."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from r1kit.cli import main
from r1kit.pipeline import slurm as jobs
from r1kit.runs.folder import open_run

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_a_run_is_submitted_and_followed_to_its_end(slurm, site):
    command = ["run", "--on", "slurm", "--site", str(site), "--stages", "00", "--run-id", "first"]
    done = CliRunner().invoke(main.app, command)
    assert done.exit_code == 0, done.output
    job = open_run("first").manifest["slurm"]["job"]
    assert f"job {job}: running n" in done.output
    assert "00_environment  done" in done.output
    assert (open_run("first").path / "00_environment/result.json").exists()

    waiting = CliRunner().invoke(main.app, [*command[:-1], "second", "--detach", "--json"])
    second = open_run("second").manifest["slurm"]["job"]
    assert json.loads(waiting.output) == {"run_id": "second", "job": second}
    again = CliRunner().invoke(main.app, ["run", "--on", "slurm", "--resume", "second"])
    assert f"is already in the queue, as job {second}" in str(again.exception)
    gone = CliRunner().invoke(main.app, ["slurm", "cancel", "second"])
    assert gone.exit_code == 0, gone.output
    assert not jobs.state(second)
    assert "is not in the queue" in CliRunner().invoke(main.app, ["slurm", "cancel", "second"]).output
