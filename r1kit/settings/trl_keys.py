"""The keys of TRL, transformers and accelerate that a profile's files take.

trl_keys.json holds their names, types and defaults, and the releases they are from; requirements/trl_keys.py
writes it from the real classes. The tables below add what the classes do not declare: bounds, keys that must
not be in a file, former names.
"""

from __future__ import annotations

import functools
import json
import types
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field

FILE = Path(__file__).with_suffix(".json")
REGENERATE = "python requirements/trl_keys.py"
CLASSES = {"base": "TrainingArguments", "sft": "SFTConfig", "grpo": "GRPOConfig", "model": "ModelConfig"}
_PLAIN = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "dict": dict,
    "null": types.NoneType,
    "any": Any,
}


@dataclass(frozen=True)
class Key:
    """One field of a configuration class: its type, its default (`...` if it has no plain one)."""

    name: str
    type: Any
    default: Any = ...


@functools.cache
def keys(config: str) -> dict[str, Key]:
    """List the fields of a class of `CLASSES`, in the order of the class."""
    return {
        name: Key(name, _bounded(name, _type(field["type"])), field.get("default", ...))
        for name, field in _content()[config].items()
    }


@functools.cache
def trainer_keys(section: str) -> dict[str, Any]:
    """List the keys of a trainer and of ModelConfig that the section's file takes, with their types."""
    both = {**keys("model"), **keys(section)}
    return {name: key.type for name, key in both.items() if name not in REFUSED}


def default(section: str, key: str) -> Any:
    """Return the default that the classes give `key`; `...` if there is no key or no plain default."""
    for config in (section, "model"):
        if key in keys(config):
            return keys(config)[key].default
    return ...


def accelerate_keys() -> list[str]:
    """List the keys of accelerate's own configuration file."""
    return _content()["accelerate"]


def distributed_types() -> list[str]:
    """List the values of `distributed_type` in accelerate's file."""
    return _content()["distributed_types"]


def other_releases() -> dict[str, tuple[str, str]]:
    """Find installed releases that trl_keys.json is not from: name -> (installed, in the file)."""
    found = {}
    for name, release in _content()["releases"].items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if installed != release:
            found[name] = (installed, release)
    return found


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def _type(alternatives: list[Any]) -> Any:
    return Union[tuple(_alternative(item) for item in alternatives)]  # noqa: UP007 - built from a list


def _alternative(item: str | list[Any]) -> Any:
    if isinstance(item, str):
        return _PLAIN[item]
    kind, *rest = item
    if kind == "one of":
        return Literal[tuple(rest)]
    return list[_type(rest)] if kind == "list" else dict[str, _type(rest)]


def _bounded(name: str, kind: Any) -> Any:
    bounds = BOUNDS.get(name)
    if not bounds:
        return kind
    union = get_origin(kind) in (Union, types.UnionType)
    kinds = [
        Annotated[member, Field(**bounds)] if member in (int, float) else member
        for member in (get_args(kind) if union else (kind,))
        if not (member is types.NoneType and name in NEVER_EMPTY)
    ]
    return Union[tuple(kinds)]  # noqa: UP007 - built from a list


# Keys whose annotation takes None although the trainer then fails.
NEVER_EMPTY = ("num_generations",)

