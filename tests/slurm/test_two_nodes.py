"""Trainings over two real Slurm nodes: one gradient, a requeue in the middle, nothing left behind.

Incidents behind it: open-r1's train.slurm expands $SLURM_PROCID once, in the batch script, so every machine
believes to be the first; `accelerate launch` cannot start CPU processes on two machines (1.15); srun kills
its tasks when it gets SIGTERM itself, so that a checkpoint at the time limit would never be written.
"""

from __future__ import annotations

import json
import shlex
import sys

import pytest
import torch
from safetensors.torch import load_file

from r1kit.pipeline import slurm as jobs

from ..failures.conftest import STUBBORN
from ..training.conftest import finish, rows, world, write_job  # noqa: F401 - world is a fixture
from ..training.conftest import tokenizer as tokenizer  # a fixture as well
from .conftest import processes_of, replace_command

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

STEPS = 150
SFT = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "max_length": 96,
    "max_steps": STEPS,
    "save_steps": 1000,
    "logging_steps": 1,
    "assistant_only_loss": True,
    "gradient_checkpointing": False,
    "bf16": False,
    "dataloader_drop_last": True,
}


def test_two_nodes_train_as_one_through_a_requeue(slurm, submit, world, tmp_path):  # noqa: F811
    alone = write_job(tmp_path / "alone", world, sft=SFT | {"per_device_train_batch_size": 8})
    folder = write_job(tmp_path / "both", world, sft=SFT | {"per_device_train_batch_size": 4})
    run, job = submit("r1kit.training.sft", folder)
    log = jobs.folder(run) / "job.log"
    slurm.wait(lambda: len(rows(folder)) >= 5, lambda: f"five steps:\n{log.read_text()}", 120)

    slurm.run("scancel", "--signal=USR1", "--batch", job)  # what Slurm sends before the time limit
    slurm.wait(lambda: jobs.state(job) == "PENDING", lambda: f"a requeue:\n{log.read_text()}", 60)
    assert processes_of(folder) == []
    (checkpoint,) = (folder / "checkpoints").iterdir()
    stopped_at = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 5 <= stopped_at < STEPS
    assert (checkpoint / "complete.json").exists()
    assert not (jobs.folder(run) / "exit.json").exists()

    finish("sft", alone)  # meanwhile; Slurm waits two minutes before it starts a requeued job
    slurm.run("scontrol", "update", f"jobid={job}", "starttime=now")
    slurm.wait(lambda: not jobs.state(job), lambda: f"the end:\n{log.read_text()}", 120)
    assert jobs.outcome(run) == (0, ""), log.read_text()
    assert f"resuming from step {stopped_at}" in (folder / "train.log").read_text()
    assert "start 2 of job" in log.read_text()

    one, both = rows(alone), rows(folder)
    assert [row["step"] for row in both] == list(range(1, STEPS + 1))
    for name in (
        "loss",
        "grad_norm",
    ):  # half the batch on each node: without a common gradient neither is equal
        assert both[0][name] == pytest.approx(one[0][name], rel=1e-4)
        assert both[-1][name] == pytest.approx(one[-1][name], rel=0.05)
    first, second = (load_file(path / "model" / "model.safetensors") for path in (alone, folder))
    assert all(torch.allclose(first[name], second[name], atol=2e-3) for name in first)
    assert processes_of(folder) == []


