"""Completions grow in stages; what the loss divides by does not."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest

from r1kit.settings.training import CurriculumSettings, DynamicSamplingSettings, LengthStage
from r1kit.training.grpo import prompt_curriculum
from r1kit.training.rl.curriculum import length_limit
from r1kit.training.rl.trainer import GrpoTrainer
from r1kit.training.rl.vllm_rollouts import VLLMRollouts

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
