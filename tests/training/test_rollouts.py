from __future__ import annotations

import torch
from trl.trainer.utils import nanstd

from r1kit.training.rl.trainer import EpochRepeatSampler, rollout_table, share_without_signal


def sampler(epoch: int) -> list[int]:
    made = EpochRepeatSampler(range(10), mini_repeat_count=2, batch_size=3, repeat_count=2, seed=7)
    made.set_epoch(epoch)
    return list(made)


def test_the_order_of_prompts_depends_on_the_epoch_and_not_on_what_was_read_before():
    made = EpochRepeatSampler(range(10), mini_repeat_count=2, batch_size=3, repeat_count=2, seed=7)
    orders = []
    for epoch in range(3):
        made.set_epoch(epoch)
        orders.append(list(made))
    assert orders == [sampler(0), sampler(1), sampler(2)]
    assert orders[0] != orders[1]


def test_the_first_epoch_is_in_trls_order():
    from trl.trainer.utils import RepeatSampler

    assert sampler(0) == list(
        RepeatSampler(range(10), mini_repeat_count=2, batch_size=3, repeat_count=2, seed=7)
    )


def test_a_rollout_row_holds_the_reward_and_its_parts():
    logs = {
        "prompt": [[{"role": "user", "content": "How many?"}]] * 2,
        "completion": [[{"role": "assistant", "content": "3"}], [{"role": "assistant", "content": "4"}]],
        "rewards": {"accuracy_reward": [1.0, float("nan")], "format_reward": [0.0, 1.0]},
        "advantages": [0.7, -0.7],
        "extra": {"solution": ["3", "3"], "level": [1, 1], "tokens": [5, 6]},
    }
    table = rollout_table(12, logs, {"accuracy_reward": 1.0, "format_reward": 0.2})
    assert list(table.columns) == [
        "step", "prompt", "completion", "solution", "level", "reward_accuracy", "reward_format", "reward",
        "advantage", "tokens",
    ]  # fmt: skip
    assert table["reward"].tolist() == [1.0, 0.2]
    assert table.loc[1, "prompt"] == "How many?"
    assert table.loc[1, "completion"] == "4"


def test_a_group_of_equal_rewards_is_counted_although_its_float32_deviation_is_not_zero():
    """Incident of 2026-11-23: weights 1.0 and 0.2, sixteen right answers, and TRL's metric said 0."""
    scores = torch.ones(32, 2)
    scores[20, 0] = 0.0
    weights = torch.tensor([1.0, 0.2])
    deviation = nanstd((scores * weights).nansum(dim=1).view(2, 16), dim=1)
    assert not torch.isclose(deviation, torch.zeros(2)).any(), "TRL counts right now: drop our correction"
    assert share_without_signal(scores, weights, 16) == 0.5


def test_what_could_not_be_scored_counts_as_trl_counts_it():
    scores = torch.tensor([[float("nan"), 1.0], [float("nan"), 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert share_without_signal(scores, torch.tensor([1.0, 0.2]), 2) == 0.5
