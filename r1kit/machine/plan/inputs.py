"""The inputs of a plan's formulas, from a profile: model shape, devices, batches, precision, speeds."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from r1kit.machine.speed import DEVICES, Device
from r1kit.settings import Problem, Profile, SettingsError
from r1kit.settings.errors import display_path
from r1kit.settings.known_models import (
    KNOWN_MODELS,
    STORY_ANSWER,
    STORY_PROMPT,
    ModelShape,
    shape_from_config,
)
from r1kit.settings.lessons import STAGE_OF_SECTION

VLLM_SHARE = 0.92
"""vLLM's own gpu_memory_utilization (0.31)."""

Section = Literal["sft", "grpo"]
Engine = Literal["single", "ddp", "deepspeed", "fsdp"]


@dataclass(frozen=True)
class Training:
    """One training program on its devices; token counts are per device and micro-step.

    Attributes:
        rows: rows of a micro-step; `row` their tokens, padding included.
        weight_bytes: bytes of a weight as the trainer holds it (2 in DeepSpeed's bf16 and with dtype
            bfloat16, else 4); `compute_bytes` of an activation: autocast computes in 2.
        adapter: trainable parameters of LoRA, 0 for full training.
        flattened: packing lays all rows of a micro-step end to end.
        old_policy: a pass for the old policy's log-probabilities (GRPO).
    """

    section: Section
    model: ModelShape
    devices: int
    engine: Engine
    zero: int
    weight_bytes: int
    compute_bytes: int
    optimizer: str
    rows: int
    row: int
    accumulation: int
    checkpointing: bool
    attention: Literal["flash", "sdpa", "eager"]
    flattened: bool
    kernels: bool
    adapter: int
    reference: bool
    old_policy: bool

    @property
    def tokens_per_step(self) -> int:
        """Slots of one optimizer step on all devices."""
        return self.rows * self.row * self.accumulation * self.devices


@dataclass(frozen=True)
class Generation:
    """How completions are generated: in the training process, by vLLM inside it (colocate), or by a server.

    `cache_bytes` is the cache of a replica where machine.yaml states it instead of a share of the memory.
    """

    mode: Literal["in-process", "colocate", "server"]
    devices: int
    tensor_parallel: int
    memory_share: float
    weight_bytes: int
    completions: int
    prompt: int
    longest: int
    mean: float
    limit: int
    cache_bytes: float | None = None


@dataclass(frozen=True)
class Speeds:
    """Assumed speeds of a device: peak in FLOP/s, bandwidth in byte/s, and the shares that are reached."""

    peak: float
    train_share: float
    bandwidth: float
    decode_share: float
    forward_seconds: float
    sync_bandwidth: float = 300e9
    """Byte/s of a weight broadcast between devices of a node; 15.2 GB then take 50 ms (an estimate)."""


def refusal(profile: Profile, file: str, key: str, message: str, **said: str) -> SettingsError:
    """Return the error of a plan that a profile's file says too little for; `said`: `found` and `allowed`."""
    return SettingsError([Problem(display_path(profile.folder / file), key, message=message, **said)])


def device_of(profile: Profile) -> Device:
    """Return the device table's row. Raises SettingsError where machine.yaml names none."""
    name = profile.machine.accelerator or ("cpu" if profile.machine.device == "cpu" else None)
    if name is None:
        message = "The plan counts with a row of the device table; machine.yaml does not say which."
        allowed = ", ".join(DEVICES)
        raise refusal(profile, "machine.yaml", "accelerator", message, found="nothing", allowed=allowed)
    return DEVICES[name]


