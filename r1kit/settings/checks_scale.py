"""Rules about scale: precision, sharding, attention memory, and checkpoints of runs that take a night."""

from __future__ import annotations

from collections.abc import Iterator

from r1kit.settings.checks import advice, rule
from r1kit.settings.checks_recipe import known_model
from r1kit.settings.errors import Problem
from r1kit.settings.models import TRAINER_SECTIONS
from r1kit.settings.view import NotKnown, View

LARGEST_DEVICE = 309e9
"""Bytes of an MI350X, the largest row of the device table."""
TRIAL = 20
"""Steps of a run so short that a crash costs no more than another trial."""


def deepspeed(view: View, key: str):
    """A value of accelerate.yaml's deepspeed_config, None where it says nothing."""
    try:
        return view[f"accelerate.deepspeed_config.{key}"]
    except NotKnown:
        return None


@rule
def scores_of_eager_attention_fit(view: View) -> Iterator[Problem]:
    """Eager attention stores heads x length^2 scores a row: 8 rows of 5,120 tokens are 35 GB a layer, and
    without checkpointing 986 GB in all.
    """
    for section in ("sft", "grpo"):
        if view[f"{section}.attn_implementation"] != "eager":
            continue
        model = known_model(view, "sft" if view[f"{section}.model_name_or_path"] == "02_sft" else section)
        if model is None:
            continue
        if section == "sft":
            length = view["sft.max_length"] or model.max_position_embeddings
        else:
            length = view["data.max_prompt_length"] + view["grpo.max_completion_length"]
        layers = 1 if view[f"{section}.gradient_checkpointing"] else model.num_hidden_layers
        rows = view[f"{section}.per_device_train_batch_size"]
        needed = 6 * model.num_attention_heads * rows * length**2 * layers
        if needed > LARGEST_DEVICE / 2:
            message = (
                f"{rows} rows of {length:,} tokens keep {needed / 1e9:,.0f} GB of attention scores; eager is "
                "not needed on ROCm."
            )
            key = f"{section}.attn_implementation"
            yield view.problem(key, message, "flash_attention_2, or sdpa", "flash_attention_2")


@advice
def eager_attention_is_for_tests(view: View) -> Iterator[Problem]:
    """It reads and writes every score: the guide's 9% MFU. ROCm has flash attention and sdpa."""
    for section in ("sft", "grpo"):
        if view["machine.device"] == "cuda" and view[f"{section}.attn_implementation"] == "eager":
            message = "Eager attention writes every score to memory and reads it again."
            yield view.problem(f"{section}.attn_implementation", message, "flash_attention_2, or sdpa")


@rule
def flash_attention_computes_in_half(view: View) -> Iterator[Problem]:
    """Flash attention has no float32 kernels: it fails at the first step."""
    for section in ("sft", "grpo"):
        attention = view[f"{section}.attn_implementation"] or ""
        full = view[f"{section}.dtype"] == "float32" and view[f"{section}.bf16"] is False
        if "flash" in attention and full and not view[f"{section}.fp16"]:
            message = "Flash attention computes in bf16 or fp16 only."
            yield view.problem(f"{section}.bf16", message, "true, or attn_implementation: sdpa")


@advice
def weights_have_a_stated_precision(view: View) -> Iterator[Problem]:
    """TRL loads float32 where nothing is said: twice the memory of the bf16 that most expect."""
    for section in ("sft", "grpo"):
        if not view.given(f"{section}.dtype") and known_model(view, section):
            message = "Nothing is said, and TRL loads float32."
            yield view.problem(f"{section}.dtype", message, "bfloat16, or float32 said aloud", "bfloat16")


@rule
def precisions_agree(view: View) -> Iterator[Problem]:
    """accelerate and the trainer would set up different arithmetic; DeepSpeed refuses the pair."""
    precision = view["accelerate.mixed_precision"]
    for section in ("sft", "grpo"):
        for name in ("bf16", "fp16"):
            other = {"bf16": "fp16", "fp16": "bf16"}[name]
            if view[f"{section}.{name}"] and precision == other:
                message = f"accelerate.yaml says mixed_precision: {precision}."
                yield view.problem(f"{section}.{name}", message, f"{precision}: true")
        if precision == "bf16" and view[f"{section}.bf16"] is False and not view[f"{section}.fp16"]:
            message = "accelerate.yaml says mixed_precision: bf16."
            yield view.problem(f"{section}.bf16", message, "true")


