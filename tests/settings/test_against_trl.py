"""Our verdict on settings is the installed TRL's verdict."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from r1kit.settings import SettingsError, load_profile, profile_names

pytestmark = pytest.mark.slow
BATCHES = list(
    itertools.product(
        (4, 6),  # per_device_train_batch_size
        (1, 3),  # gradient_accumulation_steps
        (None, 1, 2),  # steps_per_generation
        (None, 8, 12, 18),  # generation_batch_size
        (2, 3, 4),  # num_generations
    )
)[::7]


def verdict_of_trl(arguments: dict, folder: Path) -> bool:
    from trl import GRPOConfig

    try:
        GRPOConfig(output_dir=str(folder), bf16=False, use_cpu=True, report_to="none", **arguments)
    except ValueError:
        return False
    return True


def problem_keys(folder: Path, overrides: dict) -> set[str]:
    try:
        load_profile(folder, overrides)
    except SettingsError as error:
        return {problem.key for problem in error.problems}
    return set()


def test_batches_and_groups_are_judged_as_grpo_config_does(profile_folder: Path, tmp_path: Path) -> None:
    names = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "steps_per_generation",
        "generation_batch_size",
        "num_generations",
    )
    accepted = 0
    for values in BATCHES:
        arguments = dict(zip(names, values, strict=True))
        expected = verdict_of_trl(arguments, tmp_path)
        # Checkpoints between generation blocks are our rule alone.
        overrides = {f"grpo.{name}": value for name, value in arguments.items()} | {"grpo.save_steps": 36}
        keys = problem_keys(profile_folder, overrides)
        assert keys <= set(names), arguments
        found = not keys
        assert found == expected, arguments
        accepted += found
    assert 0 < accepted < len(BATCHES)


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles_build_the_real_configurations(name: str, tmp_path: Path) -> None:
    from transformers import TrainingArguments
    from trl import GRPOConfig, ModelConfig, SFTConfig

    classes = {"base": TrainingArguments, "sft": SFTConfig, "grpo": GRPOConfig}
    profile = load_profile(name)
    for section, configuration in classes.items():
        if settings := getattr(profile, section):
            configuration(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings.trl)
            ModelConfig(**settings.model)


@pytest.mark.parametrize("name", profile_names())
def test_shipped_accelerate_files_are_read_by_accelerate(name: str, tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    (tmp_path / "accelerate.yaml").write_text(load_profile(name).accelerate_yaml())
    read = ClusterConfig.from_yaml_file(str(tmp_path / "accelerate.yaml"))
    assert read.num_processes == load_profile(name).accelerate["num_processes"]


SHARDED = [
    name for name in profile_names() if load_profile(name).accelerate["distributed_type"] == "DEEPSPEED"
]


@pytest.mark.parametrize("name", SHARDED)
def test_shipped_deepspeed_settings_are_read_by_deepspeed(name: str) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (make setup-cluster)")
    from accelerate.utils import DeepSpeedPlugin
    from deepspeed.runtime.config import DeepSpeedConfig

    profile = load_profile(name)
    own = profile.accelerate["deepspeed_config"]
    plugin = DeepSpeedPlugin(
        zero_stage=own["zero_stage"],
        offload_optimizer_device=own.get("offload_optimizer_device", "none"),
        offload_param_device=own.get("offload_param_device", "none"),
        zero3_init_flag=own.get("zero3_init_flag", False),
    )
    batches = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "train_batch_size": 1}
    given = {key: value for key, value in plugin.deepspeed_config.items() if value != "auto"}
    read = DeepSpeedConfig(given | batches | {"bf16": {"enabled": True}})
    assert read.zero_config.stage == own["zero_stage"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("sft", "lr_scheduler_type", "cosin"),
        ("sft", "save_strategy", "sometimes"),
        ("sft", "optim", "adam"),
        ("sft", "warmup_steps", -1),
        ("grpo", "auto_find_batch_size", True),
        ("grpo", "load_best_model_at_end", True),
    ],
)
def test_what_trl_refuses_is_refused_before_anything_starts(
    section: str, key: str, value: object, profile_folder: Path, tmp_path: Path
) -> None:
    from trl import GRPOConfig, SFTConfig

    configuration = {"sft": SFTConfig, "grpo": GRPOConfig}[section]
    with pytest.raises(ValueError):
        configuration(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none", **{key: value})
    with pytest.raises(SettingsError, match=key):
        load_profile(profile_folder, {f"{section}.{key}": value})