def speeds_of(profile: Profile, gflops: float | None = None) -> Speeds:
    """Return the device table's speeds with the shares that machine.yaml may set.

    Args:
        gflops: the measured matrix speed of this CPU; everything scales with it. GPUs ignore it.
    """
    device, assumed = device_of(profile), profile.machine.plan
    peak, slower = device.matrix, 1.0
    if device is DEVICES["cpu"]:
        peak = (profile.machine.reference_gflops or device.matrix / 1e9) * 1e9
        slower = peak / (gflops * 1e9) if gflops else 1.0
    return Speeds(
        peak / slower,
        assumed.train_share or device.train_share,
        device.bandwidth / slower,
        assumed.decode_share or device.decode_share,
        device.forward_seconds * slower,
    )


def training_speeds(profile: Profile, speeds: Speeds, training: Training) -> Speeds:
    """Return the speeds of one training process: a whole GPU, but of a CPU only its part of the cores."""
    processes = training.devices / profile.accelerate.get("num_machines", 1)
    if device_of(profile) is not DEVICES["cpu"] or processes <= 1:
        return speeds
    return replace(speeds, peak=speeds.peak / processes, bandwidth=speeds.bandwidth / processes)


def model_of(profile: Profile, section: str) -> ModelShape:
    """Return the shape of the model that a stage trains, followed back to base.yaml, a folder or a hub id.

    Raises:
        SettingsError: none of them tells the shape.
    """
    if section == "base":
        base = profile.base.architecture.model_dump()
        return shape_from_config(base | {"vocab_size": profile.data.vocabulary_size, "model_type": "qwen2"})
    name = profile.in_effect(section, "model_name_or_path")
    stages = {stage: other for other, stage in STAGE_OF_SECTION.items()}
    if name in stages:
        return model_of(profile, stages[name])
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    try:
        return shape_from_config(json.loads((Path(name).expanduser() / "config.json").read_text("utf-8")))
    except (OSError, ValueError, KeyError) as error:
        allowed = f"a stage, a model folder, or one of {', '.join(KNOWN_MODELS)}"
        message = f"The plan needs the model's shape, and nothing here says it ({type(error).__name__})."
        said = {"found": str(name), "allowed": allowed}
        raise refusal(profile, f"{section}.yaml", "model_name_or_path", message, **said) from error


def training_of(profile: Profile, section: Section) -> Training:
    """Return what `sft.yaml` or `grpo.yaml` and accelerate.yaml ask of each device."""
    value, settings = partial(profile.in_effect, section), getattr(profile, section)
    sft, on_cpu = section == "sft", profile.machine.device == "cpu"
    model = model_of(profile, section)
    kind = profile.accelerate["distributed_type"]
    engine: Engine = {"DEEPSPEED": "deepspeed", "FSDP": "fsdp", "NO": "single"}.get(kind, "ddp")
    devices = profile.accelerate.get("num_processes", 1) if sft else grpo_devices(profile)
    if settings.alone:
        engine, devices = "single", 1
    zero = (profile.accelerate.get("deepspeed_config") or {}).get("zero_stage", 0)
    half_weights = value("dtype") in ("bfloat16", "float16") or (engine == "deepspeed" and not on_cpu)
    # TRL turns bf16 on where the file does not say.
    half_products = value("fp16") or value("bf16") or (value("bf16") is None and not on_cpu)
    attention, steps = value("attn_implementation") or "sdpa", value("gradient_accumulation_steps") or 1
    return Training(
        section=section,
        model=model,
        devices=devices,
        engine=engine,
        zero=zero if engine == "deepspeed" else 3 if engine == "fsdp" else 0,
        weight_bytes=2 if half_weights else 4,
        compute_bytes=2 if half_products else 4,
        optimizer=settings.optimizer,
        rows=value("per_device_train_batch_size"),
        row=(value("max_length") if sft else longest_sample(profile)) or model.max_position_embeddings,
        accumulation=steps,
        checkpointing=bool(value("gradient_checkpointing")),
        attention="flash" if "flash" in attention else "eager" if attention == "eager" else "sdpa",
        flattened=sft and bool(value("packing")) and value("packing_strategy") != "wrapped",
        kernels=bool(value("use_liger_kernel")),
        adapter=adapter_of(profile, section, model),
        reference=not sft and value("beta") > 0,
        # TRL keeps old log-probabilities where vLLM samples or a batch outlives an optimizer step.
        old_policy=not sft
        and bool(
            value("use_vllm")
            or (value("num_iterations") or 1) > 1
            or (value("steps_per_generation") or 0) > steps
        ),
    )


