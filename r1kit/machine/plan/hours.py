"""Tokens, steps, seconds and hours of SFT and GRPO, each with the hardware's lower bound.

SFT: slots x FLOPs over the share of the peak that is planned with. GRPO: a decoding step reads the weights
and the cache of every running sequence, so generation is bound by bandwidth; the learner computes on rows
padded to the longest completion, because TRL's synchronous trainer pads and never trims them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from r1kit.machine import speed
from r1kit.machine.plan.inputs import Generation, Speeds, Training
from r1kit.settings.known_models import Lengths, Packing, packed_fill, packing_gain, padded_fill


@dataclass(frozen=True)
class SftHours:
    """An SFT run. `roofline_seconds` is a step at the full peak without recomputation."""

    tokens: int
    steps: int
    epochs: float
    step_seconds: float
    roofline_seconds: float
    tokens_per_second: float
    flops_per_token: float
    mfu: float
    mfu_full_attention: float
    hfu: float
    fill: float
    packing: Packing | None

    @property
    def hours(self) -> float:
        """Hours of the whole run."""
        return self.steps * self.step_seconds / 3600


@dataclass(frozen=True)
class GrpoHours:
    """A GRPO run; seconds are of one optimizer step."""

    steps: int
    completions_per_step: int
    generate_seconds: float
    learn_seconds: float
    sync_seconds: float
    roofline_seconds: float
    tokens_per_step: int
    padding_fill: float
    learner_mfu: float

    @property
    def step_seconds(self) -> float:
        """Generation, learning and weight sync, one after the other as TRL's synchronous trainer does."""
        return self.generate_seconds + self.learn_seconds + self.sync_seconds

    @property
    def hours(self) -> float:
        """Hours of the whole run."""
        return self.steps * self.step_seconds / 3600


def passes(training: Training) -> float:
    """Return the FLOPs that the device does for each token, in forward passes.

    Forward and backward 3, recomputation 1, GRPO's old policy 1, its reference model 1. LoRA needs no
    gradients of frozen weights: 2 instead of 3.
    """
    learn = 2 if training.adapter else speed.TRAINING
    return learn + training.checkpointing + training.old_policy + training.reference


def sft_hours(
    training: Training,
    speeds: Speeds,
    lengths: Lengths,
    documents: int,
    *,
    packing: str | None,
    max_steps: int,
    epochs: float,
    measured_step: float | None = None,
) -> SftHours:
    """Return the length of an SFT.

    Args:
        packing: "bfd", "bfd_split", "wrapped", "rows" (ours) or None for padding.
        max_steps: -1 takes `epochs` instead, as TRL does.
        measured_step: measured seconds per step; MFU then follows from it.
    """
    row = training.row
    kept = lengths if packing in ("wrapped", "bfd_split") else lengths.cut(row)
    fill = packed_fill(kept, row) if packing in ("bfd", "rows") else 1.0 if packing else None
    if fill is None:
        fill, width = padded_fill(kept, training.rows), kept.mean
        slots = training.rows * width / fill  # as wide as the longest of the batch, not as `max_length`
    else:
        slots = training.rows * row
    tokens_per_step = slots * fill * training.accumulation * training.devices
    total = documents * kept.mean
    steps = max_steps if max_steps > 0 else math.ceil(total * epochs / tokens_per_step)
    # Where documents see each other, attention costs a whole row; else what the documents themselves cost.
    attended = row if packing == "wrapped" else kept.attended
    per_token = speed.training_flops(training.model, attended)
    forward = speed.forward_flops(training.model, attended)
    own_slots = slots * training.accumulation
    step = own_slots * forward * passes(training) / (speeds.peak * speeds.train_share)
    step = measured_step or step
    rate = tokens_per_step / step
    mfu = speed.mfu(rate, per_token, training.devices, speeds.peak)
    full = speed.training_flops(training.model, attended, speed.FULL)
    strategy = packing if packing in ("wrapped", "bfd_split") else "bfd"
    return SftHours(
        tokens=round(total * epochs if max_steps <= 0 else tokens_per_step * steps),
        steps=steps,
        epochs=epochs if max_steps <= 0 else tokens_per_step * steps / total,
        step_seconds=step,
        roofline_seconds=own_slots * fill * per_token / speeds.peak,
        tokens_per_second=rate,
        flops_per_token=per_token,
        mfu=mfu,
        mfu_full_attention=speed.mfu(rate, full, training.devices, speeds.peak),
        hfu=mfu * passes(training) / speed.TRAINING,
        fill=fill,
        packing=packing_gain(lengths, row, training.rows, strategy),
    )


