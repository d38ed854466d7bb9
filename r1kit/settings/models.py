"""Which strict model reads which file of a profile; the models stand one floor below, a module each."""

from __future__ import annotations

from typing import Any

from r1kit.settings.benchmarks import BenchmarkSettings
from r1kit.settings.evaluation import EvaluationSettings
from r1kit.settings.hub_data import HubDataSettings
from r1kit.settings.machine import MachineSettings
from r1kit.settings.pipelines import PipelineSettings
from r1kit.settings.story_data import DataSettings
from r1kit.settings.strict import Settings
from r1kit.settings.training import BaseSettings, GrpoSettings, SftSettings

FILES: dict[str, type[Settings]] = {
    "machine": MachineSettings,
    "data": DataSettings,
    "base": BaseSettings,
    "sft": SftSettings,
    "grpo": GrpoSettings,
    "evaluation": EvaluationSettings,
    "pipeline": PipelineSettings,
}
OPTIONAL_FILES = ("base", "pipeline")
TRAINER_SECTIONS = ("base", "sft", "grpo")


def model_for(section: str, data: Any) -> type[Settings]:
    """The model that a file's content chooses: `source` in data.yaml, `benchmarks` in evaluation.yaml."""
    if isinstance(data, dict):
        if section == "data" and data.get("source") == "hub":
            return HubDataSettings
        if section == "evaluation" and "benchmarks" in data:
            return BenchmarkSettings
    return FILES[section]
