"""Rules about models: where they come from, their shape, and what fits into their context."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from r1kit.settings.checks import rule
from r1kit.settings.errors import Problem, nearest_name
from r1kit.settings.models import TRAINER_SECTIONS
from r1kit.settings.stage_names import MODEL_STAGES, STAGE_OF_SECTION, STAGES
from r1kit.settings.view import NotKnown, View


@rule
def base_model_starts_from_nothing(view: View) -> Iterator[Problem]:
    """The given model would be ignored: base.yaml makes one from random weights."""
    if view.given("base.model_name_or_path"):
        message = "base.yaml makes a model from random weights; to start from a given one, remove base.yaml."
        yield view.problem("base.model_name_or_path", message, "no such key")


@rule
def trained_models_exist_before(view: View) -> Iterator[Problem]:
    """The stage would fail when it loads its model, minutes after the start."""
    for section in ("sft", "grpo"):
        key = f"{section}.model_name_or_path"
        if not view.has(section) or ("model_name_or_path",) in view.wrong[section]:
            continue
        stage = STAGE_OF_SECTION[section]
        earlier = [name for name in MODEL_STAGES if name < stage]
        allowed = f"{' or '.join(earlier)}, the path of a model folder, or a hub id such as Qwen/Qwen2.5-0.5B"
        model = view[key]
        if not model:
            yield view.problem(key, "The key is missing: which model is trained?", allowed, earlier[-1])
        elif model in STAGES and model not in MODEL_STAGES:
            yield view.problem(
                key, f"The stage {model} makes no model.", allowed, nearest_name(model, earlier)
            )
        elif model in STAGES and model not in earlier:
            message = f"{section}.yaml is the stage {stage}; {model} is not before it."
            yield view.problem(key, message, allowed, earlier[-1])
        elif model == "01_data" and "base" not in view.values and "base" not in view.sources:
            yield view.problem(key, "01_data makes a base model only if the profile has base.yaml.", allowed)
        elif model not in STAGES and (message := _unreachable(model, view)):
            yield view.problem(key, message, allowed, nearest_name(model, earlier))


def _unreachable(model: str, view: View) -> str:
    """Why a path or hub id cannot be loaded, as far as can be told without the network, or ""."""
    path = Path(model).expanduser()
    if path.is_dir():
        return "" if (path / "config.json").is_file() else "The folder holds no config.json: it is no model."
    if model.startswith((".", "/", "~")) or path.exists():
        return "There is no such folder."
    if nearest_name(model, STAGES, 0.7) or model[:1].isdigit():
        return "There is no such stage."
    try:
        environment = view["machine.environment"] or {}
    except NotKnown:
        environment = {}
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cached = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{model.replace('/', '--')}"
    if environment.get("HF_HUB_OFFLINE") in ("1", "true", 1) and not cached.is_dir():
        return f"The model is not in {cached.parent}, and machine.yaml forbids the network (HF_HUB_OFFLINE)."
    return ""


@rule
def heads_divide_the_hidden_size(view: View) -> Iterator[Problem]:
    """Each head takes an equal, even share of the hidden size (rotary embeddings turn pairs)."""
    hidden, heads = view["base.architecture.hidden_size"], view["base.architecture.num_attention_heads"]
    if hidden % heads or (hidden // heads) % 2:
        allowed = f"a multiple of {2 * heads} = 2 x {heads} num_attention_heads"
        yield view.problem(
            "base.architecture.hidden_size", "The heads' shares are not equal and even.", allowed
        )


@rule
def key_heads_divide_the_heads(view: View) -> Iterator[Problem]:
    """Grouped-query attention shares each key head among equally many query heads."""
    heads = view["base.architecture.num_attention_heads"]
    if heads % view["base.architecture.num_key_value_heads"]:
        divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        message = "Query heads cannot be shared out equally."
        yield view.problem("base.architecture.num_key_value_heads", message, f"one of {divisors}")


@rule
def training_rows_fit_the_context(view: View) -> Iterator[Problem]:
    """Positions past the context were never trained; with rotary embeddings nothing would even fail."""
    for section in ("base", "sft"):
        if not view.has(section):
            continue
        try:
            length, (context, why) = view[f"{section}.max_length"], view.context(section)
        except NotKnown:
            continue
        if length is not None and length > context:
            yield view.problem(
                f"{section}.max_length",
                "A row is longer than the model's context.",
                f"at most {context}, {why}",
            )


@rule
def completions_fit_the_context(view: View) -> Iterator[Problem]:
    """Generation would run past the context: prompt and completion share it."""
    prompt = view["data.max_prompt_length"]
    context, why = view.context("grpo")
    for key in ("grpo.max_completion_length", "evaluation.max_new_tokens"):
        if not view.has(key.split(".")[0]):
            continue
        try:
            length = view[key]
        except NotKnown:
            continue
        if length is not None and prompt + length > context:
            message = (
                f"A prompt of {prompt} tokens (max_prompt_length of data.yaml) and the completion make "
                f"{prompt + length}."
            )
            allowed = f"at most {context - prompt}: the context is {context}, {why}"
            yield view.problem(key, message, allowed)


@rule
def model_keys_have_an_effect(view: View) -> Iterator[Problem]:
    """LoRA settings without use_peft train all weights, silently."""
    for section in TRAINER_SECTIONS:
        if not view.has(section) or view[f"{section}.use_peft"]:
            continue
        for key in view.values[section]:
            if isinstance(key, str) and key.startswith("lora_") and view.given(f"{section}.{key}"):
                yield view.problem(
                    f"{section}.{key}", "LoRA is off: write use_peft: true, or remove the key."
                )


@rule
def one_quantization_at_most(view: View) -> Iterator[Problem]:
    """ModelConfig refuses both."""
    for section in ("sft", "grpo"):
        if view.has(section) and view[f"{section}.load_in_8bit"] and view[f"{section}.load_in_4bit"]:
            yield view.problem(
                f"{section}.load_in_4bit", "load_in_8bit and load_in_4bit are both on.", "one of the two"
            )
