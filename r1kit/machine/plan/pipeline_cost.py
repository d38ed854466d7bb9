"""The cost of a pipeline: the sum over its stages, and the rows that each stage passes to later ones.

A training stage is planned by `make_plan` under the stage's own settings. A stage that generates answers is
planned like GRPO's rollouts (`generate_seconds`), but with every device serving, because no trainer runs. A
server starts the next prompt as soon as an answer has ended; stages that work batch by batch wait for the
longest answer of each batch. A stage is assumed to pass on the most rows that it can. Not counted: starting
programs and servers (minutes each on GPUs), judging answers, held-out problems during GRPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r1kit.machine.plan.estimate import Plan, make_plan
from r1kit.machine.plan.hours import generate_seconds
from r1kit.machine.plan.inputs import VLLM_SHARE, Generation, generation_of
from r1kit.machine.plan.memory import server_memory
from r1kit.machine.speed import Device
from r1kit.settings import Profile
from r1kit.settings.evaluation import PROBLEMS, BenchmarkSettings
from r1kit.settings.known_models import SPREAD, Lengths, from_counts, log_normal, trace_count, trace_lengths
from r1kit.settings.pipelines import AnyStage
from r1kit.settings.profile import pipeline_of, pipeline_profile, profiles_under

ANSWER_BYTES = 8
"""Bytes on disk per token of an answer: about four of text, kept as a shard and as rows."""


@dataclass(frozen=True)
class Rows:
    """Traces or prompts that a stage passes on: the largest possible count, and the lengths of traces."""

    count: int
    lengths: Lengths | None = None


@dataclass(frozen=True)
class StageCost:
    """The cost of one stage.

    Attributes:
        count: steps, answers or traces, according to `unit`; of traces the largest possible number.
        tokens: of an SFT in total, of a GRPO step, of the longest answer, or of a mean trace.
        disk: bytes written, including the checkpoints that are kept.
        step_seconds: of a training's step, else 0.
        memory: bytes per device at the peak; 0 for a stage that holds no model.
        nearest: the settings to change if it does not fit.
        extra: the largest share of GRPO's generation that dynamic sampling adds; included in `hours`.
    """

    name: str
    kind: str
    count: int
    unit: str
    tokens: int
    disk: int
    hours: float = 0.0
    step_seconds: float = 0.0
    memory: float = 0.0
    fits: bool = True
    nearest: tuple[str, ...] = ()
    extra: float = 0.0


@dataclass(frozen=True)
class PipelinePlan:
    """The stages of a pipeline in order, on `devices` devices."""

    profile: str
    pipeline: str
    about: str
    device: Device
    devices: int
    stages: tuple[StageCost, ...]

    @property
    def hours(self) -> float:
        """Hours of the whole pipeline."""
        return sum(stage.hours for stage in self.stages)

    @property
    def disk(self) -> int:
        """Bytes on disk at the end."""
        return sum(stage.disk for stage in self.stages)


def plan_pipeline(
    source: str | Path,
    overrides: Mapping[str, Any],
    name: str,
    *,
    lengths: Lengths | None = None,
    gflops: float | None = None,
) -> PipelinePlan:
    """Plan the pipeline `name` of a profile; `lengths` and `gflops` are those of `make_plan`.

    Raises:
        SettingsError: no such pipeline, wrong settings, or what `make_plan` refuses.
    """
    whole = pipeline_profile(source, overrides, name)
    profiles, pipeline = profiles_under(whole, source, name), pipeline_of(whole, name)
    data = whole.data.model_dump()
    lengths = lengths or trace_lengths(data)
    rows = {"traces": Rows(trace_count(data), lengths), "prompts": Rows(whole.data.prompts)}
    costs = []
    for stage in pipeline.stages:
        profile, taken = profiles[stage.name], source_rows(stage, rows)
        count = {"sft": "documents", "grpo": "prompts"}.get(stage.kind)
        own = {count: taken.count} if count else {}
        planned = make_plan(profile, lengths=taken.lengths or lengths, gflops=gflops, **own)
        costs.append(stage_cost(stage, profile, planned, taken))
        rows[stage.name] = passed_on(stage, profile, taken)
    devices = max(answers_of(whole, 1, 1).devices, planned.stages["sft"].training.devices)
    return PipelinePlan(whole.name, name, pipeline.about, planned.device, devices, tuple(costs))


def source_rows(stage: AnyStage, rows: Mapping[str, Rows]) -> Rows:
    """Return what a stage reads: the union of its datasets; one row for a stage that reads none."""
    sources = stage.sources().get("data", [])
    found = [rows[source] for source in ([sources] if isinstance(sources, str) else sources)]
    pairs = [
        (tokens, share * part.count)
        for part in found
        if part.lengths
        for tokens, share in zip(part.lengths.tokens, part.lengths.share, strict=True)
    ]
    lengths = from_counts(pairs, "the lengths of what is merged") if pairs else None
    return Rows(max(1, sum(part.count for part in found)), lengths)


def passed_on(stage: AnyStage, profile: Profile, taken: Rows) -> Rows:
    """Return the most rows that a stage can pass on."""
    if stage.kind == "rejection_sampling":
        kept = prompt_count(stage, taken) * min(stage.keep, stage.samples)
        answer = answers_of(profile, 1, stage.max_new_tokens)
        mean = answer.prompt + answer.mean
        return Rows(kept, log_normal([(kept, mean)], SPREAD, "answers of half the limit"))
    return Rows(prompt_count(stage, taken)) if stage.kind == "pass_rate" else taken


def prompt_count(stage: AnyStage, taken: Rows) -> int:
    """Return how many prompts a sampling stage uses."""
    return min(stage.prompts or taken.count, taken.count)


def stage_cost(stage: AnyStage, profile: Profile, planned: Plan, taken: Rows) -> StageCost:
    """Return the cost of a stage under its own `profile` and that profile's plan, reading `taken`."""
    if stage.kind in ("sft", "grpo"):
        return training_cost(stage, profile, planned)
    if stage.kind == "merge_data":
        mean = taken.lengths.mean if taken.lengths else 0.0
        disk = round(taken.count * mean * ANSWER_BYTES / 2)
        return StageCost(stage.name, stage.kind, taken.count, "traces", round(mean), disk)
    if stage.kind == "evaluate":
        how = profile.evaluation
        answers = judged_answers(profile) * len(stage.models)
        return answering_cost(stage, profile, planned, answers, how.max_new_tokens, how.batch_size)
    answers = prompt_count(stage, taken) * stage.samples
    batch = max(1, stage.batch_size // stage.samples) * stage.samples
    return answering_cost(stage, profile, planned, answers, stage.max_new_tokens, batch)


def training_cost(stage: AnyStage, profile: Profile, planned: Plan) -> StageCost:
    """Return the cost of an SFT or a GRPO, including the most that dynamic sampling adds."""
    cost, disk = planned.stages[stage.kind], planned.disk
    if stage.kind == "sft":
        steps, step, tokens = planned.sft.steps, planned.sft.step_seconds, planned.sft.tokens
        extra = beside = 0.0
    else:
        grpo, dynamic = planned.grpo, profile.grpo.dynamic_sampling
        extra = dynamic.max_extra if dynamic else 0.0
        steps, tokens = grpo.steps, grpo.tokens_per_step
        step = grpo.step_seconds + extra * grpo.generate_seconds
        beside = planned.server.total if planned.generation.mode == "colocate" else 0.0
    return StageCost(
        name=stage.name,
        kind=stage.kind,
        count=steps,
        unit="steps",
        tokens=tokens,
        disk=disk[f"{stage.kind}_kept"] + disk[f"{stage.kind}_model"],
        hours=steps * step / 3600,
        step_seconds=step,
        memory=cost.memory.total + beside,
        fits=cost.fits,
        nearest=cost.nearest,
        extra=extra,
    )


def judged_answers(profile: Profile) -> int:
    """Return how many answers the evaluation of one model generates."""
    how = profile.evaluation
    if isinstance(how, BenchmarkSettings):
        counts = {name: min(PROBLEMS[name], how.most or PROBLEMS[name]) for name in how.benchmarks}
        return sum(counts[name] * (samples + how.greedy) for name, samples in how.benchmarks.items())
    return how.problems_per_level * len(profile.data.heldout_levels) * (how.samples + how.greedy)


def answers_of(profile: Profile, completions: int, limit: int, in_process: bool = False) -> Generation:
    """Return generation without a trainer: GRPO's, on every device, by vLLM wherever there are GPUs.

    Args:
        in_process: on a CPU the stage answers in its own process, also where a server is at hand.
    """
    own, machine = generation_of(profile), profile.machine
    changed: dict[str, Any] = {"completions": completions, "limit": limit, "longest": limit}
    changed["mean"] = limit * machine.plan.mean_completion
    if own.longest != own.limit:  # stories end by themselves, long before the limit
        changed["longest"] = min(limit, own.longest)
        changed["mean"] = min(changed["mean"], own.mean * max(1.0, limit / max(1, own.limit)))
    if machine.device != "cpu":
        processes, server = profile.accelerate.get("num_processes", 1), machine.server
        layout = {*machine.layout.serve, *machine.layout.train} if machine.layout else range(processes)
        changed |= {
            "mode": "server",
            "devices": len(layout),
            "tensor_parallel": server.tensor_parallel_size if server else 1,
            "memory_share": (server and server.gpu_memory_utilization) or VLLM_SHARE,
            "weight_bytes": 2,
        }
    elif in_process or own.mode == "in-process":
        changed |= {"mode": "in-process", "devices": 1, "tensor_parallel": 1}
    return replace(own, **changed)


def answering_cost(
    stage: AnyStage, profile: Profile, planned: Plan, answers: int, limit: int, batch: int
) -> StageCost:
    """Return the cost of a stage that generates `answers` answers of at most `limit` tokens.

    Args:
        batch: answers at once; of a server in `evaluate`, on each replica. Sampling stages, and every stage
            without a server, end a batch before they begin the next.
    """
    training, speeds = planned.stages["grpo"].training, planned.speeds
    generation = answers_of(profile, answers, limit, in_process=stage.kind == "evaluate")
    memory = server_memory(generation, training, planned.device)
    served = generation.mode != "in-process"
    held, room = memory.total, memory.kv_tokens
    if not served:
        held = server_memory(replace(generation, completions=batch), training, planned.device).total
        held += generation.weight_bytes * training.model.parameters
    if served and stage.kind == "evaluate":
        sizes = [(1, answers)]
        room = min(room, round(batch * (generation.prompt + generation.mean)))
    else:
        sizes = [(answers // batch, batch), (1, answers % batch)]
    seconds = sum(
        times * generate_seconds(replace(generation, completions=size), training, speeds, room)[0]
        for times, size in sizes
        if times and size
    )
    return StageCost(
        name=stage.name,
        kind=stage.kind,
        count=answers,
        unit="answers",
        tokens=limit,
        disk=round(answers * generation.mean * ANSWER_BYTES),
        hours=seconds / 3600,
        memory=held,
        fits=held <= planned.device.memory and (not served or room > generation.prompt + generation.longest),
    )
