"""The settings of a composed training: those of the whole pipeline, and those of each of its stages.

Files, then the pipeline's `set`, then what the user changed (`--set`), then the stage's `set`: the last
that speaks wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1kit.settings.errors import Problem, SettingsError, describe, display_path, nearest_name
from r1kit.settings.pipelines import AnyStage, Pipeline
from r1kit.settings.profile import Profile, load_profile, over


def pipeline_of(profile: Profile, name: str) -> Pipeline:
    """The pipeline called `name`.

    Raises:
        SettingsError: the profile has no such pipeline, or no pipeline.yaml.
    """
    known = list(profile.pipeline.pipelines) if profile.pipeline else []
    if name in known:
        return profile.pipeline.pipelines[name]
    file = display_path(profile.folder / "pipeline.yaml")
    message = "There is no such pipeline." if known else f"{profile.name} has no pipeline.yaml."
    problem = Problem(file, "pipelines", describe(name), ", ".join(known), nearest_name(name, known), message)
    raise SettingsError([problem])


def pipeline_profile(source: str | Path, overrides: Mapping[str, Any], name: str) -> Profile:
    """The profile under which the whole pipeline runs, its data stage included.

    Raises:
        SettingsError: bad settings, or no such pipeline.
    """
    pipeline = pipeline_of(load_profile(source, overrides), name)
    try:
        return load_profile(source, over(pipeline.set, overrides))
    except SettingsError as error:
        raise SettingsError(_placed(error, f"{name}.set", source), error.heading) from error


def stage_profiles(source: str | Path, overrides: Mapping[str, Any], name: str) -> dict[str, Profile]:
    """The profile of every stage of a pipeline, by the stage's name, in order.

    Raises:
        SettingsError: with the problems of all stages.
    """
    return profiles_under(pipeline_profile(source, overrides, name), source, name)


def profiles_under(whole: Profile, source: str | Path, name: str) -> dict[str, Profile]:
    """`stage_profiles`, given the profile of the whole pipeline."""
    stages = pipeline_of(whole, name).stages
    profiles, problems = {}, []
    for position, stage in enumerate(stages):
        implied = implied_settings(stage, stages, whole)
        try:
            profiles[stage.name] = load_profile(source, over({**whole.overrides, **implied}, stage.set))
        except SettingsError as error:
            problems += _placed(error, f"{name}.stages.{position}.set", source, stage.name)
    if problems:
        raise SettingsError(problems, f"{len(problems)} problems in the pipeline {name}")
    return profiles


def implied_settings(stage: AnyStage, stages: list[AnyStage], whole: Profile) -> dict[str, Any]:
    """What a stage's place in the pipeline says about its file, so that the rules judge what will happen.

    A model that no SFT came before counts as the base model. The lessons of 04 and 04b are no part of it.
    """
    if stage.kind not in ("sft", "grpo"):
        return {}
    taught = stage.kind == "grpo" and "sft" in ancestors(stage.name, stages)
    implied: dict[str, Any] = {f"{stage.kind}.model_name_or_path": "02_sft" if taught else base_of(whole)}
    if stage.kind == "grpo":
        implied |= {"grpo.collapse": None, "grpo.programs": None}
    return implied


def base_of(profile: Profile) -> str:
    """The base model as `model_name_or_path` names it: the data stage's, or the given model."""
    if profile.base is not None:
        return "01_data"
    return profile.sft.model["model_name_or_path"]


def ancestors(name: str, stages: list[AnyStage]) -> set[str]:
    """The kinds of all stages whose weights this stage's model went through."""
    by_name = {stage.name: stage for stage in stages}
    kinds, source = set(), by_name[name].sources().get("model")
    while source in by_name:
        kinds.add(by_name[source].kind)
        source = by_name[source].sources().get("model")
    return kinds


def _placed(error: SettingsError, where: str, source: str | Path, stage: str = "") -> list[Problem]:
    """The problems of a file that are the pipeline's doing, with their place in pipeline.yaml."""
    word = f"in the stage {stage}" if stage else "in this pipeline"
    return [
        replace(
            problem,
            file=f"pipelines.{where} on {problem.file.removeprefix('override of ')}",
            message=f"{problem.message} ({word})".strip(),
        )
        for problem in error.problems
    ]
