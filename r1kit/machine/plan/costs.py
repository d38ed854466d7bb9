"""What one stage of a composed training costs: hours, memory per device, disk.

A stage that writes answers is planned with the model of GRPO's rollouts (`hours.generate_seconds`); no
trainer is beside it, so every device serves. A server takes the next prompt as soon as an answer has
ended; stages that work batch by batch wait for the longest answer of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from r1kit.machine.plan import Plan
from r1kit.machine.plan.hours import generate_seconds
from r1kit.machine.plan.inputs import VLLM_SHARE, Generation, generation_of
from r1kit.machine.plan.memory import server_memory
from r1kit.settings import Profile
from r1kit.settings.benchmarks import PROBLEMS, BenchmarkSettings
from r1kit.settings.lengths import Lengths
from r1kit.settings.pipelines import AnyStage

ANSWER_BYTES = 8
"""Bytes on disk of a token that was written as an answer: about four of text, kept as a shard and as rows."""


@dataclass(frozen=True)
class Rows:
    """Traces or prompts that stages hand on: how many at most, and of traces how long."""

    count: int
    lengths: Lengths | None = None


@dataclass(frozen=True)
class StageCost:
    """One stage.

    Attributes:
        count: steps, answers or traces, as `unit` says; traces are the most that there can be.
        step_seconds: of a training's step, else 0.
        tokens: of an SFT in all, of a GRPO's step, of the longest answer, of a mean trace.
        extra: of GRPO's generation, the most that dynamic sampling writes in addition; in `hours`.
        memory: bytes per device at the peak; 0 for a stage that holds no model.
        nearest: what to write instead where it doesn't fit.
        disk: bytes that it leaves, the checkpoints that it keeps included.
    """

    name: str
    kind: str
    count: int
    unit: str
    step_seconds: float
    tokens: int
    hours: float
    memory: float
    fits: bool
    nearest: tuple[str, ...]
    disk: int
    extra: float = 0.0


def asked(stage: AnyStage, taken: Rows) -> int:
    """Prompts that a sampling stage asks."""
    return min(stage.prompts or taken.count, taken.count)


def answers_of(profile: Profile, completions: int, limit: int, alone: bool = False) -> Generation:
    """Generation without a trainer: GRPO's, on every device, by vLLM wherever there are GPUs.

    Args:
        alone: the stage answers in its own process on a CPU, also where a server is at hand.
    """
    own, machine = generation_of(profile), profile.machine
    ratio = limit / max(1, own.limit)
    told: dict[str, Any] = {
        "completions": completions, "limit": limit, "mean": limit * machine.plan.mean_completion,
        "longest": limit if own.longest == own.limit else min(limit, own.longest),
    }  # fmt: skip
    if own.longest != own.limit:  # stories end by themselves, long before the limit
        told["mean"] = min(told["mean"], own.mean * max(1.0, ratio))
    if machine.device != "cpu":
        processes = profile.accelerate.get("num_processes", 1)
        layout = {*machine.layout.serve, *machine.layout.train} if machine.layout else range(processes)
        split = machine.server.tensor_parallel_size if machine.server else 1
        share = (machine.server and machine.server.gpu_memory_utilization) or VLLM_SHARE
        told |= {"mode": "server", "devices": len(layout), "tensor_parallel": split, "memory_share": share}
        told |= {"weight_bytes": 2}
    elif alone or own.mode == "in-process":
        told |= {"mode": "in-process", "devices": 1, "tensor_parallel": 1}
    return replace(own, **told)


def writing_cost(
    stage: AnyStage, profile: Profile, planned: Plan, answers: int, limit: int, batch: int, waits: bool
) -> StageCost:
    """A stage that writes `answers` answers of at most `limit` tokens.

    Args:
        batch: answers at once; of a server in `evaluate`, on each replica.
        waits: whether a batch ends before the next begins. A server otherwise always has `batch` in flight.
    """
    training = planned.stages["grpo"].training
    generation = answers_of(profile, answers, limit, alone=stage.kind == "evaluate")
    memory = server_memory(generation, training, planned.device)
    served = generation.mode != "in-process"
    room = memory.kv_tokens
    if waits or not served:
        rounds, last = divmod(answers, batch)
        sizes = [(rounds, batch), (1, last)]
    else:
        sizes, room = [(1, answers)], min(room, round(batch * (generation.prompt + generation.mean)))
    seconds = sum(
        times * generate_seconds(replace(generation, completions=size), training, planned.speeds, room)[0]
        for times, size in sizes
        if times and size
    )
    held = memory.total
    if not served:
        batch_memory = server_memory(replace(generation, completions=batch), training, planned.device)
        held = batch_memory.total + generation.weight_bytes * training.model.parameters
    return StageCost(
        name=stage.name,
        kind=stage.kind,
        count=answers,
        unit="answers",
        step_seconds=0.0,
        tokens=limit,
        hours=seconds / 3600,
        memory=held,
        fits=held <= planned.device.memory and (not served or room > generation.prompt + generation.longest),
        nearest=(),
        disk=round(answers * generation.mean * ANSWER_BYTES),
    )


def _sft(stage: AnyStage, profile: Profile, planned: Plan, taken: Rows) -> StageCost:
    sft, cost = planned.sft, planned.stages["sft"]
    return StageCost(
        name=stage.name,
        kind=stage.kind,
        count=sft.steps,
        unit="steps",
        step_seconds=sft.step_seconds,
        tokens=sft.tokens,
        hours=sft.hours,
        memory=cost.memory.total,
        fits=cost.fits,
        nearest=cost.nearest,
        disk=planned.disk["sft_kept"] + planned.disk["sft_model"],
    )


def _grpo(stage: AnyStage, profile: Profile, planned: Plan, taken: Rows) -> StageCost:
    grpo, cost = planned.grpo, planned.stages["grpo"]
    dynamic = profile.grpo.dynamic_sampling
    extra = dynamic.max_extra if dynamic else 0.0
    step = grpo.step_seconds + extra * grpo.generate_seconds
    beside = planned.server.total if planned.generation.mode == "colocate" else 0.0
    return StageCost(
        name=stage.name,
        kind=stage.kind,
        count=grpo.steps,
        unit="steps",
        step_seconds=step,
        tokens=grpo.tokens_per_step,
        hours=grpo.steps * step / 3600,
        memory=cost.memory.total + beside,
        fits=cost.fits,
        nearest=cost.nearest,
        disk=planned.disk["grpo_kept"] + planned.disk["grpo_model"],
        extra=extra,
    )


def _sampling(stage: AnyStage, profile: Profile, planned: Plan, taken: Rows) -> StageCost:
    answers = asked(stage, taken) * stage.samples
    batch = max(1, stage.batch_size // stage.samples) * stage.samples
    return writing_cost(stage, profile, planned, answers, stage.max_new_tokens, batch, waits=True)


def _merging(stage: AnyStage, profile: Profile, planned: Plan, taken: Rows) -> StageCost:
    mean = taken.lengths.mean if taken.lengths else 0.0
    return StageCost(
        name=stage.name,
        kind=stage.kind,
        count=taken.count,
        unit="traces",
        step_seconds=0.0,
        tokens=round(mean),
        hours=0.0,
        memory=0.0,
        fits=True,
        nearest=(),
        disk=round(taken.count * mean * ANSWER_BYTES / 2),
    )


def _evaluation(stage: AnyStage, profile: Profile, planned: Plan, taken: Rows) -> StageCost:
    how = profile.evaluation
    if isinstance(how, BenchmarkSettings):
        counts = {name: min(PROBLEMS[name], how.most or PROBLEMS[name]) for name in how.benchmarks}
        each = sum(counts[name] * (samples + how.greedy) for name, samples in how.benchmarks.items())
    else:
        problems = how.problems_per_level * len(profile.data.heldout_levels)
        each = problems * (how.samples + how.greedy)
    answers = each * len(stage.models)
    return writing_cost(stage, profile, planned, answers, how.max_new_tokens, how.batch_size, waits=False)


COST = {
    "sft": _sft,
    "grpo": _grpo,
    "rejection_sampling": _sampling,
    "pass_rate": _sampling,
    "merge_data": _merging,
    "evaluate": _evaluation,
}
