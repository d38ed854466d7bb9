"""A whole GRPO that a guard ends: exit code, checkpoint and message, and the lengths of its stages."""

from __future__ import annotations

import json

import pytest

from r1kit.runs.outcome import ExitCode

from .conftest import rows, start, write_job

pytestmark = pytest.mark.slow

GRPO = {
    "rewards": [{"name": "tag_count", "weight": 1.0}],
    "algorithm": "gspo",
    "guards": {"window": 2, "min_entropy": 100.0},  # nats a token: no model has so much
    "curriculum": {
        "strategy": "length",
        "lengths": [{"step": 0, "max_completion_length": 6}, {"step": 1, "max_completion_length": 12}],
    },
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 12,
    "max_steps": 6,
    "save_steps": 6,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
}


def test_a_guard_ends_a_training_with_its_own_code_and_keeps_the_checkpoint(world, tmp_path):
    folder = write_job(tmp_path / "grpo", world, grpo=GRPO)
    assert start("grpo", folder).wait(timeout=300) == ExitCode.GUARD
    told = json.loads((folder / "exit.json").read_text(encoding="utf-8"))
    assert told["returncode"] == ExitCode.GUARD
    assert "entropy is gone" in told["message"]
    assert "min_entropy: 100" in told["message"]
    assert told["message"] in (folder / "train.log").read_text(encoding="utf-8")
    assert (folder / "checkpoints/checkpoint-2/complete.json").is_file()
    assert not (folder / "model").exists()
    first, second = rows(folder)
    assert [row["curriculum/max_completion_length"] for row in (first, second)] == [6.0, 12.0]
    assert first["completions/max_length"] <= 6 < second["completions/max_length"] <= 12
    assert first["diversity/repetition"] is not None
