"""Two training processes beside a server: one dies, one stops, both are asked to stop, and they go on later.

Incidents: a dead rank left the other in a collective for `ddp_timeout` (30 minutes); torchrun's agent sent a
second SIGTERM, which ended the trainers before their checkpoint was written.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file

from r1kit.runs.files import read_json
from tests.failures.cluster import (
    checkpoints_in,
    ended,
    generations,
    goes_on_from,
    order,
    start_server,
    train,
    until,
    until_step,
    write,
)
from tests.training.conftest import rows

pytestmark = [pytest.mark.slow, pytest.mark.failures, pytest.mark.cluster]
STEPS = {"max_steps": 8, "save_steps": 2}


def rank(folder: Path, number: int) -> int:
    """The process id of a rank."""
    return read_json(folder / f"ranks/{number}.json")["pid"]


@pytest.fixture(scope="module")
def server(world, tmp_path_factory):
    server = start_server(tmp_path_factory.mktemp("ranks") / "server", world)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def zero2(tmp_path_factory):
    """The folder of the ZeRO-2 job to which everything happens."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: make setup-cluster")
    if not list((Path(sys.prefix) / "torch_extensions").rglob("deepspeed_shm_comm.so")):
        pytest.skip("DeepSpeed's operator for the CPU is not compiled: make setup-cluster")
    return tmp_path_factory.mktemp("ranks") / "job"


def test_a_rank_killed_during_a_step_is_named_and_the_others_end(world, server, zero2):
    job = train(write(zero2, world, server, "zero2", **STEPS))
    until_step(job, 3)
    start = time.monotonic()
    os.kill(rank(zero2, 1), signal.SIGKILL)
    code, message = ended(job)
    assert time.monotonic() - start < 30
    assert code == 4
    assert "Process 1 of the training" in message
    assert "died in phase" in message
    assert checkpoints_in(zero2)[0] == 2


def test_a_stopped_rank_is_a_stuck_collective_and_ends_within_step_seconds(world, server, zero2):
    if not checkpoints_in(zero2):
        pytest.skip("it goes on from where the test before it was killed")
    order(server, second="hold")
    job = train(write(zero2, world, server, "zero2", step_seconds=4, **STEPS))
    held = generations(server) + 2
    until(lambda: generations(server) == held, job)
    os.kill(rank(zero2, 1), signal.SIGSTOP)
    start = time.monotonic()
    order(server)
    code, message = ended(job)
    assert time.monotonic() - start < 4 + 25  # step_seconds, and the end
    assert code == 4
    assert "is stopped" in message
    assert "Process 1" in message
    assert "in machine.yaml allows" in message


def test_the_run_resumes_to_the_weights_of_one_that_nothing_happened_to(world, server, zero2, tmp_path):
    if not checkpoints_in(zero2):
        pytest.skip("it goes on from where the tests before it were killed")
    assert ended(train(write(zero2, world, server, "zero2", **STEPS)))[0] == 0
    assert [row["step"] for row in rows(zero2)] == list(range(1, 9))
    quiet = write(tmp_path / "job", world, server, "zero2", **STEPS)
    assert ended(train(quiet))[0] == 0
    first, second = (load_file(folder / "model/model.safetensors") for folder in (zero2, quiet))
    assert all(torch.equal(first[name], second[name]) for name in first)
    start = load_file(world / "base/model.safetensors")
    assert any(not torch.equal(start[name], first[name]) for name in start)  # or nothing was tested


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    """The folder of the DDP job."""
    return tmp_path_factory.mktemp("ranks") / "job"


def test_two_processes_asked_to_stop_save_first(world, server, ddp):
    job = train(write(ddp, world, server, "ddp", max_steps=200, save_steps=100))
    until_step(job, 2)
    assert job.stop() == 143
    assert checkpoints_in(ddp) == [rows(ddp)[-1]["step"]]


def test_two_processes_choose_the_same_groups_and_train_on_them(world, server, tmp_path):
    """Prompts of a curriculum, groups replaced, answers of a server: each process holds whole groups."""
    chosen = {
        "curriculum": {"strategy": "pass_rate", "reward": "cosine"},
        "dynamic_sampling": {"max_extra": 1.0},
        "learning_rate": 1e-4,
    }
    job_folder = write(tmp_path / "job", world, server, "ddp", max_steps=3, save_steps=3, **chosen)
    assert ended(train(job_folder), 120)[0] == 0
    kept = [
        torch.load(job_folder / f"checkpoints/checkpoint-3/rollout_buffer_{number}.pt")["chosen"]
        for number in (0, 1)
    ]
    assert kept[0] == kept[1]
    asked = 0
    for row in rows(job_folder):
        table = pandas.read_parquet(job_folder / f"rollouts/step_{row['step']:05d}.parquet")
        assert len(table) == 8
        assert table["prompt"].tolist() == [prompt for prompt in table["prompt"][::4] for _ in range(4)]
        assert row["reward"] == pytest.approx(table["reward"].mean(), abs=1e-5)
        assert row["completions/mean_length"] == pytest.approx(table["tokens"].mean())
        asked += round(2 * (1 + row["dynamic/extra_groups"]))
    assert 3 < len(kept[0]["curriculum"]["solved"]) <= asked


def test_one_process_goes_on_where_two_with_ddp_left_off(world, server, ddp):
    if not checkpoints_in(ddp):
        goes_on_from(ddp, 2)
    step = checkpoints_in(ddp)[-1]
    more = {"max_steps": step + 2, "save_steps": 100}
    write(ddp, world, server, "one", per_device_train_batch_size=4, **more)
    assert ended(train(ddp))[0] == 2  # before anything is loaded: the step would have half as many samples
    assert "a step has 4 samples, not 8" in (ddp / "train.log").read_text()
    assert ended(train(write(ddp, world, server, "one", **more), accelerate=False))[0] == 0
    assert [row["step"] for row in rows(ddp)] == list(range(1, step + 3))
    assert f"resuming from step {step}" in (ddp / "train.log").read_text()


@pytest.mark.nightly
def test_fsdp2_shards_sends_whole_weights_and_goes_on_from_its_checkpoint(world, server, tmp_path):
    job_folder = write(tmp_path / "job", world, server, "fsdp2", max_steps=4, save_steps=2)
    program = "tests.failures.fsdp_on_cpu"
    assert ended(train(job_folder, program=program))[0] == 0
    written = rows(job_folder)
    assert all(row["sampling/sampling_logp_difference/mean"] < 1e-4 for row in written)
    assert all(row["weights/change_norm"] > 0 for row in written[1:])
    assert read_json(job_folder / "checkpoints/checkpoint-4/complete.json")["backend"] == "FSDP2"
    first = load_file(job_folder / "model/model.safetensors")
    for later in ("checkpoints/checkpoint-4", "model"):
        shutil.rmtree(job_folder / later)
    assert ended(train(job_folder, program=program))[0] == 0
    assert "resuming from step 2" in (job_folder / "train.log").read_text()
    second = load_file(job_folder / "model/model.safetensors")
    base = load_file(world / "base/model.safetensors")
    assert {*base} <= {*first} <= {*base, "lm_head.weight"}  # FSDP2 writes a tied output head as well
    assert all(first[name].shape == base[name].shape for name in base)
    assert all(torch.equal(first[name], second[name]) for name in first)