# Bounds that the trainers assume: (operator of pydantic's Field, value).
BOUNDS: dict[str, dict[str, float]] = {
    "learning_rate": {"gt": 0},
    "weight_decay": {"ge": 0},
    "warmup_steps": {"ge": 0},
    "max_grad_norm": {"ge": 0},
    "adam_beta1": {"ge": 0, "lt": 1},
    "adam_beta2": {"ge": 0, "lt": 1},
    "adam_epsilon": {"gt": 0},
    "num_train_epochs": {"gt": 0},
    "per_device_train_batch_size": {"ge": 1},
    "per_device_eval_batch_size": {"ge": 1},
    "gradient_accumulation_steps": {"ge": 1},
    "generation_batch_size": {"ge": 1},
    "steps_per_generation": {"ge": 1},
    "num_generations": {"ge": 2},
    "num_iterations": {"ge": 1},
    "max_completion_length": {"ge": 1},
    "max_length": {"ge": 1},
    "logging_steps": {"gt": 0},
    "save_steps": {"gt": 0},
    "save_total_limit": {"ge": 1},
    "seed": {"ge": 0},
    "temperature": {"gt": 0},
    "top_p": {"gt": 0, "le": 1},
    "top_k": {"ge": 0},
    "min_p": {"ge": 0, "le": 1},
    "repetition_penalty": {"gt": 0},
    "beta": {"ge": 0},
    "epsilon": {"ge": 0},
    "epsilon_high": {"ge": 0},
    "lora_r": {"ge": 1},
    "lora_dropout": {"ge": 0, "lt": 1},
    "vllm_gpu_memory_utilization": {"gt": 0, "le": 1},
    "vllm_tensor_parallel_size": {"ge": 1},
}

# Keys that TRL knows and that must not stand in a file: key -> why.
REFUSED: dict[str, str] = {
    "output_dir": "The run folder decides where a stage writes: runs/<run_id>/<stage>/checkpoints.",
    "logging_dir": "Metrics go to metrics.jsonl in the run folder.",
    "resume_from_checkpoint": "`r1kit run --resume RUN_ID` finds the newest complete checkpoint itself.",
    "reward_weights": "Write each weight beside its reward: rewards: [{name: accuracy, weight: 1.0}].",
    "deepspeed": "DeepSpeed is set in accelerate.yaml (distributed_type: DEEPSPEED).",
    "fsdp": "FSDP is set in accelerate.yaml (distributed_type: FSDP).",
    "fsdp_config": "FSDP is set in accelerate.yaml (fsdp_config).",
    "parallelism_config": "Parallelism is set in accelerate.yaml (parallelism_config).",
    "local_rank": "`accelerate launch` sets it for each process.",
    "hub_token": "A secret does not belong in a file: set the environment variable HF_TOKEN.",
    "do_train": "The stage decides what runs; the trainer never reads this key.",
    "do_predict": "The stage decides what runs; the trainer never reads this key.",
}

