"""What happens to a server during GRPO, one thing after the other to one job: killed, silent, out of room.

Each time the run ends as described or goes on; at the end its weights are those of a quiet run.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.failures.cluster import (
    checkpoints_in,
    ended,
    generations,
    goes_on_from,
    order,
    start_server,
    train,
    until_step,
    write,
)
from tests.training import stand_in_server
from tests.training.conftest import rows

pytestmark = [pytest.mark.slow, pytest.mark.failures, pytest.mark.cluster]
STEPS = {"max_steps": 9, "save_steps": 100}  # a checkpoint is there because of a failure, or not at all


@pytest.fixture(scope="module")
def job_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("server") / "job"


@pytest.fixture(scope="module")
def server(world, tmp_path_factory):
    """A server that is never started again and survives what happens to the job."""
    server = start_server(tmp_path_factory.mktemp("server") / "steady", world, generation_seconds=4)
    yield server
    server.stop()


def test_with_restart_a_killed_and_a_silent_server_come_back_and_the_same_run_goes_on(
    world, server, job_folder, tmp_path
):
    restarting = {"restart": True, "restarts": 2, "generation_seconds": 4}
    mine = start_server(tmp_path / "server", world, **restarting)
    order(mine, second="die", fifth="hang", eighth="die")
    code, message = ended(train(write(job_folder, world, mine, **STEPS), accelerate=False))
    log = (job_folder / "train.log").read_text()
    assert log.count("the server is back; pushing the weights again") == 2
    assert "was lost during /v1/completions" in log
    assert "accepted /v1/completions and did not answer within 4 s; waiting" in log
    written = rows(job_folder)
    assert [row["step"] for row in written] == [1, 2, 3, 4, 5]
    assert generations(mine) == 5 + 3  # none was asked twice without need
    assert all(row["weights/version"] == row["weights/server_version"] == row["step"] - 1 for row in written)
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 1e-3 for row in written)
    assert all(row["weights/change_norm"] > 0 for row in written[1:])  # or nothing was tested
    size = (world / "base/model.safetensors").stat().st_size
    assert all(0.9 * size < row["sync/bytes"] <= size and 0 < row["sync/seconds"] < 5 for row in written)
    # the third failure is one more than the keeper may repair
    assert code == 4
    assert "did not come back" in message
    assert "It was started again 2 times already" in message
    assert checkpoints_in(job_folder) == [5]
    assert mine.job.poll() == 1
    assert not any(psutil.pid_exists(pid) for pid in mine.state["pids"])


def test_a_killed_server_ends_the_run_with_a_checkpoint_of_that_step(world, job_folder, tmp_path):
    goes_on_from(job_folder, 5)
    mine = start_server(tmp_path / "server", world)
    order(mine, second="die")
    code, message = ended(train(write(job_folder, world, mine, **STEPS), accelerate=False))
    assert code == 4
    assert "was lost during /v1/completions" in message
    assert "its keeper: failed (The vLLM server (replica 0" in message
    assert "was killed by signal 9" in message
    assert "End of its log" in message
    assert "Start the stage again" in message
    assert checkpoints_in(job_folder)[-1] == 6
    assert "resuming from step 5" in (job_folder / "train.log").read_text()


def test_a_full_disk_at_the_sync_names_the_folder_and_keeps_the_step(world, server, job_folder, tmp_path):
    goes_on_from(job_folder, 6)
    medium = tmp_path / "small"
    medium.mkdir()
    size = (world / "base/model.safetensors").stat().st_size
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size + 60_000}", "tmpfs", str(medium)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system needs the right to mount one")
    try:
        job = train(write(job_folder, world, server, sync={"folder": str(medium)}, **STEPS), accelerate=False)
        code, message = ended(job)
        assert code == 1
        assert "cannot write weights" in message
        assert str(medium) in message
        assert "weight_sync.folder" in message
        assert checkpoints_in(job_folder)[-1] == 7  # the first version fits, the second does not beside it
        assert not list(medium.rglob("*.safetensors"))
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "-l", str(medium)], check=False)


def test_a_generation_that_never_returns_ends_within_its_bound(world, server, job_folder):
    if checkpoints_in(job_folder)[-1:] != [7]:
        goes_on_from(job_folder, 6)  # where no small file system could be mounted
    begun = checkpoints_in(job_folder)[-1]
    order(server, second="hang")
    job = train(write(job_folder, world, server, **STEPS), accelerate=False)
    until_step(job, begun + 1)
    start = time.monotonic()
    code, message = ended(job)
    assert time.monotonic() - start < 4 + 15  # bound, checkpoint, and the end of two busy cores
    assert code == 4
    assert "did not answer within 4 s" in message
    assert "raise server.generation_seconds" in message
    assert checkpoints_in(job_folder)[-1] == begun + 1
    assert server.state["restarts"] == 0


@pytest.mark.parametrize(
    ("options", "transport", "says"),
    [
        (["--no-development"], "file", "development endpoints are off"),
        ([], "nccl", "has no weight transfer"),
        (["--serve", "/models/other"], "file", "serves /models/other; this training starts from"),
    ],
    ids=["without development endpoints", "without weight transfer", "with another model"],
)
def test_the_wrong_server_is_refused_with_exit_code_2_before_trl_is_imported(
    options, transport, says, world, job_folder, tmp_path
):
    before = checkpoints_in(job_folder) if job_folder.exists() else []
    common = ["--folder", str(tmp_path), "--state", "--model", str(world / "base")]
    wrong = stand_in_server.serve(stand_in_server.parse([*common, *options]))
    threading.Thread(target=wrong.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        write(job_folder, world, tmp_path, sync={"transport": transport}, **STEPS)
        code, message = ended(train(job_folder, accelerate=False))
    finally:
        wrong.shutdown()
        wrong.server_close()
    assert code == 2
    assert says in message
    assert "r1kit serve" in message
    assert checkpoints_in(job_folder) == before  # the run goes on from there, once its server is right


def test_a_run_that_went_through_all_that_ends_with_the_weights_of_a_quiet_one(
    world, server, job_folder, tmp_path
):
    if len(checkpoints_in(job_folder)) < 3:
        pytest.skip("nothing happened to the job before")
    assert ended(train(write(job_folder, world, server, **STEPS), accelerate=False))[0] == 0
    assert [row["step"] for row in rows(job_folder)] == list(range(1, 10))
    quiet = write(tmp_path / "job", world, server, **STEPS)
    assert ended(train(quiet, accelerate=False))[0] == 0
    first, second = (load_file(folder / "model/model.safetensors") for folder in (job_folder, quiet))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_generator_that_only_says_it_has_the_weights_is_found_out(world, server, tmp_path):
    order(server, first="freeze")
    job_folder = write(tmp_path / "job", world, server, **STEPS)
    code, message = ended(train(job_folder, accelerate=False))
    assert code == 1
    assert "not sampled from the policy that is trained" in message
    assert checkpoints_in(job_folder) == [len(rows(job_folder))]
