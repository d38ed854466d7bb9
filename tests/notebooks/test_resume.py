"""kill -9 in the middle of SFT and of GRPO: nothing survives, and the weights are an unbroken run's."""

import os
import re
import signal
import time

import psutil
import pytest

from r1kit.runs import jsonl as metrics_log

pytestmark = [pytest.mark.e2e, pytest.mark.failures, pytest.mark.timeout(1200)]


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def reached(path, step):
    return lambda: [row for row in metrics_log.read(path) if row["step"] >= step]


def touching(folder):
    """Processes whose command line names the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or ()) and process.pid != os.getpid():
            found.append(process)
    return found


def trainer_of(folder):
    return [
        process for process in touching(folder) if any("r1kit.training" in part for part in process.cmdline())
    ]


def weights(path):
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


@pytest.fixture(scope="module")
def unbroken(runs, short_profile):
    code, output = runs.run(
        "run", "--profile", str(short_profile), "--stages", "01,02,04", "--run-id", "unbroken"
    )
    assert code == 0, output[-3000:]
    return runs.folder / "unbroken"


@pytest.fixture(scope="module")
def broken(runs, short_profile, unbroken):
    """The same run, killed twice: everything at once during SFT, the trainer alone during GRPO."""
    folder = runs.folder / "broken"
    with runs.start(
        "run", "--profile", str(short_profile), "--stages", "01,02,04", "--run-id", "broken"
    ) as process:
        wait_for(reached(folder / "02_sft" / "metrics.jsonl", 6), 300, "SFT at step 6")
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not touching(folder), 60, "no process of the killed run")

    with runs.start("run", "--resume", "broken") as process:
        wait_for(reached(folder / "04_grpo" / "metrics.jsonl", 3), 300, "GRPO at step 3")
        for trainer in trainer_of(folder / "04_grpo"):
            trainer.kill()
        after_first = process.communicate()[0]
    assert process.returncode == 1, after_first[-3000:]
    wait_for(lambda: not touching(folder), 60, "no process after the trainer's death")

    code, after_second = runs.run("run", "--resume", "broken")
    assert code == 0, after_second[-3000:]
    return folder, after_first, after_second


def test_resume_says_which_stages_it_skips_and_which_go_on(broken):
    _, after_first, after_second = broken
    assert "01_data" in after_first
    assert "unchanged" in after_first
    # Killing papermill ends the training with SIGTERM, so it saves where it is: at some step from the 6th on.
    (sft,) = re.findall(r"02_sft +continues from its checkpoint at step (\d+)", after_first)
    (grpo,) = re.findall(r"04_grpo +continues from its checkpoint at step (\d+)", after_second)
    assert int(sft) >= 4
    assert int(grpo) >= 2


def test_every_step_is_logged_once(broken, unbroken):
    for stage in ("02_sft", "04_grpo"):
        steps = [row["step"] for row in metrics_log.read(broken[0] / stage / "metrics.jsonl")]
        assert steps == [row["step"] for row in metrics_log.read(unbroken / stage / "metrics.jsonl")]


@pytest.mark.parametrize("stage", ["01_data", "02_sft", "04_grpo"])
def test_the_final_weights_equal_those_of_the_unbroken_run(broken, unbroken, stage):
    import torch

    expected, found = weights(unbroken / stage / "model"), weights(broken[0] / stage / "model")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_changed_settings_start_the_stage_again_and_keep_the_old_attempt(broken, runs, short_profile):
    folder = broken[0]
    code, output = runs.run("run", "--resume", "broken", "--stages", "02", "--set", "sft.learning_rate=1e-4")
    assert code == 0, output[-3000:]
    assert "start" in output
    assert list((folder / "02_sft").glob("stale-*/model"))