# Names from older TRL / transformers, open-r1 or other kits: key -> (the name today or "", what to know).
RENAMED: dict[str, tuple[str, str]] = {
    "max_seq_length": ("max_length", "TRL renamed it to max_length."),
    "max_prompt_length": ("", "TRL removed it; the bound on prompts is max_prompt_length in data.yaml."),
    "vllm_server_url": (
        "vllm_server_base_url",
        "TRL calls it vllm_server_base_url, an address without /v1, beside vllm_mode: server.",
    ),
    "vllm_device": (
        "vllm_mode",
        "TRL removed it; vLLM runs beside (server) or inside (colocate) the trainer.",
    ),
    "vllm_max_model_len": ("vllm_max_model_length", "TRL calls it vllm_max_model_length."),
    "vllm_dtype": ("dtype", "TRL removed it; vLLM takes the model's dtype."),
    "vllm_guided_decoding_regex": ("vllm_structured_outputs_regex", "TRL renamed it."),
    "torch_dtype": ("dtype", "transformers renamed it to dtype."),
    "reward_funcs": ("rewards", "Here rewards are a list: rewards: [{name: accuracy, weight: 1.0}]."),
    **{
        key: (
            "",
            f"It is a parameter of its reward: rewards: [{{name: {reward}, {parameter}: ...}}].",
        )
        for key, reward, parameter in (
            ("cosine_min_value_wrong", "cosine", "min_value_wrong"),
            ("cosine_max_value_wrong", "cosine", "max_value_wrong"),
            ("cosine_min_value_correct", "cosine", "min_value_correct"),
            ("cosine_max_value_correct", "cosine", "max_value_correct"),
            ("cosine_max_len", "cosine", "max_len"),
            ("repetition_n_grams", "repetition_penalty", "ngram_size"),
            ("repetition_max_penalty", "repetition_penalty", "max_penalty"),
            ("max_completion_len", "soft_overlong_punishment", "max_completion_len"),
            ("soft_punish_cache", "soft_overlong_punishment", "soft_punish_cache"),
            ("code_language", "code_format", "language"),
        )
    },
    "code_provider": ("", "Programs run on this machine, as machine.yaml says: sandbox: {tier: auto}."),
    "parallel_code_exec_per_proc": ("", "Programs at once are set in machine.yaml: sandbox: {workers: 8}."),
    "evaluation_strategy": ("eval_strategy", "transformers renamed it to eval_strategy."),
    "num_train_steps": ("max_steps", "transformers calls it max_steps."),
    "num_epochs": ("num_train_epochs", "transformers calls it num_train_epochs."),
    "epochs": ("num_train_epochs", "transformers calls it num_train_epochs."),
    "batch_size": ("per_device_train_batch_size", "transformers calls it per_device_train_batch_size."),
    "per_gpu_train_batch_size": ("per_device_train_batch_size", "transformers renamed it."),
    "lr": ("learning_rate", "transformers calls it learning_rate."),
    "lr_scheduler": ("lr_scheduler_type", "transformers calls it lr_scheduler_type."),
    "warmup_ratio": (
        "warmup_steps",
        "transformers 5 removed it; warmup_steps below 1 is a share of all steps.",
    ),
    "use_flash_attention_2": ("attn_implementation", "Write attn_implementation: flash_attention_2."),
    "no_cuda": ("use_cpu", "transformers renamed it to use_cpu."),
    "fp32": ("dtype", "Write dtype: float32 and bf16: false."),
    "group_by_length": ("train_sampling_strategy", "Write train_sampling_strategy: group_by_length."),
    "use_liger": ("use_liger_kernel", "TRL renamed it."),
    "use_liger_loss": ("", "TRL removed it."),
    "kl_coef": ("beta", "TRL calls it beta."),
    "kl_coeff": ("beta", "TRL calls it beta."),
    "group_size": ("num_generations", "TRL calls it num_generations."),
    "num_generations_per_prompt": ("num_generations", "TRL calls it num_generations."),
    "max_new_tokens": ("max_completion_length", "TRL calls it max_completion_length."),
    "model": ("model_name_or_path", "TRL calls it model_name_or_path."),
    "model_name": ("model_name_or_path", "TRL calls it model_name_or_path."),
    "clip_range": ("epsilon", "TRL calls it epsilon."),
    "overwrite_output_dir": ("", "transformers removed it; a run never overwrites another run's folder."),
    "dataset_name": ("", "Data is set in data.yaml: traces_from for SFT, prompts_from for GRPO."),
    "dataset_config": ("", "Data is set in data.yaml: traces_from: [{dataset: ..., config: all}]."),
    "dataset_mixture": (
        "",
        "Data is set in data.yaml: several entries of traces_from, each with its weight.",
    ),
    "dataset_prompt_column": ("", "It is prompt_column of an entry of prompts_from in data.yaml."),
    "system_prompt": ("", "The chat template decides it: chat_template_path in sft.yaml."),
    "chat_template": ("", "Write chat_template_path in sft.yaml: a .jinja file or a model of the hub."),
    "benchmarks": ("", "Benchmarks are set in evaluation.yaml."),
    "callbacks": ("", "The programs bring their own callbacks."),
    "push_to_hub_model_id": ("hub_model_id", "transformers renamed it to hub_model_id."),
    "save_safetensors": ("", "transformers removed it; weights are always safetensors."),
}

# How to write the value of a key.
VALUE_HINTS: dict[str, str] = {
    "rewards": "Write a list of mappings: rewards: [{name: accuracy, weight: 1.0}, {name: format}].",
    "lora_target_modules": "For every linear layer write lora_target_modules: [all-linear].",
}
