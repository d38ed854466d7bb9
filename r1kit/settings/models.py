"""Which strict model reads which file of a profile, and how a file is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1kit.settings import trl_keys
from r1kit.settings.accelerate_file import validate_accelerate
from r1kit.settings.benchmarks import BenchmarkSettings
from r1kit.settings.errors import Problem, SettingsError, nearest_name
from r1kit.settings.evaluation import EvaluationSettings
from r1kit.settings.hub_data import HubDataSettings
from r1kit.settings.machine import MachineSettings
from r1kit.settings.pipelines import PipelineSettings
from r1kit.settings.story_data import DataSettings
from r1kit.settings.strict import Settings
from r1kit.settings.training import BaseSettings, GrpoSettings, SftSettings, TrainerSettings
from r1kit.settings.validation import Source, validate
from r1kit.settings.yaml import KeyPath

FILES: dict[str, type[Settings]] = {
    "machine": MachineSettings,
    "data": DataSettings,
    "base": BaseSettings,
    "sft": SftSettings,
    "grpo": GrpoSettings,
    "evaluation": EvaluationSettings,
    "pipeline": PipelineSettings,
}
SECTIONS = (*FILES, "accelerate")
OPTIONAL_FILES = ("base", "pipeline")


def model_for(section: str, data: Any) -> type[Settings]:
    """Return the model that a content chooses: `source` in data.yaml, `benchmarks` in evaluation.yaml."""
    if isinstance(data, dict):
        if section == "data" and data.get("source") == "hub":
            return HubDataSettings
        if section == "evaluation" and "benchmarks" in data:
            return BenchmarkSettings
    return FILES[section]


def known_keys(section: str) -> list[str]:
    """List every key that may be in the section's file."""
    own = FILES[section]
    theirs = own.trainer_keys() if issubclass(own, TrainerSettings) else {}
    return [*own.model_fields, *theirs]


def validate_section(section: str, data: Any, source: Source) -> tuple[Any, list[Problem], set[KeyPath]]:
    """Check one file of a profile, by itself.

    Returns:
        the typed section (None if anything is wrong), the problems, and the paths that are wrong.
    """
    if section == "accelerate":
        return validate_accelerate(data, source)
    model = model_for(section, data)
    trainer = issubclass(model, TrainerSettings)
    typed, problems, wrong = validate(
        model,
        data,
        source,
        beside=model.trainer_keys() if trainer else None,
        explain=lambda name: _unknown_key(section, name),
    )
    return model.from_flat(data) if trainer and typed else typed, problems, wrong


def resolved_section(section: str, values: Mapping[str, Any]) -> Any:
    """Read one section of resolved.yaml back as its typed settings.

    The profile was checked when the file was written: TRL's values and the rules are not checked again.

    Raises:
        SettingsError: an unknown key, or a wrong value of one of our own keys: somebody edited the file.
    """
    model = model_for(section, values)
    theirs = model.trainer_keys() if issubclass(model, TrainerSettings) else {}
    own = {key: value for key, value in values.items() if key not in theirs}
    source = Source(section, f"{section} of resolved.yaml")
    typed, problems, _ = validate(model, own, source, explain=lambda name: _unknown_key(section, name))
    if problems:
        raise SettingsError(problems)
    return model.from_flat(values) if theirs else typed


def _unknown_key(section: str, name: str) -> dict[str, str]:
    """Explain a key that the section's file does not take: a former name, a key of another file."""
    own = FILES[section]
    if issubclass(own, TrainerSettings):
        if name in trl_keys.REFUSED:
            return {
                "allowed": "not in this file",
                "nearest": "",
                "message": trl_keys.REFUSED[name],
                "rule": "refused_key",
            }
        if name in trl_keys.RENAMED:
            nearest, why = trl_keys.RENAMED[name]
            return {
                "allowed": "",
                "nearest": nearest if nearest in known_keys(section) else "",
                "message": f"Unknown key. {why}".strip(),
                "rule": "renamed_key",
            }
    fields = {}
    if issubclass(own, TrainerSettings):  # too many keys to list them all
        fields = {"allowed": "", "nearest": nearest_name(name, known_keys(section))}
    files = [f"{other}.yaml" for other in FILES if other != section and name in known_keys(other)]
    if files:
        message = f"Unknown key here; it belongs in {' or '.join(files)}."
        fields |= {"message": message, "nearest": ""}
    return fields
