"""A training that was killed and started again ends as if nothing had happened: same weights, bit by bit,
same rows.

Incidents behind it: TRL 1.16 loses the rollouts in use (`_buffered_inputs`), the count of micro-steps
(`_step`) and, from the second epoch on, the order of its prompts; a checkpoint whose writer was killed looks
like any other.
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .conftest import finish, rows, start, write_job

pytestmark = pytest.mark.slow

SFT = {
    "optimizer": "muon",
    "muon_learning_rate": 0.02,
    "row_packing": True,
    "learning_rate": 4e-3,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 8,
    "max_length": 96,
    "max_steps": 120,
    "save_steps": 25,
    "save_total_limit": 2,
    "logging_steps": 1,
    "assistant_only_loss": True,
    "gradient_checkpointing": False,
    "bf16": False,
}
GRPO = {  # generates once for four steps of two micro-batches: most checkpoints fall between two generations
    "rewards": [{"name": "tag_count", "weight": 1.0}, {"name": "accuracy", "weight": 1.0}],
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "num_iterations": 2,
    "num_generations": 4,
    "max_completion_length": 40,
    "max_steps": 20,
    "save_steps": 5,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
}
NOT_COMPARED = (
    "seconds",
    "heldout/seconds",
    "seconds_left",
    "tokens_per_second",
    "step_time",
    "mfu/causal",
    "mfu/full_attention",
)


def kill_at(program: str, folder: Path, step: int, number: int = signal.SIGKILL) -> int:
    """Start the program, send the signal once the row of `step` is written, return the exit code."""
    process = start(program, folder)
    while not rows(folder) or rows(folder)[-1]["step"] < step:
        assert process.poll() is None, (folder / "train.log").read_text(encoding="utf-8")
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait(timeout=60)


def assert_same_training(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    kept = [
        [{key: value for key, value in row.items() if key not in NOT_COMPARED} for row in rows(folder)]
        for folder in (one, other)
    ]
    assert kept[0] == kept[1]
    times = [row["seconds"] for row in rows(other)]
    assert times == sorted(times)


@pytest.fixture(scope="module")
def whole_sft(world, tmp_path_factory) -> Path:
    """An SFT that nobody interrupted."""
    folder = write_job(tmp_path_factory.mktemp("whole") / "sft", world, sft=SFT)
    finish("sft", folder)
    return folder


def test_an_uninterrupted_sft_learns_and_keeps_two_checkpoints(whole_sft):
    assert rows(whole_sft)[-1]["loss"] < 0.5 * rows(whole_sft)[0]["loss"]
    names = sorted(path.name for path in (whole_sft / "checkpoints").iterdir())
    assert names == ["checkpoint-100", "checkpoint-120"]
    assert rows(whole_sft)[-1].keys() >= {
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "total_steps",
    }


def test_sft_killed_in_its_second_epoch_ends_with_the_same_weights(world, whole_sft, tmp_path):
    folder = write_job(tmp_path / "sft", world, sft=SFT)
    assert kill_at("sft", folder, 63) == -signal.SIGKILL
    assert not (folder / "model").exists()
    # The kill might as well have come while the next checkpoint was written.
    shutil.copytree(folder / "checkpoints/checkpoint-50", folder / "checkpoints/checkpoint-75")
    (folder / "checkpoints/checkpoint-75/complete.json").unlink()
    log = finish("sft", folder)
    assert "removed incomplete checkpoint-75" in log
    assert "resuming from step 50" in log
    assert_same_training(whole_sft, folder)


def test_sft_stopped_by_sigterm_saves_says_143_and_goes_on(world, whole_sft, tmp_path):
    folder = write_job(tmp_path / "sft", world, sft=SFT)
    assert kill_at("sft", folder, 31, signal.SIGTERM) == 143
    saved = max(int(path.name.split("-")[1]) for path in (folder / "checkpoints").iterdir())
    assert saved == rows(folder)[-1]["step"]
    assert f"resuming from step {saved}" in finish("sft", folder)
    first, second = (load_file(path / "model/model.safetensors") for path in (whole_sft, folder))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_grpo_killed_between_two_generations_ends_with_the_same_weights(world, whole_sft, tmp_path):
    jobs = [write_job(tmp_path / name, world, whole_sft / "model", grpo=GRPO) for name in ("whole", "killed")]
    finish("grpo", jobs[0])
    assert kill_at("grpo", jobs[1], 13) == -signal.SIGKILL
    assert "resuming from step 10" in finish("grpo", jobs[1])
    assert_same_training(*jobs)
    before, after = (load_file(folder / "model/model.safetensors") for folder in (whole_sft, jobs[0]))
    assert any(not torch.equal(before[name], after[name]) for name in before)  # or nothing was tested
    assert {"reward", "rewards/accuracy_reward/mean", "entropy", "frac_reward_zero_std"} <= rows(jobs[0])[
        0
    ].keys()
    written = [sorted(path.name for path in (folder / "rollouts").iterdir()) for folder in jobs]
    assert written[0] == written[1]


def test_grpo_of_chosen_groups_killed_and_continued_ends_with_the_same_weights(world, whole_sft, tmp_path):
    """What the curriculum and the dynamic sampling know is part of a checkpoint."""
    chosen = {
        "curriculum": {"strategy": "pass_rate", "reward": "tag_count"},
        "dynamic_sampling": {"max_extra": 1.0},
        "gradient_accumulation_steps": 4,
        "steps_per_generation": 2,  # two generations per step
        "num_iterations": 1,
        "max_steps": 6,
        "save_steps": 2,
    }
    jobs = [
        write_job(tmp_path / name, world, whole_sft / "model", grpo=GRPO | chosen)
        for name in ("whole", "killed")
    ]
    finish("grpo", jobs[0])
    assert kill_at("grpo", jobs[1], 3) == -signal.SIGKILL
    assert "resuming from step 2" in finish("grpo", jobs[1])
    assert_same_training(*jobs)
    saved = [torch.load(job / "checkpoints/checkpoint-4/rollout_buffer_0.pt")["chosen"] for job in jobs]
    assert saved[0] == saved[1]
    assert len(saved[0]["curriculum"]["solved"]) > 4  # or nothing was learned
    assert {"dynamic/useful_after", "dynamic/extra_tokens", "curriculum/retired"} <= rows(jobs[0])[0].keys()


def test_a_finished_training_without_its_final_model_only_writes_the_model(world, whole_sft):
    before = load_file(whole_sft / "model/model.safetensors")
    shutil.rmtree(whole_sft / "model")
    finish("sft", whole_sft)
    after = load_file(whole_sft / "model/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert rows(whole_sft)[-1]["step"] == 120


def test_the_base_model_is_trained_from_random_weights(world, tmp_path):
    from .conftest import ARCHITECTURE

    base = {"architecture": ARCHITECTURE, "max_length": 96, "max_steps": 30, "optimizer": "muon"}
    base |= {"learning_rate": 4e-3, "per_device_train_batch_size": 8, "logging_steps": 10, "save_steps": 30}
    folder = write_job(tmp_path / "base", world, base=base)
    finish("pretrain", folder)
    assert rows(folder)[-1]["loss"] < 0.8 * rows(folder)[0]["loss"]
    assert (folder / "model/tokenizer.json").is_file()
