"""Completions that nobody could judge: no gradient, a count, and an end when there are too many."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from r1kit.rewards.registry import is_judged
from r1kit.training import checkpoints
from r1kit.training.rl.guards import TooManyUnjudged, UnscoredWatch
from r1kit.training.rl.trainer import mask_unscored
from tests.training.conftest import rows, start, write_job

NAN = float("nan")


def test_the_batch_follows_the_rule_of_the_total_row_by_row():
    """All 64 rows that three rewards can give (a value or None, asked or not) for each kind of reward."""
    cells = list(itertools.product([1.0, NAN], [True, False], repeat=3))
    parts = torch.tensor([[cell[0], cell[2], cell[4]] for cell in cells])
    applies = torch.tensor([[cell[1], cell[3], cell[5]] for cell in cells])
    for verifies in itertools.product([True, False], repeat=3):
        kept, judged = mask_unscored(parts, applies, torch.tensor(verifies))
        for row in range(len(cells)):
            earned = [None if value != value else value for value in parts[row].tolist()]
            assert judged[row] == is_judged(earned, applies[row].tolist(), verifies)
            assert judged[row] or kept[row].isnan().all()
        assert torch.equal(kept[judged].nan_to_num(-1), parts[judged].nan_to_num(-1))


def stopped(watch: UnscoredWatch) -> bool:
    control = SimpleNamespace(should_save=False, should_log=False, should_training_stop=False)
    watch.on_step_end(None, None, control)
    assert control.should_save == control.should_training_stop
    return control.should_training_stop


def test_one_unreadable_solution_in_fifty_is_borne_and_two_are_not():
    watch = UnscoredWatch(group_size=16)
    watch.add(16, 128)
    assert not stopped(watch)
    watch.on_train_end(None, None, None)
    watch.add(16, 128, "solution: 'prose'")
    assert stopped(watch)
    with pytest.raises(TooManyUnjudged, match=r"32 of the last 256 .* more than 2% of 800\. .*'prose'"):
        watch.on_train_end(None, None, None)


def test_what_is_long_past_is_forgotten():
    watch = UnscoredWatch(group_size=16)
    for _ in range(30):
        watch.add(16, 128)
        for _ in range(7):
            watch.add(0, 128)
        assert not stopped(watch)


def test_a_sandbox_that_fails_late_stops_the_training_at_once():
    watch = UnscoredWatch(group_size=8)
    for _ in range(1000):
        watch.add(0, 64)
    watch.add(64, 64)
    assert stopped(watch)


def test_a_batch_larger_than_fifty_groups_is_measured_whole():
    watch = UnscoredWatch(group_size=8)
    watch.add(80, 8192)
    assert not stopped(watch)
    watch.add(200, 8192)
    assert stopped(watch)


GRPO = {
    "max_steps": 3,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 8,
    "learning_rate": 1e-4,
    "save_strategy": "no",
    "logging_steps": 1,
    "rewards": [{"name": "accuracy", "weight": 1.0}, {"name": "format", "weight": 0.2}],
}


@pytest.mark.slow
def test_a_training_without_readable_solutions_ends_with_a_message_and_a_checkpoint(world, tmp_path):
    from datasets import load_from_disk

    prompts = load_from_disk(str(world / "prompts"))
    unreadable = prompts.remove_columns("solution").add_column(
        "solution", ["We see that the result is four"] * len(prompts)
    )
    unreadable.save_to_disk(str(tmp_path / "prompts"))
    job = write_job(tmp_path / "job", world, grpo=GRPO)
    resolved = (job / "resolved.yaml").read_text()
    (job / "resolved.yaml").write_text(resolved.replace(str(world / "prompts"), str(tmp_path / "prompts")))
    assert start("grpo", job).wait(timeout=300) == 1
    log = (job / "train.log").read_text()
    assert "TooManyUnjudged: 8 of the last 8 completions could not be judged" in log
    assert "We see that the result is four" in log
    assert checkpoints.step_of(checkpoints.newest_complete(job / "checkpoints")) == 1
    assert not (job / "model").exists()
    (row,) = rows(job)
    assert row["frac_unjudged"] == 1.0
    assert row["frac_reward_zero_std"] == 1.0
    assert json.dumps(row["reward"]) in ("null", "NaN")