def test_a_cancelled_step_that_refuses_to_end_leaves_no_orphan_on_either_node(
    slurm, submit, tmp_path, monkeypatch
):
    folder, modules = tmp_path / "job", tmp_path / "modules"
    folder.mkdir()
    modules.mkdir()
    (folder / "resolved.yaml").write_text("profile: none\n")
    (modules / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    run, job = submit("stubborn", folder, grace=5.0)
    log = folder / "train.log"
    slurm.wait(lambda: log.exists() and log.read_text().count("up") >= 2, "both ranks are up", 60)
    assert len(processes_of(folder)) >= 8  # on each node the rank and the three that ran away from it
    assert jobs.cancel(run, grace=5.0) == f"job {job} was asked to save and has ended"
    assert jobs.outcome(run)[0] == 143
    slurm.wait(lambda: not processes_of(folder), lambda: f"still there: {processes_of(folder)}")


SERVER = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: ((folder / "ended").touch(), sys.exit(0)))
(folder / "serving").write_text(os.environ["SLURMD_NODENAME"])
time.sleep(600)
"""
TRAINER = """
import os, pathlib, subprocess, sys, time
from r1kit.runs import nodes
folder = pathlib.Path(sys.argv[1])
server = subprocess.Popen(nodes.serving_step([sys.executable, "-c", sys.argv[2], str(folder)], folder, 20.0))
while not (folder / "serving").exists():
    time.sleep(0.05)
(folder / "training").write_text(os.environ["SLURMD_NODENAME"])
server.terminate()
sys.exit(server.wait())
"""


def test_a_server_runs_on_the_last_node_beside_the_trainer_and_ends_in_order(slurm, site, tmp_path):
    from r1kit.pipeline.open_run import new_run
    from r1kit.settings.machine import load_site

    site.write_text(site.read_text() + "server_nodes: 1\n")
    run, settings = new_run("cpu-tiny", {})
    script = jobs.render(run, settings, ["02_sft"], load_site(str(site)))
    command = shlex.join([sys.executable, "-c", TRAINER, str(tmp_path), SERVER])
    job = jobs.submit(run, replace_command(script, command))
    log = jobs.folder(run) / "job.log"
    slurm.wait(lambda: not jobs.state(job), lambda: f"the end:\n{log.read_text()}", 60)
    assert jobs.outcome(run) == (0, ""), log.read_text()
    assert (tmp_path / "training").read_text() == "n1"
    assert (tmp_path / "serving").read_text() == "n2"
    assert (tmp_path / "ended").exists()


GRPO = {
    "rewards": [{"name": "cosine", "weight": 1.0}],  # an untrained model's differ where one ends by chance
    "learning_rate": 3e-3,
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "max_completion_length": 64,
    "max_steps": 3,
    "save_steps": 100,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
}
ZERO_2 = {
    "base.alone": True,  # Muon, whose matrices DeepSpeed would cut up
    "sft.alone": True,
    "accelerate.distributed_type": "DEEPSPEED",
    "accelerate.deepspeed_config": {
        "zero_stage": 2,
        "gradient_accumulation_steps": 1,
        "offload_optimizer_device": "none",
        "offload_param_device": "none",
        "zero3_init_flag": False,
    },
}


@pytest.mark.parametrize("engine", [pytest.param("DDP", marks=pytest.mark.nightly), "DeepSpeed"])
def test_grpo_trains_on_two_nodes(slurm, submit, world, tmp_path, engine):  # noqa: F811
    """Two groups of four, one on each node; ZeRO-2 keeps half of the optimizer's state on each."""
    if engine == "DeepSpeed":
        pytest.importorskip("deepspeed", reason="make setup-cluster")
    folder = write_job(tmp_path / "job", world, grpo=GRPO)
    run, job = submit("r1kit.training.grpo", folder, **(ZERO_2 if engine == "DeepSpeed" else {}))
    log = jobs.folder(run) / "job.log"
    slurm.wait(lambda: not jobs.state(job), lambda: f"the end:\n{log.read_text()}", 300)
    assert jobs.outcome(run) == (0, ""), log.read_text() + (folder / "train.log").read_text()
    logged = rows(folder)
    assert [row["step"] for row in logged] == [1, 2, 3]
    assert any(row["grad_norm"] > 0 for row in logged)
    (checkpoint,) = (folder / "checkpoints").iterdir()
    made = json.loads((checkpoint / "complete.json").read_text())
    assert made["processes"] == 2
    assert made["backend"] == ("DDP" if engine == "DDP" else "DeepSpeed ZeRO-2")
    before, after = (load_file(path / "model.safetensors") for path in (world / "base", folder / "model"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert processes_of(folder) == []
