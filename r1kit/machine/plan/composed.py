"""The price of a composed training before it starts: every stage of pipeline.yaml and what it hands on.

A training stage is planned as `make_plan` does under the stage's own settings, the others as `costs.py`
says. What a stage hands on is counted as the most that it can be: of sampled answers all that may be
kept, of measured prompts all. Not counted: starting programs and servers (minutes each on GPUs), judging
answers, held-out problems during GRPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.machine.peaks import Device
from r1kit.machine.plan import make_plan
from r1kit.machine.plan.costs import COST, Rows, StageCost, answers_of, asked
from r1kit.settings import Profile
from r1kit.settings.composed import pipeline_of, pipeline_profile, profiles_under
from r1kit.settings.lengths import from_counts, log_normal
from r1kit.settings.pipelines import AnyStage
from r1kit.settings.trace_lengths import SPREAD, trace_count, trace_lengths


@dataclass(frozen=True)
class PipelinePlan:
    """All stages of a pipeline in their order, on `devices` devices."""

    profile: str
    pipeline: str
    about: str
    device: Device
    devices: int
    stages: tuple[StageCost, ...]

    @property
    def hours(self) -> float:
        """The whole pipeline."""
        return sum(stage.hours for stage in self.stages)

    @property
    def disk(self) -> int:
        """Bytes at the end."""
        return sum(stage.disk for stage in self.stages)


def plan_pipeline(source: str | Path, overrides: Mapping[str, Any], name: str, **told: Any) -> PipelinePlan:
    """The price of the pipeline `name` of a profile.

    Args:
        told: `lengths`, `gflops` and `layer` of `make_plan`.

    Raises:
        SettingsError: no such pipeline, wrong settings, or what `make_plan` refuses.
    """
    whole = pipeline_profile(source, overrides, name)
    profiles = profiles_under(whole, source, name)
    data = whole.data.model_dump()
    lengths = told.pop("lengths", None) or trace_lengths(data)
    rows = {"traces": Rows(trace_count(data), lengths), "prompts": Rows(whole.data.prompts)}
    costs = []
    for stage in pipeline_of(whole, name).stages:
        profile, taken = profiles[stage.name], source_rows(stage, rows)
        count = {"sft": "documents", "grpo": "prompts"}.get(stage.kind)
        own = {count: taken.count} if count else {}
        planned = make_plan(profile, lengths=taken.lengths or lengths, **own, **told)
        costs.append(COST[stage.kind](stage, profile, planned, taken))
        rows[stage.name] = made_by(stage, taken, answer_tokens(profile, stage))
    devices = max(answers_of(whole, 1, 1).devices, planned.stages["sft"].training.devices)
    about = pipeline_of(whole, name).about
    return PipelinePlan(whole.name, name, about, planned.device, devices, tuple(costs))


def source_rows(stage: AnyStage, rows: Mapping[str, Rows]) -> Rows:
    """What a stage reads: the union of its datasets; one row for a stage that reads none."""
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


def made_by(stage: AnyStage, taken: Rows, mean: float) -> Rows:
    """What a stage hands on, at most; `mean`: tokens of an answer with its prompt."""
    if stage.kind == "rejection_sampling":
        kept = asked(stage, taken) * min(stage.keep, stage.samples)
        return Rows(kept, log_normal([(kept, mean)], SPREAD, "answers of half the limit"))
    return Rows(asked(stage, taken)) if stage.kind == "pass_rate" else taken


def answer_tokens(profile: Profile, stage: AnyStage) -> float:
    """Mean tokens of an answer with its prompt; 0 where a stage writes none."""
    if not hasattr(stage, "max_new_tokens"):
        return 0.0
    generation = answers_of(profile, 1, stage.max_new_tokens)
    return generation.prompt + generation.mean
