"""Begin a run or go on with one: its settings, its pipelines, and its stages under those settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from r1kit.machine import detect_device
from r1kit.pipeline.stages import (
    StageSpec,
    lacks,
    lesson_stage,
    pipeline_hash,
    pipeline_stages,
    second_trainings,
)
from r1kit.runs import folder as runs
from r1kit.sandbox import tiers
from r1kit.settings import Problem, Profile, SettingsError, load_profile
from r1kit.settings.errors import display_path
from r1kit.settings.lessons import DEFAULT_PIPELINE, STAGES
from r1kit.settings.profile import CONFIG_ROOT, pipeline_profile


def new_run(
    profile: str,
    overrides: dict[str, Any],
    run_id: str | None = None,
    stages: Sequence[str] = (),
    pipeline: str | None = None,
) -> tuple[runs.Run, Profile]:
    """Check the settings, then create a run folder whose manifest records them and the device.

    Args:
        stages: what will be run, so that a profile which cannot run them is refused now.
        pipeline: the composed training that the run is for; its `set` is in effect in all stages. Others,
            behind commas, are run and drawn beside it.

    Raises:
        SettingsError: before anything is created.
        RunError: `run_id` is malformed or taken.
    """
    pipeline, *beside = pipelines_of(pipeline)
    settings = settings_of(profile, overrides, pipeline)
    refuse_what_it_has_no_settings_for(settings, stages)
    for name in (pipeline, *beside) if pipeline else ():
        pipeline_stages(profile, overrides, name)
    device, reason = detect_device()
    trainers = {"base": settings.base, "sft": settings.sft, "grpo": settings.grpo}
    seeds = {"data": settings.data.seed, "evaluation": settings.evaluation.seed}
    seeds |= {name: section.trl.get("seed", 42) for name, section in trainers.items() if section}
    run = runs.create_run(
        settings.name,
        argv=sys.argv,
        seeds=seeds,
        run_id=run_id,
        pipeline=pipeline or None,
        overrides=overrides,
        devices=[{"device": device, "reason": reason}],
    )
    sandbox = tiers.record(settings.machine.sandbox)
    run.update_manifest(profile_source=source_of(settings), sandbox=sandbox, beside=beside)
    return run, settings


def reopen_run(run_id: str, profile: str, overrides: dict[str, Any]) -> tuple[runs.Run, Profile]:
    """An existing run and its settings: those it was started with, and `overrides` on top, which it keeps.

    Args:
        profile: empty for the run's own.

    Raises:
        RunError: there is no such run.
        SettingsError: bad settings, or the profile is not the run's.
    """
    run = runs.open_run(run_id)
    source = profile or run.manifest["profile_source"]
    settings = settings_of(source, run.manifest["overrides"] | overrides, run.manifest.get("pipeline"))
    if settings.name != run.manifest["profile"]:
        raise SettingsError(
            [
                Problem(
                    file=f"run {run.run_id}",
                    key="PROFILE",
                    found=settings.name,
                    allowed=run.manifest["profile"],
                    message="A run keeps the profile that it was started under.",
                )
            ]
        )
    run.update_manifest(overrides=overrides)
    return run, settings


def stage_in(run: runs.Run, name: str, settings: Profile, pipeline: str = "") -> StageSpec:
    """Return the lesson `name` as it is in this run; the lesson that runs pipelines has a pipeline's hash.

    Args:
        pipeline: which; by default the run's own.

    Raises:
        SettingsError: the pipeline, or the settings of one of its stages, are wrong.
    """
    spec = lesson_stage(name, settings)
    if not STAGES[name].pipelines:
        return spec
    manifest = run.manifest
    pipeline = pipeline or manifest.get("pipeline") or DEFAULT_PIPELINE
    stages = pipeline_stages(source_of(settings), manifest["overrides"], pipeline)
    return replace(spec, inputs_hash=pipeline_hash(pipeline, stages))


def pipelines_of(told: str | None) -> list[str]:
    """The run's own pipeline, "" for none, and those that are run beside it: `r1,r1-zero`."""
    return [name.strip() for name in (told or "").split(",")]


def settings_of(source: str, overrides: dict[str, Any], pipeline: str | None) -> Profile:
    """The settings of a run's stages: those of the profile, changed as its pipeline says, if it has one."""
    return pipeline_profile(source, overrides, pipeline) if pipeline else load_profile(source, overrides)


def refuse_what_it_has_no_settings_for(settings: Profile, stages: Sequence[str]) -> None:
    """Refuse stages that would stop in their middle, after hours perhaps, for want of a part of the settings.

    Raises:
        SettingsError: the profile leaves that part out, or a second training of a stage could not run.
    """
    for name in stages:
        if lacks(STAGES[name], settings):
            section, _, key = STAGES[name].requires.partition(".")
            others = ",".join(other for other in stages if not lacks(STAGES[other], settings))
            message = f"{name} cannot run without it."
            message += f" Leave that stage out: --stages {others}." if others else ""
            allowed = f"a section as in configs/cpu-tiny/{section}.yaml"
            file = display_path(settings.folder / f"{section}.yaml")
            raise SettingsError([Problem(file, key, "nothing", allowed, message=message)])
    for name in stages:
        for training, changes in second_trainings(name, settings).items():
            try:
                load_profile(settings.folder, settings.overrides | changes)
            except SettingsError as error:
                where = f"(in {name}, whose training {training!r} has settings of its own)"
                problems = [replace(p, message=f"{p.message} {where}".strip()) for p in error.problems]
                raise SettingsError(problems, error.heading) from error


def source_of(settings: Profile) -> str:
    """What to give as PROFILE to load these settings again: the name of a shipped profile, else its path."""
    return settings.name if settings.folder.parent == CONFIG_ROOT else str(settings.folder)
