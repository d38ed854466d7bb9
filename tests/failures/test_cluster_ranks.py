"""Two training processes beside a server: one dies, one stops, both are asked to stop, and they go on later.

Incidents: a dead rank left the other in a collective for `ddp_timeout` (30 minutes); torchrun's agent sent a
second SIGTERM, which ended the trainers before their checkpoint was written.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from r1kit.runs.files import read_json
from tests.failures.cluster import checkpoints_in, ended, train, until_step, write
from tests.training.conftest import rows

pytestmark = [pytest.mark.slow, pytest.mark.failures, pytest.mark.cluster]


def rank(folder: Path, number: int) -> int:
    """The process id of a rank."""
    return read_json(folder / f"ranks/{number}.json")["pid"]


def test_a_killed_rank_is_named_and_the_run_resumes(world, servers, tmp_path):
    job_folder = write(tmp_path / "job", world, "ddp", max_steps=8)
    servers(job_folder)
    job = train(job_folder)
    until_step(job, 3)
    start = time.monotonic()
    os.kill(rank(job_folder, 1), signal.SIGKILL)
    code, status = ended(job, 40)
    assert time.monotonic() - start < 30
    assert code == 4
    assert "Process 1 of the training" in status["message"]
    assert "died in phase" in status["message"]
    assert checkpoints_in(job_folder)[-1] >= 2
    assert ended(train(job_folder), 120)[0] == 0
    assert rows(job_folder)[-1]["step"] == 8


def test_a_stopped_rank_is_a_stuck_collective_and_ends_within_step_seconds(world, servers, tmp_path):
    job_folder = write(tmp_path / "job", world, "ddp", machine={"step_seconds": 5}, max_steps=200)
    servers(job_folder)
    job = train(job_folder)
    until_step(job, 4)
    start = time.monotonic()
    os.kill(rank(job_folder, 1), signal.SIGSTOP)
    code, status = ended(job, 60)
    assert time.monotonic() - start < 15 + 5 + 25  # the longest phase it can be stuck in, and the end
    assert code == 4
    assert "is stopped" in status["message"]
    assert "Process 1" in status["message"]
    assert "in machine.yaml allows" in status["message"]
    assert checkpoints_in(job_folder)[-1] >= 2


def test_two_processes_asked_to_stop_save_first(world, servers, tmp_path):
    job_folder = write(tmp_path / "job", world, "ddp", max_steps=200, save_steps=100)
    servers(job_folder)
    job = train(job_folder)
    until_step(job, 2)
    assert job.stop() == 143
    assert checkpoints_in(job_folder) == [rows(job_folder)[-1]["step"]]


@pytest.mark.parametrize("backend", ["ddp", "zero2"])
def test_two_processes_that_were_interrupted_end_with_the_weights_of_a_whole_run(backend, world, tmp_path):
    """Rollouts in the process, because a server's sampling is not seeded; equal bit by bit."""
    if backend == "zero2":
        pytest.importorskip("deepspeed")
    whole, cut = (
        write(tmp_path / name, world, backend, use_vllm=False, max_steps=6) for name in ("whole", "cut")
    )
    assert ended(train(whole), 200)[0] == 0
    job = train(cut)
    until_step(job, 3)
    os.kill(rank(cut, 0), signal.SIGKILL)
    assert ended(job, 60)[0] == 4
    assert ended(train(cut), 200)[0] == 0
    first, second = (load_file(folder / "model/model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    start = load_file(world / "base/model.safetensors")
    assert any(not torch.equal(start[name], first[name]) for name in start)  # or nothing was tested


def test_one_process_goes_on_where_two_with_ddp_left_off(world, servers, tmp_path):
    job_folder = write(tmp_path / "job", world, "ddp", max_steps=2)
    servers(job_folder)
    assert ended(train(job_folder), 120)[0] == 0
    write(job_folder, world, "one", max_steps=4, per_device_train_batch_size=4)
    code, _ = ended(train(job_folder), 60)
    assert code == 2  # before anything is loaded: the step would have half as many samples
    assert "a step has 4 samples, not 8" in (job_folder / "train.log").read_text()
    write(job_folder, world, "one", max_steps=4)
    assert ended(train(job_folder), 120)[0] == 0
    assert [row["step"] for row in rows(job_folder)] == [1, 2, 3, 4]
    assert "resuming from step 2" in (job_folder / "train.log").read_text()
