"""Broken profiles of the big machines: each mistake is stopped by the rule that is named for it.

Most are what users of open-r1 ran into, or what the guide this kit began with prints.
"""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from r1kit.settings import SettingsError, examine_profile, load_profile, profile_names
from r1kit.settings.profile import CONFIG_ROOT
from r1kit.settings.rules import RULES, machine
from tests.settings import test_bad_settings, test_cluster_rules

ACCURACY, THINK = {"name": "accuracy"}, {"name": "think_format", "weight": 0.1}
ENV = "machine.environment"
RAW = "grpo.model_name_or_path"

# (rule, key that is blamed, overrides), for mi350x-8 unless another profile stands in front of the rule.
BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("one_half_precision_at_most", "bf16", {"sft.fp16": True}),
    ("one_quantization_at_most", "load_in_4bit", {"sft.load_in_8bit": True, "sft.load_in_4bit": True}),
    ("answers_end_where_the_template_ends", "eos_token", {"sft.eos_token": None}),
    ("answers_end_where_the_template_ends", "eos_token", {"sft.eos_token": "<|endoftext|>"}),
    (
        "training_rows_fit_the_context",
        "max_length",
        {"sft.model_name_or_path": "Qwen/Qwen2.5-Math-7B"},
    ),
    ("completions_fit_the_context", "max_completion_length", {RAW: "Qwen/Qwen2.5-Math-7B"}),
    ("completions_fit_the_context", "max_completion_length", {"grpo.max_completion_length": 32768}),
    ("completions_fit_the_context", "max_new_tokens", {"evaluation.max_new_tokens": 65536}),
    ("packed_traces_need_an_attention_that_knows", "attn_implementation", {"sft.attn_implementation": None}),
    (
        "packed_traces_need_an_attention_that_knows",
        "attn_implementation",
        {"sft.attn_implementation": "eager"},
    ),
    ("our_rows_need_a_mask", "row_packing", {"sft.packing": False, "sft.row_packing": True}),
    ("rows_are_packed_one_way", "packing", {"sft.row_packing": True}),
    ("truncation_leaves_the_answers", "max_length", {"sft.max_length": 4096}),
    ("truncation_leaves_the_answers", "max_length", {"sft.max_length": 2048, "sft.packing": False}),
    ("rewards_know_the_form_of_the_traces", "rewards.1.name", {"grpo.rewards.1.name": "format"}),
    ("rewards_know_the_form_of_the_traces", "rewards.1.name", {"grpo.rewards.1.name": "tag_count"}),
    ("cpu-tiny/rewards_know_the_form_of_the_traces", "rewards.0.name", {"grpo.rewards": [THINK, ACCURACY]}),
    ("one_form_is_rewarded", "rewards.1.name", {"grpo.rewards": [ACCURACY, THINK, {"name": "format"}]}),
    ("being_right_pays_more_than_form", "rewards", {"grpo.rewards.1.weight": 5.0}),
    ("some_reward_has_weight", "rewards", {"grpo.rewards": [{"name": "accuracy", "weight": 0.0}]}),
    (
        "cosine_values_rise",
        "rewards.0.min_value_wrong",
        {"grpo.rewards": [{"name": "cosine", "min_value_wrong": 0.0}]},
    ),
    ("generation_batch_holds_whole_groups", "per_device_train_batch_size", {"grpo.num_generations": 7}),
    (
        "generation_batch_is_said_once",
        "generation_batch_size",
        {"grpo.generation_batch_size": 512, "grpo.steps_per_generation": 16},
    ),
    ("grpo_has_enough_prompts", "prompts", {"data.prompts": 8}),
    ("checkpoints_lie_between_generations", "save_steps", {"grpo.steps_per_generation": 48}),
    (
        "device_masks_agree",
        "environment.HIP_VISIBLE_DEVICES",
        {f"{ENV}.HIP_VISIBLE_DEVICES": "0,1", f"{ENV}.CUDA_VISIBLE_DEVICES": "2,3"},
    ),
    ("device_masks_agree", "environment.ROCR_VISIBLE_DEVICES", {f"{ENV}.ROCR_VISIBLE_DEVICES": "0,1"}),
    (
        "no_growing_segments_beside_vllm",
        "environment.PYTORCH_CUDA_ALLOC_CONF",
        {f"{ENV}.PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    ),
    ("secrets_stay_out_of_files", "environment.HF_TOKEN", {f"{ENV}.HF_TOKEN": "hf_abc"}),
    (
        "image_has_releases_that_work_together",
        "image",
        {"machine.image": "rocm/vllm:rocm7.0.0_vllm_0.11.2_20251210"},
    ),
    ("accelerator_is_of_the_device", "accelerator", {"machine.accelerator": "cpu"}),
    (
        "scores_of_eager_attention_fit",
        "attn_implementation",
        {"grpo.attn_implementation": "eager", "grpo.gradient_checkpointing": False},
    ),
    ("flash_attention_computes_in_half", "bf16", {"sft.dtype": "float32", "sft.bf16": False}),
    ("precisions_agree", "bf16", {"grpo.bf16": False}),
    (
        "zero_stage_is_one_of_four",
        "deepspeed_config.zero_stage",
        {"accelerate.deepspeed_config.zero_stage": 4},
    ),
    ("sharding_has_its_settings", "deepspeed_config", {"accelerate.distributed_type": "MULTI_GPU"}),
    ("h200-1/sharding_has_its_settings", "deepspeed_config", {"accelerate.distributed_type": "DEEPSPEED"}),
    (
        "the_trainer_counts_the_batches",
        "deepspeed_config.gradient_accumulation_steps",
        {"accelerate.deepspeed_config.gradient_accumulation_steps": 7},
    ),
    ("long_runs_save_at_all", "save_strategy", {"sft.save_strategy": "no"}),
    ("long_runs_save_at_all", "save_steps", {"grpo.max_steps": 50, "grpo.save_steps": 100}),
    ("checkpoints_can_be_resumed", "save_only_model", {"sft.save_only_model": True}),
    ("quantized_weights_need_adapters", "load_in_4bit", {"sft.load_in_4bit": True}),
    ("least_rate_is_said", "lr_scheduler_kwargs", {"sft.lr_scheduler_kwargs": None}),
    ("a_synced_reference_needs_beta", "sync_ref_model", {"grpo.sync_ref_model": True}),
    ("cpu-tiny/evaluation_fits_the_data", "benchmarks", {"evaluation.benchmarks": {"aime24": 64}}),
    ("cpu-tiny/the_base_model_reads_stories", "source", {"data.source": "hub"}),
    (
        "mi350x-8-seed/gold_is_an_answer",
        "prompts_from.0.solution_column",
        {"data.prompts_from.0.solution_column": "solution"},
    ),
    ("pass_rate_is_a_band", "prompts_from.0.pass_rate", {"data.prompts_from.0.pass_rate": [0.6, 0.1]}),
    ("a_known_part_of_the_dataset", "traces_from.0.config", {"data.traces_from.0.config": "maths"}),
    ("a_known_part_of_the_dataset", "prompts_from.0.config", {"data.prompts_from.0.config": "english"}),
    ("pass_rates_belong_to_a_band", "prompts_from.0.pass_rates", {
        "data.prompts_from.0.pass_rate": None, "data.prompts_from.0.pass_rates": "./rates.jsonl"}),
    ("rewards_can_judge_the_prompts", "prompts_from.0.dataset", {"grpo.rewards.0.name": "code"}),
    ("rewards_can_judge_the_prompts", "prompts_from.0.dataset", {
        "data.prompts_from.0.dataset": "open-r1/codeforces",
        "data.prompts_from.0.config": "verifiable-prompts"}),
    ("accelerate_uses_the_device", "use_cpu", {"accelerate.use_cpu": True}),
    ("h200-1/processes_agree_with_their_kind", "num_processes", {"accelerate.num_processes": 8}),
    ("trained_models_exist_before", "model_name_or_path", {RAW: "05_evaluation"}),
    ("model_keys_have_an_effect", "lora_r", {"sft.lora_r": 8}),
    ("length_of_training_is_said_once", "num_train_epochs", {
        "sft.max_steps": 100, "sft.num_train_epochs": 2}),
    ("renamed_key", "max_seq_length", {"sft.max_seq_length": 4096}),
    ("renamed_key", "vllm_server_url", {"grpo.vllm_server_url": "http://localhost:8001/v1"}),
    ("refused_key", "reward_weights", {"grpo.reward_weights": [1.0]}),
    ("unknown_key", "lerning_rate", {"sft.lerning_rate": 1e-5}),
    ("wrong_value", "learning_rate", {"sft.learning_rate": "4e-5"}),
]  # fmt: skip
UNWISE: list[tuple[str, str, dict[str, Any]]] = [
    ("rates_are_near_published_ones", "learning_rate", {"grpo.learning_rate": 2e-5}),
    ("rates_are_near_published_ones", "learning_rate", {"sft.learning_rate": 1e-3}),
    ("form_is_a_small_reward", "rewards", {"grpo.rewards.1.weight": 1.0}),
    ("grpo_goes_on_from_the_sft", "model_name_or_path", {RAW: "open-r1/Qwen2.5-Math-7B-RoPE-300k"}),
    ("packed_traces_stay_whole", "packing_strategy", {"sft.packing_strategy": "wrapped"}),
    ("truncation_is_rare", "max_length", {"sft.max_length": 16384}),
    ("a_step_has_enough_prompts", "gradient_accumulation_steps", {"grpo.gradient_accumulation_steps": 4}),
    ("cut_completions_are_masked", "mask_truncated_completions", {"grpo.mask_truncated_completions": False}),
    ("the_reference_model_is_wanted", "beta", {"grpo.beta": 0.04}),
    ("weights_have_a_stated_precision", "dtype", {}),
    ("eager_attention_is_for_tests", "attn_implementation", {"grpo.attn_implementation": "eager"}),
    ("long_runs_save_on_the_way", "save_strategy", {"sft.num_train_epochs": 1, "sft.save_strategy": "epoch"}),
    ("benchmarks_are_sampled_enough", "benchmarks.aime24", {"evaluation.benchmarks.aime24": 1}),
    ("channels_suit_the_card", "environment.NCCL_MIN_NCHANNELS", {f"{ENV}.NCCL_MIN_NCHANNELS": "112"}),
    (
        "nccl_errors_keep_their_default",
        "environment.NCCL_ASYNC_ERROR_HANDLING",
        {f"{ENV}.NCCL_ASYNC_ERROR_HANDLING": "1"},
    ),
    ("variables_still_mean_something", "environment.VLLM_USE_V1", {f"{ENV}.VLLM_USE_V1": "1"}),
    (
        "the_optimizer_stays_on_the_device",
        "deepspeed_config.offload_optimizer_device",
        {"accelerate.deepspeed_config.offload_optimizer_device": "cpu"},
    ),
    (
        "the_form_is_taught_or_told",
        "rewards.1.name",
        {RAW: "open-r1/Qwen2.5-Math-7B-RoPE-300k", "grpo.rewards.1.name": "format"},
    ),
]


def findings(rule: str, overrides: dict[str, Any]) -> tuple[str, list]:
    profile, _, name = rule.rpartition("/")
    return name, examine_profile(profile or "mi350x-8", overrides)


@pytest.mark.parametrize(("rule", "key", "overrides"), BROKEN, ids=lambda value: str(value)[:60])
def test_a_broken_profile_is_stopped_by_the_right_rule(rule: str, key: str, overrides: dict) -> None:
    name, found = findings(rule, overrides)
    hits = [problem for problem in found if problem.rule == name and problem.key == key]
    assert hits, [f"{problem.rule} {problem.key}" for problem in found]
    assert hits[0].severity == "error"
    assert hits[0].message or hits[0].allowed
    with pytest.raises(SettingsError) as error:
        load_profile(rule.rpartition("/")[0] or "mi350x-8", overrides)
    assert error.value.exit_code == 2
    assert all(problem.severity == "error" for problem in error.value.problems)


@pytest.mark.parametrize(("rule", "key", "overrides"), UNWISE, ids=lambda value: str(value)[:60])
def test_what_runs_but_is_unwise_is_a_warning_and_stops_nothing(
    rule: str, key: str, overrides: dict, tmp_path: Path
) -> None:
    folder = tmp_path / "mi350x-8"
    shutil.copytree(CONFIG_ROOT / "mi350x-8", folder)
    if rule == "weights_have_a_stated_precision":
        text = (folder / "sft.yaml").read_text().replace("dtype: bfloat16", "# dtype: bfloat16")
        (folder / "sft.yaml").write_text(text)
    profile = load_profile(folder, overrides)
    hits = [problem for problem in profile.warnings if problem.rule == rule]
    assert key in [problem.key for problem in hits]
    assert all(problem.allowed for problem in hits)


# Rules whose tests change more than values of a profile, or that are about pipeline.yaml and algorithms.
ELSEWHERE = {
    "a_server_outside_loopback_is_known",
    "algorithm_is_what_its_name_says",
    "curriculum_reads_a_reward",
    "dr_grpo_at_stages_keeps_its_constant",
    "each_process_chooses_whole_groups",
    "extra_groups_have_prompts",
    "installed_releases_work_together",
    "keys_are_of_the_installed_releases",
    "length_compares_whole_groups",
    "lengths_belong_to_their_strategy",
    "lengths_grow_to_the_limit",
    "weights_have_a_stated_precision",
}


@pytest.mark.slow
def test_every_rule_says_what_goes_wrong_without_it_and_is_violated_by_a_table(profile_folder: Path) -> None:
    assert all((rule.violations.__doc__ or "").strip() for rule in RULES.values())
    found = [findings(rule, overrides)[1] for rule, _, overrides in [*BROKEN, *UNWISE]]
    found += [examine_profile(profile_folder, overrides) for _, overrides, *_ in test_cluster_rules.BAD]
    for bad in test_bad_settings.ALL:
        folder = profile_folder.parent / "broken"
        shutil.copytree(profile_folder, folder)
        test_bad_settings.break_it(folder, bad)
        found.append(examine_profile(folder))
        shutil.rmtree(folder)
    violated = {problem.rule for problems in found for problem in problems}
    pipelines = {name for name, rule in RULES.items() if "stages_of" in rule.violations.__code__.co_names}
    assert set(RULES) - violated - pipelines == ELSEWHERE


def test_installed_releases_outside_trls_window_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM 0.33 was the newest wheel when TRL 1.16 took at most 0.31."""
    real = metadata.version
    monkeypatch.setattr(machine.metadata, "version", lambda name: "0.33.0" if name == "vllm" else real(name))
    rules = [problem.rule for problem in examine_profile("mi350x-8")]
    assert "installed_releases_work_together" in rules


@pytest.mark.parametrize("name", profile_names())
def test_our_own_profiles_have_no_errors(name: str) -> None:
    assert [problem for problem in examine_profile(name) if problem.severity == "error"] == []


@pytest.mark.parametrize("name", ["cpu-tiny", "gpu-small", "h200-1", "h200-8", "mi350x-8"])
def test_what_we_recommend_has_no_warnings_either(name: str) -> None:
    assert examine_profile(name) == []


def test_the_guides_grpo_yaml_as_printed_gets_the_right_form_of_each_mistake(tmp_path: Path) -> None:
    folder = tmp_path / "guide"
    shutil.copytree(CONFIG_ROOT / "mi350x-8-seed", folder)
    shutil.copy(Path(__file__).parent / "recorded" / "guide_grpo.yaml", folder / "grpo.yaml")
    found = {
        problem.key: problem.as_finding()
        for problem in examine_profile(folder)
        if Path(problem.file).name == "grpo.yaml"
    }
    right_forms = {
        "torch_dtype": "dtype",
        "dataset_name": "prompts_from",
        "dataset_prompt_column": "prompt_column",
        "max_prompt_length": "max_prompt_length in data.yaml",
        "reward_funcs": "rewards",
        "reward_weights": "[{name: accuracy, weight: 1.0}]",
        "warmup_ratio": "warmup_steps",
        "vllm_server_url": "vllm_server_base_url",
        "output_dir": "runs/<run_id>",
        "max_completion_length": "open-r1/Qwen2.5-Math-7B-RoPE-300k",
        "attn_implementation": "flash_attention_2",
        "learning_rate": "1e-6",
        "model_name_or_path": "02_sft",
    }
    assert set(right_forms) <= set(found)
    for key, form in right_forms.items():
        assert form in found[key]["fix"] + found[key]["message"], found[key]
    assert sum(finding["severity"] == "error" for finding in found.values()) >= 8
