"""Every bad setting gets one clear message: file, key, found, allowed, nearest name. Nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from r1kit.settings import Problem, SettingsError, load_profile


class Bad(NamedTuple):
    """In `file`, `old` becomes `new` (appended if `old` is empty); the problem must look like the rest."""

    file: str
    old: str
    new: str
    key: str
    says: str
    nearest: str = ""
    blamed: str = ""  # the file in the message, where it is not `file`


UNKNOWN = [
    Bad("sft", "", "lerning_rate: 1e-3", "lerning_rate", "Unknown key", "learning_rate"),
    Bad(
        "grpo", "num_generations: 8", "num_generation: 8", "num_generation", "Unknown key", "num_generations"
    ),
    Bad("data", "traces: 4000", "traces: 4000\ntrace: 1", "trace", "Unknown key", "traces"),
    Bad("evaluation", "samples: 4", "samples: 4\ntemprature: 1.0", "temprature", "Unknown", "temperature"),
    Bad("machine", "", "grace: 3", "grace", "Unknown key", "grace_seconds"),
    Bad(
        "base",
        "  hidden_size: 128",
        "  hidden_size: 128\n  hiden: 1",
        "architecture.hiden",
        "Unknown",
        "hidden_size",
    ),
    Bad("grpo", "weight: 0.2", "wieght: 0.2", "rewards.1.wieght", "Unknown key", "weight"),
    Bad("grpo", "name: format", "name: formt", "rewards.1.name", "accuracy, format, tag_count", "format"),
    Bad("machine", "{01_data: 2.0", "{01_dat: 2.0", "expected_minutes.01_dat", "01_data, 02_sft", "01_data"),
    Bad(
        "accelerate",
        "num_processes: 1",
        "num_proceses: 1",
        "num_proceses",
        "accelerate would",
        "num_processes",
    ),
    Bad("sft", "", "num_generations: 8", "num_generations", "belongs in grpo.yaml"),
    Bad("sft", "", "slip_rate: 0.1", "slip_rate", "belongs in data.yaml"),
]
RENAMED = [
    Bad("sft", "max_length: 256", "max_seq_length: 256", "max_seq_length", "TRL renamed it", "max_length"),
    Bad("grpo", "", "max_prompt_length: 96", "max_prompt_length", "max_prompt_length in data.yaml"),
    Bad("grpo", "", "vllm_server_url: http://a", "vllm_server_url", "TRL calls it", "vllm_server_base_url"),
    Bad("sft", "", "torch_dtype: float32", "torch_dtype", "transformers renamed it", "dtype"),
    Bad("grpo", "", "reward_funcs: [accuracy]", "reward_funcs", "rewards are a list", "rewards"),
    Bad("sft", "", 'evaluation_strategy: "no"', "evaluation_strategy", "renamed", "eval_strategy"),
    Bad("sft", "max_steps: 200", "num_train_steps: 200", "num_train_steps", "max_steps", "max_steps"),
    Bad("sft", "", "warmup_ratio: 0.1", "warmup_ratio", "share of all steps", "warmup_steps"),
]
REFUSED = [
    Bad("sft", "", "output_dir: out", "output_dir", "run folder decides"),
    Bad("grpo", "", "reward_weights: [1.0, 0.2]", "reward_weights", "beside its reward"),
    Bad("sft", "", "resume_from_checkpoint: here", "resume_from_checkpoint", "--resume RUN_ID"),
    Bad("grpo", "", "hub_token: hf_1", "hub_token", "HF_TOKEN"),
    Bad("grpo", "", "deepspeed: zero2.json", "deepspeed", "accelerate.yaml"),
]
TYPES = [
    Bad(
        "sft",
        "learning_rate: 4e-3",
        'learning_rate: "1e-6"',
        "learning_rate",
        "write the bare number: learning_rate: 1e-6",
    ),
    Bad("grpo", "beta: 0.0", "beta: none", "beta", "a number"),
    Bad(
        "sft",
        "max_steps: 200",
        "max_steps: 200.0",
        "max_steps",
        "without a point or exponent: max_steps: 200",
    ),
    Bad("sft", "bf16: false", 'bf16: "false"', "bf16", "write bf16: false"),
    Bad("sft", "", "save_strategy: no", "save_strategy", 'save_strategy: "no"'),
    Bad("sft", "", "lr_scheduler_type: cosin", "lr_scheduler_type", "linear, cosine", "cosine"),
    Bad("sft", "", "dtype: float23", "dtype", "auto, bfloat16", "float32"),
    Bad("grpo", "loss_type: dapo", "loss_type: dappo", "loss_type", "dr_grpo", "dapo"),
    Bad("grpo", "", "vllm_mode: colocated", "vllm_mode", "server, colocate", "colocate"),
    Bad("evaluation", "k: [1, 2, 4]", "k: 4", "k", "Write a list: k: [4]"),
    Bad("data", "levels: [1, 2, 3]\nheld", "levels: [1, two]\nheld", "levels.1", "a whole number"),
    Bad("data", "source: stories", "source: gsm8k", "source", "stories"),
    Bad("machine", "device: cpu", "device: gpu", "device", "auto, cpu, cuda", "cpu"),
    Bad("machine", "grace_seconds: 30", "grace_seconds:", "grace_seconds", "has no value"),
    Bad("sft", "", "lora_target_modules: all-linear\nuse_peft: true", "lora_target_modules", "[all-linear]"),
    Bad("grpo", "collapse: {learning_rate: 3e-3, ", "collapse: {", "collapse.learning_rate", "missing"),
    Bad("data", "seed: 7\n", "", "seed", "The key is missing"),
    Bad("accelerate", 'distributed_type: "NO"', "distributed_type: NO", "distributed_type", '"NO"'),
    Bad(
        "accelerate",
        'mixed_precision: "no"',
        "mixed_precision: no",
        "mixed_precision",
        'mixed_precision: "no"',
    ),
]
BOUNDS = [
    Bad("sft", "learning_rate: 4e-3", "learning_rate: -1e-3", "learning_rate", "greater than 0"),
    Bad("sft", "learning_rate: 4e-3", "learning_rate: .nan", "learning_rate", "a finite number"),
    Bad("grpo", "num_generations: 8", "num_generations: 1", "num_generations", "greater than or equal to 2"),
    Bad("grpo", "num_generations: 8", "num_generations:", "num_generations", "has no value"),
    Bad("accelerate", "num_processes: 1", "num_processes:", "num_processes", "a whole number"),
    Bad("grpo", "temperature: 1.0", "temperature: 0.0", "temperature", "greater than 0"),
    Bad("evaluation", "temperature: 1.0", "temperature: 0", "temperature", "greater than 0"),
    Bad("evaluation", "top_p: 1.0", "top_p: 1.5", "top_p", "less than or equal to 1"),
    Bad("data", "slip_rate: 0.15", "slip_rate: 1.0", "slip_rate", "less than 1"),
    Bad(
        "data",
        "vocabulary_size: 352",
        "vocabulary_size: 256",
        "vocabulary_size",
        "greater than or equal to 274",
    ),
    Bad(
        "data",
        "heldout_levels: [1, 2, 3, 4, 5]",
        "heldout_levels: []",
        "heldout_levels",
        "at least one entry",
    ),
    Bad("sft", "max_steps: 200", "max_steps: 0", "max_steps", "1 or more, or -1"),
]
BATCHES = [
    Bad("grpo", "num_generations: 8", "num_generations: 7", "per_device_train_batch_size", "multiple of 7"),
    Bad(
        "grpo",
        "",
        "steps_per_generation: 2\ngeneration_batch_size: 128",
        "generation_batch_size",
        "refuses both",
    ),
    Bad("grpo", "", "generation_batch_size: 72", "generation_batch_size", "a multiple of 64"),
    Bad("grpo", "", "steps_per_generation: 8", "save_steps", "multiple of 4")._replace(
        old="save_steps: 20", new="save_steps: 10\nsteps_per_generation: 8"
    ),
    Bad("data", "prompts: 1000", "prompts: 10", "prompts", "at least 16"),
    Bad("grpo", "", "auto_find_batch_size: true", "auto_find_batch_size", "cannot shrink its batch"),
    Bad("accelerate", "num_processes: 1", "num_processes: 2", "num_processes", "means one process"),
]
CONTEXT = [
    Bad(
        "sft",
        "max_length: 256",
        "max_length: 512",
        "max_length",
        "at most 256, max_position_embeddings in base.yaml",
    ),
    Bad("sft", "max_length: 256\n", "", "max_length", "the default: the file does not say"),
    Bad(
        "base",
        "optimizer: muon",
        "optimizer: muon\nmax_length: 512",
        "max_length",
        "longer than the model's context",
    ),
    Bad(
        "grpo",
        "max_completion_length: 96",
        "max_completion_length: 200",
        "max_completion_length",
        "at most 160",
    ),
    Bad("evaluation", "max_new_tokens: 96", "max_new_tokens: 200", "max_new_tokens", "at most 160"),
    Bad("base", "hidden_size: 128", "hidden_size: 130", "architecture.hidden_size", "a multiple of 8"),
    Bad(
        "base",
        "key_value_heads: 2",
        "key_value_heads: 3",
        "architecture.num_key_value_heads",
        "one of 1, 2, 4",
    ),
]
MODELS = [
    Bad("sft", "path: 01_data", "path: 04_grpo", "model_name_or_path", "is not before it", "01_data"),
    Bad("sft", "path: 01_data", "path: 02_sft", "model_name_or_path", "is not before it", "01_data"),
    Bad("grpo", "path: 02_sft", "path: 02sft", "model_name_or_path", "no such stage", "02_sft"),
    Bad("grpo", "path: 02_sft", "path: 03_vllm", "model_name_or_path", "makes no model"),
    Bad("grpo", "path: 02_sft", "path: ./nowhere", "model_name_or_path", "no such folder"),
    Bad("grpo", "path: 02_sft", "path: no-body/has-this-model", "model_name_or_path", "forbids the network"),
    Bad(
        "sft", "model_name_or_path: 01_data\n", "", "model_name_or_path", "which model is trained", "01_data"
    ),
    Bad("base", "", "model_name_or_path: Qwen/Qwen3-0.6B", "model_name_or_path", "random weights"),
    Bad("sft", "", "lora_r: 8", "lora_r", "use_peft: true"),
]
TOGETHER = [
    Bad("sft", "bf16: false\n", "", "bf16", "TRL turns bf16 on when the key is missing"),
    Bad("grpo", "bf16: false", "bf16: true", "bf16", "only float32 is fast"),
    Bad("sft", "", "dtype: bfloat16", "dtype", "only float32 is fast"),
    Bad("accelerate", 'mixed_precision: "no"', "mixed_precision: bf16", "mixed_precision", "device: cpu"),
    Bad("accelerate", "use_cpu: true", "use_cpu: false", "use_cpu", "machine.yaml says device: cpu"),
    Bad("sft", "", "use_cpu: false", "use_cpu", "machine.yaml says device: cpu"),
    Bad("sft", "", "packing: true", "packing", "row_packing"),
    Bad("sft", "", "optim: adamw_torch", "optim", "optimizer: muon replaces it"),
    Bad("sft", "", "warmup_steps: 200", "warmup_steps", "less than max_steps, 200"),
    Bad("sft", "", "num_train_epochs: 2", "num_train_epochs", "max_steps is 200 and wins"),
    Bad("sft", "", "load_best_model_at_end: true", "load_best_model_at_end", "no best model"),
    Bad("grpo", "", "remove_unused_columns: true", "remove_unused_columns", "would not reach the rewards"),
    Bad("grpo", "{name: format, weight: 0.2}", "{name: accuracy}", "rewards", "accuracy is named twice"),
    Bad(
        "grpo", "learning_rate: 3e-3", "learning_rate: 1e-5", "collapse.learning_rate", "larger learning rate"
    ),
    Bad("evaluation", "samples: 4", "samples: 2", "k", "at most 2, samples"),
    Bad("evaluation", "per_level: 70", "per_level: 700", "problems_per_level", "at most 80"),
    Bad(
        "data",
        "heldout_levels: [1, 2, 3, 4, 5]",
        "heldout_levels: [1, 2]",
        "levels",
        "held out for [3]",
        blamed="evaluation",
    ),
    Bad("data", "levels: [1, 2, 3]\nheld", "levels: [1, 1, 2]\nheld", "levels", "written twice"),
    Bad(
        "machine",
        "OMP_NUM_THREADS: 2",
        "OMP_NUM_THREADS: two",
        "environment.OMP_NUM_THREADS",
        "would be ignored",
    ),
]
REWARDS = [
    Bad("grpo", "{name: format, weight: 0.2}", "format", "rewards.1", "Write a mapping: {name: format}"),
    Bad("grpo", "{name: format, weight: 0.2}", "{weight: 0.2}", "rewards.1.name", "The key is missing"),
    Bad(
        "grpo",
        "{name: format, weight: 0.2}",
        "{name: cosine, max_leng: 9}",
        "rewards.1.max_leng",
        "Unknown key",
        "max_len",
    ),
    Bad(
        "grpo",
        "{name: format, weight: 0.2}",
        "{name: format, max_len: 9}",
        "rewards.1.max_len",
        "weight, name",
    ),
    Bad(
        "grpo",
        "{name: format, weight: 0.2}",
        "{name: code_format, language: pyton}",
        "rewards.1.language",
        "python, cpp",
        "python",
    ),
    Bad(
        "grpo",
        "{name: format, weight: 0.2}",
        "{name: cosine, min_value_wrong: 0.0}",
        "rewards.1.min_value_wrong",
        "at most max_value_wrong, -0.5",
    ),
    Bad(
        "grpo",
        "{name: format, weight: 0.2}",
        "{name: cosine, min_value_correct: 1.5}",
        "rewards.1.min_value_correct",
        "long right ones would earn most",
    ),
    Bad(
        "grpo",
        "{name: format, weight: 0.2}",
        "{name: soft_overlong_punishment, soft_punish_cache: 96}",
        "rewards.1.soft_punish_cache",
        "less than 96",
    ),
    Bad(
        "grpo",
        "{name: format, weight: 0.2}",
        "{name: soft_overlong_punishment, soft_punish_cache: 9, max_completion_len: 16384}",
        "rewards.1.max_completion_len",
        "would never be whole",
    ),
    Bad(
        "grpo", "{name: accuracy, weight: 1.0}", "{name: accuracy, weight: 0}", "rewards", "nothing to learn"
    )._replace(
        old="{name: accuracy, weight: 1.0}\n  - {name: format, weight: 0.2}",
        new="{name: accuracy, weight: 0}",
    ),
    Bad(
        "grpo",
        "{name: accuracy, weight: 1.0}",
        "{name: think_format}",
        "rewards.0.name",
        "both this form and that of format",
    ),
    Bad("grpo", "", "cosine_max_len: 1000", "cosine_max_len", "rewards: [{name: cosine, max_len: ...}]"),
    Bad("grpo", "", "code_provider: e2b", "code_provider", "sandbox: {tier: auto}"),
    Bad("machine", "", "sandbox: {tier: docker}", "sandbox.tier", "auto, bubblewrap"),
    Bad("machine", "", "sandbox: {memory: 1}", "sandbox.memory", "Unknown key", "memory_mb"),
]
YAML = [
    Bad("sft", "", "learning_rate: 1e-3", "learning_rate", "written twice"),
    Bad("sft", "max_steps: 200", "max_steps: [200", "", "not readable YAML"),
    Bad("sft", "max_steps: 200", "\tmax_steps: 200", "", "not readable YAML"),
    Bad("data", "seed: 7", "no: 7", "", "in quotes: 'no'"),
]
ALL = [*UNKNOWN, *RENAMED, *REFUSED, *TYPES, *BOUNDS, *BATCHES, *CONTEXT, *MODELS, *TOGETHER, *REWARDS, *YAML]


def break_it(folder: Path, bad: Bad) -> None:
    path = folder / f"{bad.file}.yaml"
    text = path.read_text()
    assert bad.old in text, "the table and the fixture have grown apart"
    path.write_text(text.replace(bad.old, bad.new) if bad.old else f"{text}{bad.new}\n")


def problems_of(folder: Path, **overrides: object) -> list[Problem]:
    with pytest.raises(SettingsError) as error:
        load_profile(folder, overrides)
    assert error.value.exit_code == 2
    return error.value.problems


ALONE = [*UNKNOWN, *RENAMED[1:6], *REFUSED, *TYPES, *CONTEXT]


def name(bad: Bad) -> str:
    return f"{bad.file}-{bad.new or 'without ' + bad.old}".replace("\n", " ")[:60]


@pytest.mark.parametrize("bad", ALL, ids=name)
def test_a_bad_setting_gets_one_message_with_file_key_and_remedy(bad: Bad, profile_folder: Path) -> None:
    break_it(profile_folder, bad)
    found = problems_of(profile_folder)
    (problem,) = [p for p in found if p.key == bad.key]
    assert Path(problem.file).name == f"{bad.blamed or bad.file}.yaml"
    assert bad.says in str(problem)
    assert problem.nearest == bad.nearest
    if bad.new and not bad.blamed:
        assert problem.line is not None
    assert problem.found or not bad.key
    if bad in ALONE:
        # Taking a required key away is a second mistake; nothing else may follow from one.
        others = [p for p in found if p is not problem]
        assert all("missing" in p.message or "default" in p.found for p in others), others


def test_there_are_at_least_45_bad_settings() -> None:
    assert len(ALL) >= 45


def test_all_errors_of_a_file_are_reported_at_once(profile_folder: Path) -> None:
    path = profile_folder / "sft.yaml"
    text = path.read_text().replace("learning_rate: 4e-3", 'learning_rate: "4e-3"').replace("256", "512")
    path.write_text(f"{text}max_seq_length: 256\noutput_dir: out\nbeta: 0.1\n")
    keys = [problem.key for problem in problems_of(profile_folder)]
    assert sorted(keys) == ["beta", "learning_rate", "max_length", "max_seq_length", "output_dir"]


def test_errors_of_two_files_are_reported_at_once(profile_folder: Path) -> None:
    (profile_folder / "data.yaml").write_text("source: stories\n")
    (profile_folder / "grpo.yaml").write_text("learning_rte: 1\n")
    files = {Path(problem.file).name for problem in problems_of(profile_folder)}
    assert {"data.yaml", "grpo.yaml"} <= files


@pytest.mark.parametrize("file", ["machine", "data", "sft", "grpo", "evaluation", "accelerate"])
def test_a_missing_file_is_named(file: str, profile_folder: Path) -> None:
    (profile_folder / f"{file}.yaml").unlink()
    problem = problems_of(profile_folder)[0]
    assert Path(problem.file).name == f"{file}.yaml"
    assert "The file is missing" in problem.message


def test_a_misnamed_file_is_recognised(profile_folder: Path) -> None:
    (profile_folder / "grpo.yaml").rename(profile_folder / "grop.yaml")
    assert problems_of(profile_folder)[0].nearest == "grop.yaml"


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "an empty file"), ("# nothing\n", "an empty file"), ("- a\n- b\n", "list"), ("sft", "text")],
)
def test_a_file_that_is_no_mapping_is_refused(text: str, found: str, profile_folder: Path) -> None:
    for file in ("sft", "machine", "accelerate"):
        (profile_folder / f"{file}.yaml").write_text(text)
    problems = [p for p in problems_of(profile_folder) if not p.key]
    assert len(problems) == 3
    assert all(found in problem.found and "mapping" in problem.allowed for problem in problems)


def test_a_file_that_is_no_text_is_refused(profile_folder: Path) -> None:
    (profile_folder / "sft.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in problems_of(profile_folder)[0].allowed


def test_a_profile_without_base_yaml_cannot_start_from_stage_01(profile_folder: Path) -> None:
    (profile_folder / "base.yaml").unlink()
    problem = next(p for p in problems_of(profile_folder) if p.key == "model_name_or_path")
    assert "only if the profile has base.yaml" in problem.message


def test_an_unknown_profile_names_the_nearest(profile_folder: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load_profile("tniy", config_root=profile_folder.parent)
    assert error.value.problems[0].nearest == "tiny"
    assert "tniy" in str(error.value)
    for missing in ("", "./nowhere", str(profile_folder / "sft.yaml")):
        with pytest.raises(SettingsError, match="unknown profile"):
            load_profile(missing, config_root=profile_folder.parent)


def test_the_length_reward_wants_whole_groups_in_each_process(profile_folder: Path) -> None:
    """Two processes of 12 completions hold three groups of 8 together, but one and a half each."""
    changes = {
        "accelerate.distributed_type": "MULTI_GPU",
        "accelerate.num_processes": 2,
        "grpo.per_device_train_batch_size": 12,
        "grpo.gradient_accumulation_steps": 1,
        "grpo.rewards": [{"name": "accuracy"}, {"name": "length"}],
    }
    (problem,) = problems_of(profile_folder, **changes)
    assert problem.key == "rewards.1"
    assert "a process holds 12" in problem.message
    assert "multiple of 8" in problem.allowed
    load_profile(profile_folder, changes | {"grpo.per_device_train_batch_size": 16})
