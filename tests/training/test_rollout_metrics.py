"""What the trainer says of its groups."""

import torch
from trl.trainer.utils import nanstd

from r1kit.training.rollouts import share_without_signal


def test_a_group_of_equal_rewards_is_counted_although_its_float32_deviation_is_not_zero():
    """Incident of 2026-11-23: weights 1.0 and 0.2, sixteen right answers, and TRL's metric said 0."""
    parts = torch.ones(32, 2)
    parts[20, 0] = 0.0
    weights = torch.tensor([1.0, 0.2])
    deviation = nanstd((parts * weights).nansum(dim=1).view(2, 16), dim=1)
    assert not torch.isclose(deviation, torch.zeros(2)).any(), "TRL counts right now: drop our correction"
    assert share_without_signal(parts, weights, 16) == 0.5


def test_what_could_not_be_judged_counts_as_trl_counts_it():
    parts = torch.tensor([[float("nan"), 1.0], [float("nan"), 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert share_without_signal(parts, torch.tensor([1.0, 0.2]), 2) == 0.5
