"""What is read from the source of TRL is what TRL's classes have."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest

from r1kit.settings import trl_keys
from r1kit.settings.trl_hints import BOUNDS, CHOICES, REFUSED, RENAMED, WIDER
from r1kit.settings.validation import known_keys


@pytest.fixture(scope="module")
def classes() -> dict[str, Any]:
    from accelerate.commands.config.config_args import ClusterConfig
    from transformers import TrainingArguments
    from trl import GRPOConfig, ModelConfig, SFTConfig

    return {
        "base": TrainingArguments,
        "sft": SFTConfig,
        "grpo": GRPOConfig,
        "model": ModelConfig,
        "accelerate": ClusterConfig,
    }


@pytest.mark.slow
@pytest.mark.parametrize("config", list(trl_keys.CLASSES))
def test_the_keys_are_the_fields_of_the_real_class(config: str, classes: dict[str, Any]) -> None:
    fields = {field.name: field for field in dataclasses.fields(classes[config]) if field.init}
    found = trl_keys.keys(config)
    assert set(found) == set(fields)
    for key in found.values():
        if key.default is not ...:
            assert key.default == fields[key.name].default, key.name


@pytest.mark.slow
def test_the_choices_that_stand_in_prose_are_those_of_the_help_text(classes: dict[str, Any]) -> None:
    fields = {field.name: field for field in dataclasses.fields(classes["grpo"])}
    for entry, choices in CHOICES.items():
        key = entry if isinstance(entry, str) else entry[1]
        help_text = fields[key].metadata["help"]
        listed = fields[key].metadata.get("choices")
        for choice in choices:
            assert choice in listed if listed else choice in help_text, f"{key}: {choice}"


@pytest.mark.slow
def test_the_enumerations_are_those_of_transformers(classes: dict[str, Any]) -> None:
    from transformers.trainer_utils import SaveStrategy, SchedulerType
    from transformers.training_args import OptimizerNames

    for key, enum in (
        ("lr_scheduler_type", SchedulerType),
        ("save_strategy", SaveStrategy),
        ("optim", OptimizerNames),
    ):
        assert set(get_args(trl_keys.keys("sft")[key].type)) == {member.value for member in enum}


@pytest.mark.slow
def test_every_process_kind_of_accelerate_is_known() -> None:
    from accelerate.utils import DistributedType

    assert set(trl_keys.distributed_types()) == {member.value for member in DistributedType}


def test_types_follow_the_annotations() -> None:
    grpo = trl_keys.keys("grpo")
    assert grpo["temperature"].type is float
    assert set(get_args(grpo["num_generations"].type)) == {int, type(None)}
    assert bool in get_args(grpo["scale_rewards"].type)
    assert trl_keys.default("grpo", "num_generations") == 8
    assert trl_keys.default("sft", "bf16") is None
    assert trl_keys.default("sft", "no_such_key") is ...


def test_hints_speak_only_of_keys_that_exist_or_no_longer_exist() -> None:
    known = {key for section in ("base", "sft", "grpo") for key in known_keys(section)}
    everything = known | {key for config in trl_keys.CLASSES for key in trl_keys.keys(config)}
    assert not set(RENAMED) & known
    assert {nearest for nearest, _ in RENAMED.values()} - {""} <= known
    assert set(BOUNDS) <= known
    assert set(WIDER) <= known
    assert set(REFUSED) - {"logging_dir"} <= everything
    assert not set(REFUSED) & known