def generate_seconds(
    generation: Generation, training: Training, speeds: Speeds, prompts_cached: int
) -> tuple[float, float]:
    """Return (planned, least) seconds to generate all completions of one batch.

    Lengths are taken as uniform from 0 to twice the mean; decoding runs until the longest has ended, with
    fewer and fewer sequences. Least is the same at the full bandwidth. Where the cache is too small for all
    sequences they run in turns.
    """
    model = training.model
    engines = max(1, generation.devices // generation.tensor_parallel)
    sequences = generation.completions / engines
    turns = max(1.0, sequences * (generation.prompt + generation.mean) / max(1, prompts_cached))
    longest = min(generation.longest, 2 * generation.mean)
    weights = generation.weight_bytes * model.matrix_parameters / generation.tensor_parallel
    cache = model.cache_bytes_per_token * generation.weight_bytes / 2 / generation.tensor_parallel
    # Uniform lengths up to n: a sequence reads its own past, n^2 / 6 tokens on average, and the prompt n / 2.
    read = sequences * cache * (longest**2 / 6 + generation.prompt * longest / 2)
    least = speed.decode_seconds(weights * longest * turns, read, speeds.bandwidth)
    prefill = sequences * generation.prompt * 2 * model.matrix_parameters / speeds.peak
    least += prefill / generation.tensor_parallel
    passes_seconds = longest * turns * speeds.forward_seconds
    arithmetic = sequences * longest / 2 * 2 * model.matrix_parameters / (speeds.peak * speeds.train_share)
    return max(least / speeds.decode_share, arithmetic) + passes_seconds, least


def grpo_hours(
    training: Training,
    generation: Generation,
    speeds: Speeds,
    *,
    prompts: int,
    group: int,
    iterations: int,
    max_steps: int,
    epochs: float,
    cache_tokens: int,
) -> GrpoHours:
    """Return the length of a GRPO: `group` completions per prompt, `iterations` passes per batch."""
    updates = generation.completions / (training.rows * training.accumulation * training.devices) * iterations
    steps = max_steps
    if max_steps <= 0:
        steps = math.ceil(prompts * epochs * group / generation.completions * updates)
    whole, least = generate_seconds(generation, training, speeds, cache_tokens)
    longest = min(generation.longest, 2 * generation.mean)
    width, mean = generation.prompt + longest, generation.prompt + generation.mean
    slots = training.rows * training.accumulation * width
    forward = speed.forward_flops(training.model, width)
    learn = slots * forward * passes(training) / (speeds.peak * speeds.train_share)
    useful = training.rows * training.accumulation * mean * speed.training_flops(training.model, mean)
    sync = 0.0
    if generation.mode != "in-process":
        sync = generation.weight_bytes * training.model.parameters / speeds.sync_bandwidth
    return GrpoHours(
        steps=steps,
        completions_per_step=round(generation.completions / updates),
        generate_seconds=whole / updates,
        learn_seconds=learn,
        sync_seconds=sync / updates if iterations else 0.0,
        roofline_seconds=least / updates + useful / speeds.peak,
        tokens_per_step=round(generation.completions / updates * mean),
        padding_fill=mean / width,
        learner_mfu=useful / learn / speeds.peak,
    )