def adapter_of(profile: Profile, section: str, model: ModelShape) -> int:
    """Return the trainable parameters of LoRA: r (inputs + outputs) per matrix; 0 without `use_peft`."""
    if not profile.in_effect(section, "use_peft"):
        return 0
    h, q, kv, i = model.hidden_size, model.query_size, model.key_value_size, model.intermediate_size
    sizes = {
        "q_proj": h + q, "k_proj": h + kv, "v_proj": h + kv, "o_proj": q + h,
        "gate_proj": h + i, "up_proj": h + i, "down_proj": i + h,
    }  # fmt: skip
    targets = profile.in_effect(section, "lora_target_modules") or ["q_proj", "v_proj"]
    chosen = sizes if "all-linear" in targets else {name: sizes[name] for name in targets if name in sizes}
    return model.num_hidden_layers * profile.in_effect(section, "lora_r") * sum(chosen.values())


def packing_of(profile: Profile) -> str | None:
    """Return how the SFT packs: TRL's strategy, "rows" for our own packing, None for padding."""
    if profile.sft.row_packing:
        return "rows"
    return profile.in_effect("sft", "packing_strategy") if profile.in_effect("sft", "packing") else None


def grpo_devices(profile: Profile) -> int:
    """Return the devices that GRPO trains on: SFT has the whole node, GRPO what does not serve."""
    layout = getattr(profile.machine, "layout", None)
    return len(layout.train) if layout else profile.accelerate.get("num_processes", 1)


def longest_sample(profile: Profile) -> int:
    """Return the tokens of the longest prompt and completion: TRL pads a batch to its longest."""
    limit = profile.in_effect("grpo", "max_completion_length")
    if profile.data.source == "stories":
        return STORY_PROMPT + min(limit, STORY_ANSWER)
    return profile.data.max_prompt_length + limit


def generation_of(profile: Profile) -> Generation:
    """Return how GRPO's completions are made, and how many between two updates."""
    value, server = partial(profile.in_effect, "grpo"), getattr(profile.machine, "server", None)
    processes = grpo_devices(profile)
    steps = value("steps_per_generation") or value("gradient_accumulation_steps")
    completions = value("generation_batch_size") or value("per_device_train_batch_size") * processes * steps
    limit, stories = value("max_completion_length"), profile.data.source == "stories"
    if server is not None:
        mode, tensor_parallel = "server", server.tensor_parallel_size
        devices = server.replicas * tensor_parallel
        share = server.gpu_memory_utilization or VLLM_SHARE
    elif value("use_vllm") and value("vllm_mode") == "server":
        # A server started elsewhere: counted as one device with vLLM's own share.
        mode, devices, tensor_parallel, share = "server", 1, 1, VLLM_SHARE
    elif value("use_vllm"):
        mode, devices = "colocate", processes
        tensor_parallel = value("vllm_tensor_parallel_size") or 1
        share = value("vllm_gpu_memory_utilization")
    else:
        mode, devices, tensor_parallel, share = "in-process", processes, 1, 0.0
    gib = getattr(server, "kv_cache_gib", None)
    return Generation(
        mode=mode,
        devices=devices,
        tensor_parallel=tensor_parallel,
        memory_share=share,
        weight_bytes=4 if profile.machine.device == "cpu" else 2,
        completions=completions,
        # Prompts of cpu-tiny take 31 tokens on average, 2026-11-24.
        prompt=31 if stories else profile.data.max_prompt_length // 2,
        longest=min(limit, STORY_ANSWER) if stories else limit,
        mean=limit * profile.machine.plan.mean_completion,
        limit=limit,
        cache_bytes=gib * 2**30 if gib else None,
    )
