"""The server fails during GRPO: killed, silent, frozen, out of room. The run ends as described or goes on.

Against the stand-in of tests/training, which behaves like a vLLM server until it is told otherwise.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time

import pytest

from tests.failures import cluster
from tests.failures.cluster import checkpoints_in, ended, train, write
from tests.training.conftest import rows

pytestmark = [pytest.mark.slow, pytest.mark.failures, pytest.mark.cluster]


def test_a_killed_server_ends_the_run_with_a_checkpoint_of_that_step_and_the_run_resumes(
    world,
    servers,
    tmp_path,
):
    job_folder = write(tmp_path / "job", world)
    servers(job_folder, "--die-at", "4")
    code, job = ended(train(job_folder), 90)
    assert code == 4
    assert "was lost while it did /v1/completions" in job["message"]
    assert "is gone" in job["message"]
    assert "End of its log" in job["message"]
    assert "Start the stage again" in job["message"]
    assert checkpoints_in(job_folder)[-1] == 3  # save_steps is 2: this one was made because of the death
    servers(job_folder)
    assert ended(train(job_folder), 90)[0] == 0
    assert [row["step"] for row in rows(job_folder)] == [1, 2, 3, 4, 5, 6]
    assert "resuming from step 3" in (job_folder / "train.log").read_text()


def test_with_restart_the_same_run_goes_on_and_no_generation_is_asked_twice(world, servers, tmp_path):
    job_folder = write(tmp_path / "job", world, machine={"server": {"restart": True}})
    server = servers(job_folder, "--die-at", "4")
    job = train(job_folder)
    server.restart()
    assert ended(job, 120)[0] == 0
    log = (job_folder / "train.log").read_text()
    assert "the server is back; pushing the weights again" in log
    written = rows(job_folder)
    assert [row["step"] for row in written] == [1, 2, 3, 4, 5, 6]
    assert all(row["weights/version"] == row["weights/server_version"] == row["step"] - 1 for row in written)
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 1e-3 for row in written)
    assert all(row["sampling/sampling_logp_difference/mean"] < 1e-4 for row in written)
    assert sum(row["weights/change_norm"] for row in written[1:]) > 0  # or nothing was tested
    # six steps; the fourth was asked once of the server that died and once of the new one
    assert (job_folder / "server/generations").read_text() == "3"


def test_a_generation_that_never_returns_ends_within_its_bound(world, servers, tmp_path):
    job_folder = write(tmp_path / "job", world, machine={"server": {"generation_seconds": 4}})
    servers(job_folder, "--hang-at", "2")
    job = train(job_folder)
    cluster.until_step(job, 1)
    start = time.monotonic()
    code, status = ended(job, 60)
    assert time.monotonic() - start < 4 + 15  # bound, checkpoint, and the end of two busy cores
    assert code == 4
    assert "did not answer within 4 s" in status["message"]
    assert "raise server.generation_seconds" in status["message"]
    assert checkpoints_in(job_folder)[-1] == 1


def test_a_generator_that_only_says_it_has_the_weights_is_found_out(world, servers, tmp_path):
    job_folder = write(tmp_path / "job", world, learning_rate=2e-2)
    servers(job_folder, "--frozen")
    code, status = ended(train(job_folder), 90)
    assert code == 1
    assert "not sampled from the policy that is trained" in status["message"]
    assert len(rows(job_folder)) < 6
    assert checkpoints_in(job_folder)


def test_a_full_disk_at_the_sync_names_the_folder_and_keeps_the_step(world, servers, tmp_path):
    medium = tmp_path / "small"
    medium.mkdir()
    size = (world / "base/model.safetensors").stat().st_size
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size + 60_000}", "tmpfs", str(medium)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system needs the right to mount one")
    try:
        job_folder = write(tmp_path / "job", world, machine={"weight_sync": {"folder": str(medium)}})
        servers(job_folder)
        code, status = ended(train(job_folder), 90)
        assert code == 1
        assert "cannot write weights" in status["message"]
        assert str(medium) in status["message"]
        assert "weight_sync.folder" in status["message"]
        assert checkpoints_in(job_folder)[-1] == 1  # the first version fits, the second does not beside it
        assert not list(medium.rglob("*.safetensors"))
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "-l", str(medium)], check=False)


def test_the_metrics_tell_what_each_sync_cost(world, servers, tmp_path):
    job_folder = write(tmp_path / "job", world, max_steps=2)
    servers(job_folder)
    assert ended(train(job_folder), 90)[0] == 0
    size = (world / "base/model.safetensors").stat().st_size
    for row in (json.loads(line) for line in (job_folder / "metrics.jsonl").read_text().splitlines()):
        assert 0.9 * size < row["sync/bytes"] <= size
        assert 0 < row["sync/seconds"] < 5