@rule
def zero_stage_is_one_of_four(view: View) -> Iterator[Problem]:
    """DeepSpeed has the stages 0 to 3."""
    stage = deepspeed(view, "zero_stage")
    if stage is not None and stage not in (0, 1, 2, 3):
        yield view.problem(
            "accelerate.deepspeed_config.zero_stage", "There is no such stage.", "0, 1, 2 or 3"
        )


@rule
def sharding_has_its_settings(view: View) -> Iterator[Problem]:
    """accelerate would ask DeepSpeed for its defaults, or ignore settings that stand in the file."""
    kind, has = view["accelerate.distributed_type"], view.given("accelerate.deepspeed_config")
    if kind == "DEEPSPEED" and not has:
        message = "DEEPSPEED without deepspeed_config takes defaults that nobody wrote."
        yield view.problem("accelerate.deepspeed_config", message, "a mapping with zero_stage")
    if kind != "DEEPSPEED" and has:
        message = f"distributed_type is {kind}: these settings would have no effect."
        yield view.problem("accelerate.deepspeed_config", message, "no such key, or DEEPSPEED")


@rule
def the_trainer_counts_the_batches(view: View) -> Iterator[Problem]:
    """Two numbers for one thing: transformers refuses to start when they differ."""
    accumulation = deepspeed(view, "gradient_accumulation_steps")
    for section in ("sft", "grpo"):
        own = view[f"{section}.gradient_accumulation_steps"]
        if accumulation not in (None, "auto", own):
            message = f"{section}.yaml says {own}; DeepSpeed and the trainer must agree."
            key = "accelerate.deepspeed_config.gradient_accumulation_steps"
            yield view.problem(key, message, "auto, or no such key")
            return


@advice
def long_runs_save_on_the_way(view: View) -> Iterator[Problem]:
    """A run of one epoch that saves once an epoch has nothing to resume from for 15 hours."""
    for section in TRAINER_SECTIONS:
        if not view.has(section):
            continue
        strategy, epochs = view[f"{section}.save_strategy"], view[f"{section}.num_train_epochs"]
        by_epoch = strategy == "epoch" and view[f"{section}.max_steps"] <= 0 and epochs <= 2
        if by_epoch and view["data.source"] == "hub":
            message = f"A run of {epochs:g} epoch{'s' if epochs != 1 else ''} saves at the end of each only."
            yield view.problem(f"{section}.save_strategy", message, "steps, with save_steps: 0.05", "steps")


@rule
def long_runs_save_at_all(view: View) -> Iterator[Problem]:
    """A crash, or the end of a Slurm allocation, would lose everything."""
    for section in ("sft", "grpo"):
        if view[f"{section}.save_strategy"] == "no" and view["data.source"] == "hub":
            message = "Nothing would be saved before the end."
            yield view.problem(f"{section}.save_strategy", message, "steps, with save_steps: 0.05", "steps")
        steps, last = view[f"{section}.save_steps"], view[f"{section}.max_steps"]
        if (
            view[f"{section}.save_strategy"] == "steps"
            and steps > last > TRIAL
            and view["data.source"] == "hub"
        ):
            yield view.problem(f"{section}.save_steps", "The run ends before.", f"less than {last}")


@rule
def checkpoints_can_be_resumed(view: View) -> Iterator[Problem]:
    """Without optimizer states a checkpoint is a model, not a place to go on from."""
    for section in TRAINER_SECTIONS:
        if view.has(section) and view[f"{section}.save_only_model"]:
            message = "A checkpoint without optimizer states cannot be resumed; the programs save them."
            yield view.problem(f"{section}.save_only_model", message, "false")


@rule
def quantized_weights_need_adapters(view: View) -> Iterator[Problem]:
    """transformers refuses to train quantized weights."""
    for section in ("sft", "grpo"):
        for key in ("load_in_4bit", "load_in_8bit"):
            if view[f"{section}.{key}"] and not view[f"{section}.use_peft"]:
                message = "Quantized weights cannot be trained, only adapters beside them."
                yield view.problem(f"{section}.{key}", message, "use_peft: true beside it, or false")
