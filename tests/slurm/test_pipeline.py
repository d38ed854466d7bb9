"""A pipeline as a batch job: out of time it goes back into the queue, cancelled it is submitted again, and
each time it goes on at the stage and step where it was.

Incident behind it: submitted again without --stages, a pipeline's run went through all lessons instead.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from r1kit.cli import main
from r1kit.pipeline import slurm as jobs
from r1kit.pipeline.open_run import new_run
from r1kit.runs.results import read_result

from ..failures import small_pipeline
from ..training.conftest import tokenizer as tokenizer  # a fixture
from ..training.conftest import world  # noqa: F401 - a fixture as well
from .conftest import processes_of

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture
def prepared(slurm, tmp_path, world):  # noqa: F811
    """A run of the small pipeline, its data stage done."""
    profile = small_pipeline.write_profile(tmp_path / "small")
    run, settings = new_run(str(profile), {}, "small", pipeline="small")
    small_pipeline.finish_data(run, settings, world)
    return run


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_pipeline_goes_on_after_a_requeue_and_after_a_cancel(slurm, site, prepared):
    submit = ["run", "--on", "slurm", "--site", str(site), "--resume", "small"]
    done = CliRunner().invoke(main.app, [*submit, "--stages", "01,06", "--detach", "--json"])
    job = json.loads(done.output)["job"]
    log = jobs.folder(prepared) / "job.log"

    def wait(condition, what):
        slurm.wait(condition, lambda: f"{what}:\n{log.read_text()}", 400)

    wait(lambda: small_pipeline.logged(prepared, "final") >= 1, "a step of the third stage")
    slurm.run("scancel", "--signal=USR1", "--batch", job)  # what Slurm sends before the time limit
    wait(lambda: jobs.state(job) == "PENDING", "a requeue")
    assert processes_of(prepared.path) == []
    slurm.run("scontrol", "update", f"jobid={job}", "starttime=now")
    wait(lambda: small_pipeline.logged(prepared, "sampled") >= 1, "a shard of the fourth stage")
    assert jobs.cancel(prepared, grace=60) == f"job {job} was asked to save and has ended"
    assert jobs.outcome(prepared)[0] == 143
    assert processes_of(prepared.path) == []

    again = CliRunner().invoke(main.app, submit)
    assert again.exit_code == 0, again.output
    text = log.read_text()
    assert "start 2 of job" in text
    assert "04_grpo" not in text
    folders = [prepared.path / "06_pipeline" / name for name in small_pipeline.NAMES]
    assert all(read_result(folder) for folder in folders)
    assert json.loads((prepared.path / "summary.json").read_text())["status"] == "completed"
    started = (folders[2] / "train.log").read_text().count("device: cpu")
    assert started == 2  # the third stage: once before the requeue, once after
