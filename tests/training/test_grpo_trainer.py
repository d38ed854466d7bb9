"""What the GRPO trainer changes outside dynamic sampling: order, lengths, scores, rollout files."""

from __future__ import annotations

import itertools
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from trl.trainer.utils import nanstd

from r1kit.rewards.registry import is_judged
from r1kit.settings.training import CurriculumSettings, DynamicSamplingSettings, LengthStage
from r1kit.training.grpo import prompt_curriculum
from r1kit.training.rl.curriculum import length_limit
from r1kit.training.rl.trainer import (
    EpochRepeatSampler,
    GrpoTrainer,
    mask_unscored,
    rollout_table,
    share_without_signal,
)
from r1kit.training.rl.vllm_rollouts import VLLMRollouts


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
    scores = torch.tensor([[NAN, 1.0], [NAN, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert share_without_signal(scores, torch.tensor([1.0, 0.2]), 2) == 0.5


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


STAGES = [LengthStage(step=at, max_completion_length=length) for at, length in ((0, 8), (10, 16), (20, 24))]


def test_a_stage_lasts_until_the_next_one_begins():
    assert [length_limit(STAGES, step) for step in (0, 9, 10, 19, 20, 99)] == [8, 8, 16, 16, 24, 24]


class Trainer(GrpoTrainer):
    """What setting the limit needs of TRL's trainer, whose constructor is not called."""

    def __init__(self, use_vllm: bool = False):
        self.use_vllm, self._metrics = use_vllm, {"train": defaultdict(list), "eval": defaultdict(list)}
        self.model, self.state = SimpleNamespace(training=True), SimpleNamespace(global_step=0)
        self.generation_config, self.generation_kwargs = SimpleNamespace(max_new_tokens=24), {}
        self.vllm_generation = SimpleNamespace(max_completion_length=24)
        self.max_completion_length = 24


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """TRL's generation answers with the limits that it would generate within: transformers', vLLM's."""
    monkeypatch.setattr(
        VLLMRollouts,
        "_generate_single_turn",
        lambda self: (self.generation_config.max_new_tokens, self.vllm_generation.max_completion_length),
    )


def test_only_the_limit_of_generation_changes():
    trainer = Trainer()
    trainer.length_curriculum = STAGES
    found = []
    for trainer.state.global_step in (0, 10, 25):
        found.append(trainer._generate_single_turn()[0])
        assert trainer.max_completion_length == 24  # dr_grpo divides by it
    assert found == [8, 16, 24]
    assert trainer._metrics["train"]["curriculum/max_completion_length"] == [8.0, 16.0, 24.0]


def test_vllm_is_told_too_and_evaluations_have_the_whole_length():
    trainer = Trainer(use_vllm=True)
    trainer.length_curriculum = STAGES
    assert trainer._generate_single_turn() == (24, 8)
    trainer.model.training = False
    assert trainer._generate_single_turn() == (24, 24)


def test_without_stages_nothing_changes():
    trainer = Trainer()
    assert trainer._generate_single_turn() == (24, 24)
    assert not trainer._metrics["train"]


@pytest.mark.parametrize("strategy", ["none", "length"])
def test_prompts_keep_trls_order_unless_they_or_their_groups_are_chosen(strategy):
    own = SimpleNamespace(curriculum=CurriculumSettings(strategy=strategy), dynamic_sampling=None)
    assert prompt_curriculum(own, 0, None) is None
    own.dynamic_sampling = DynamicSamplingSettings()
    assert prompt_curriculum(own, 0, Prompts()).settings.strategy == strategy


class Prompts(list):
    """An empty dataset."""

    column_names = ()
