"""The stages of a composed training as they will run: inputs, settings, and a hash of all that decides them.

The hash holds the hashes of what a stage stands on, down to the data stage's, and leaves names of stages out:
two pipelines that begin alike share the stages they begin with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.pipeline.prerequisites import inputs_hash
from r1kit.pipeline.stages import STAGES
from r1kit.settings import Profile, settings_hash
from r1kit.settings.composed import base_of, pipeline_of, pipeline_profile, profiles_under
from r1kit.settings.pipelines import GIVEN, AnyStage

READS = {"sft": "sft", "grpo": "grpo", "evaluate": "evaluation"}
"""The file of the profile that a kind of stage reads."""

INPUT_NAMES = {
    "sft": {"data": "traces"},
    "grpo": {"data": "prompts"},
    "rejection_sampling": {"data": "prompts"},
    "pass_rate": {"data": "prompts"},
}
"""What a program calls an input that pipeline.yaml calls `data`."""

FORMS = ("format", "think_format", "tag_count")
"""Rewards that judge an answer's form; those that grpo.yaml names judge sampled traces too."""


@dataclass(frozen=True)
class ComposedStage:
    """One stage of a pipeline.

    Attributes:
        settings: its entry in pipeline.yaml.
        profile: the settings under which it runs.
        inputs: what its program calls an input -> `base`, `traces`, `prompts` or the stage that makes it.
        inputs_hash: equal for stages that would make the same.
    """

    settings: AnyStage
    profile: Profile
    inputs: dict[str, str]
    inputs_hash: str

    @property
    def name(self) -> str:
        """The stage's name in its pipeline."""
        return self.settings.name

    @property
    def kind(self) -> str:
        """sft, grpo, rejection_sampling, pass_rate, merge_data or evaluate."""
        return self.settings.kind

    @property
    def needs(self) -> list[str]:
        """The stages of the pipeline that it stands on."""
        return [source for source in self.inputs.values() if source not in GIVEN]

    def parameters(self) -> dict[str, Any]:
        """What its program is told beside the profile."""
        told = self.settings.parameters()
        if self.kind == "rejection_sampling":
            told["forms"] = [r.name for r in self.profile.grpo.rewards if r.name in FORMS]
        if self.kind in ("merge_data", "evaluate"):
            told["names"] = list(self.inputs)
        return told


def compose(source: str | Path, overrides: Mapping[str, Any], name: str) -> list[ComposedStage]:
    """The stages of the pipeline `name` in order, every one with its hash.

    Args:
        source: the profile, by name or path.
        overrides: what the user changed; the pipeline's own changes lie below it (`settings.composed`).

    Raises:
        SettingsError: the pipeline, or the settings of one of its stages, are wrong.
    """
    whole = pipeline_profile(source, overrides, name)
    profiles = profiles_under(whole, source, name)
    known = given_hashes(whole)
    composed = []
    for settings in pipeline_of(whole, name).stages:
        stage = _stage(settings, profiles[settings.name], known)
        known[stage.name] = stage.inputs_hash
        composed.append(stage)
    return composed


def given_hashes(whole: Profile) -> dict[str, str]:
    """The hash of the data stage's results; that of a given model is its name's."""
    data = inputs_hash(STAGES["01_data"], whole)
    base = data if whole.base is not None else settings_hash({"model": base_of(whole)})
    return dict.fromkeys(GIVEN, data) | {"base": base}


def pipeline_hash(source: str | Path, overrides: Mapping[str, Any], name: str) -> str:
    """A hash of all that decides a pipeline's results."""
    stages = compose(source, overrides, name)
    return settings_hash({"pipeline": name, "stages": {stage.name: stage.inputs_hash for stage in stages}})


def _stage(settings: AnyStage, profile: Profile, known: Mapping[str, str]) -> ComposedStage:
    names = INPUT_NAMES.get(settings.kind, {})
    inputs = {}
    for role, source in settings.sources().items():
        inputs |= (
            {name: name for name in source} if isinstance(source, list) else {names.get(role, role): source}
        )
    if settings.kind == "evaluate":
        inputs = {name: name for name in settings.models}
    stage = ComposedStage(settings, profile, inputs, "")
    section = READS.get(settings.kind)
    read = profile.dump()[section] if section else {}
    # The lessons' own settings are no part of a stage, and the place of its model is said by its inputs.
    read = {
        k: v for k, v in read.items() if k not in ("collapse", "programs", "model_name_or_path", "expect")
    }
    decides = {
        "kind": settings.kind,
        "parameters": stage.parameters(),
        "settings": read,
        "inputs": {role: known[source] for role, source in inputs.items()},
    }
    return ComposedStage(settings, profile, inputs, settings_hash(decides))
