"""Rules across settings: what each file allows alone, but trainer, model or lesson do not allow together.

Each rule is a small function that takes a View and yields Problems; its docstring says what goes wrong
without it. No stage starts while a rule is violated; advice is printed and stops nothing. The rules are in
`training`, `machine` and `data` beside this file, which `r1kit.settings.profile` imports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from r1kit.settings import trl_keys
from r1kit.settings.errors import Problem, describe
from r1kit.settings.known_models import KNOWN_MODELS, LONGER, ModelShape
from r1kit.settings.lessons import STAGE_OF_SECTION
from r1kit.settings.machine import LayoutSettings, ServerSettings, WeightSyncSettings, grpo_processes
from r1kit.settings.training import TRAINER_SECTIONS, expand
from r1kit.settings.validation import Source
from r1kit.settings.yaml import KeyPath

Rule = Callable[["View"], Iterator[Problem]]
Severity = Literal["error", "warning"]
RULES: dict[str, tuple[Rule, Severity]] = {}
ACCELERATE_DEFAULTS = {"num_processes": 1, "num_machines": 1, "mixed_precision": "no", "use_cpu": False}


def rule(function: Rule) -> Rule:
    """Register a rule: what violates it cannot work, or silently does something else."""
    RULES[function.__name__] = (function, "error")
    return function


def advice(function: Rule) -> Rule:
    """Register a rule whose violation runs, but is likely not what anybody wants: a warning."""
    RULES[function.__name__] = (function, "warning")
    return function


def check(view: View) -> list[Problem]:
    """Apply all rules and list their problems. A rule that needs a missing or wrong value is silent."""
    problems = []
    for name, (function, severity) in RULES.items():
        try:
            for problem in function(view):
                problems.append(replace(problem, rule=name, severity=severity))
        except NotKnown:
            continue
    return problems


class NotKnown(KeyError):
    """A rule asked for a value that is missing or wrong: that is a problem of its own, the rule is silent."""


class View:
    """The sections of a profile for rules. `view["sft.max_length"]` is the value in effect, or NotKnown."""

    def __init__(
        self,
        values: Mapping[str, Any],
        sources: Mapping[str, Source],
        wrong: Mapping[str, set[KeyPath]],
        models: Mapping[str, type[BaseModel]],
    ):
        self.values, self.sources, self.wrong, self.models = values, sources, wrong, models

    def has(self, section: str) -> bool:
        """Whether the profile has this file and it is a mapping."""
        return isinstance(self.values.get(section), dict)

    @property
    def trainers(self) -> list[str]:
        """The trainer files that the profile has."""
        return [section for section in TRAINER_SECTIONS if self.has(section)]

    def given(self, name: str) -> bool:
        """Whether the file itself says it, so that no default is in effect."""
        try:
            self._given(name)
        except NotKnown:
            return False
        return True

    def __getitem__(self, name: str) -> Any:
        try:
            return self._given(name)
        except NotKnown:
            section, key = name.split(".", 1)
            if not self.has(section) or any(".".join(map(str, path)) == key for path in self.wrong[section]):
                raise
            value = self._default(section, key)
            if value is ...:
                raise
            return value

    def _given(self, name: str) -> Any:
        section, *keys = name.split(".")
        value = self.values.get(section)
        path: KeyPath = ()
        for key in keys:
            part: str | int = int(key) if isinstance(value, list) and key.isdigit() else key
            path = (*path, part)
            usable = isinstance(value, dict) and part in value
            usable = usable or (isinstance(value, list) and isinstance(part, int) and part < len(value))
            if not usable or path in self.wrong[section]:
                raise NotKnown(name)
            value = value[part]
        # A list with a wrong element is not a value that rules can count with.
        if any(bad[: len(path)] == path for bad in self.wrong[section]) and isinstance(value, list):
            raise NotKnown(name)
        return value

    def _default(self, section: str, key: str) -> Any:
        if section == "accelerate":
            return ACCELERATE_DEFAULTS.get(key, ...)
        field = self.models[section].model_fields.get(key)
        if field is not None:
            default = field.get_default(call_default_factory=True)
            return ... if default is PydanticUndefined else default
        if section == "grpo" and key in (implied := expand(self.values[section].get("algorithm"))):
            return implied[key]
        return trl_keys.default(section, key) if section in TRAINER_SECTIONS else ...

    def problem(
        self, name: str, message: str, allowed: str = "", nearest: str = "", found: str = ""
    ) -> Problem:
        """A Problem at `section.key`; says so when the value is a default that nobody wrote."""
        section, *keys = name.split(".")
        path: KeyPath = tuple(int(key) if key.isdigit() else key for key in keys)
        if not found:
            try:
                found = describe(self[name]) + (
                    "" if self.given(name) else ", the default: the file does not say"
                )
            except NotKnown:
                found = "nothing"
        return self.sources[section].problem(
            path, found=found, allowed=allowed, message=message, nearest=nearest
        )

    def context(self, section: str) -> tuple[int, str]:
        """Longest sequence of the model that `section` trains, and what says so.

        Follows `model_name_or_path` from stage to stage to base.yaml, or reads a model folder's config.json.
        Raises NotKnown where neither is there to read (a model that is still to be downloaded).
        """
        if section == "base":
            return self["base.architecture.max_position_embeddings"], "max_position_embeddings in base.yaml"
        model = self[f"{section}.model_name_or_path"]
        earlier = {stage: name for name, stage in STAGE_OF_SECTION.items()}
        if model in earlier and list(earlier.values()).index(earlier[model]) < list(earlier.values()).index(
            section
        ):
            return self.context(earlier[model])
        if str(model) in KNOWN_MODELS:
            longer = f"; {LONGER[model]} has more" if model in LONGER else ""
            length = KNOWN_MODELS[str(model)].max_position_embeddings
            return length, f"max_position_embeddings of {model}{longer}"
        config = Path(str(model)).expanduser() / "config.json"
        try:
            length = json.loads(config.read_text(encoding="utf-8"))["max_position_embeddings"]
        except (OSError, ValueError, KeyError) as error:
            raise NotKnown(model) from error
        return length, f"max_position_embeddings in {config}"


def part(view: View, name: str, model: Any) -> Any:
    """A part of machine.yaml with its defaults; None if there is none. Raises NotKnown if it is wrong."""
    value = view[f"machine.{name}"]
    if value is None or not isinstance(value, dict):
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise NotKnown(name) from error


def layout_of(view: View) -> LayoutSettings | None:
    """machine.yaml's layout."""
    return part(view, "layout", LayoutSettings)


def server_of(view: View) -> ServerSettings | None:
    """machine.yaml's server."""
    return part(view, "server", ServerSettings)


def sync_of(view: View) -> WeightSyncSettings:
    """machine.yaml's weight_sync, or its defaults."""
    return part(view, "weight_sync", WeightSyncSettings) or WeightSyncSettings()


def processes_of_grpo(view: View) -> int:
    """Training processes of GRPO."""
    return grpo_processes(layout_of(view), view["accelerate.num_processes"])


def mode(view: View) -> str:
    """How GRPO generates: `server`, `colocate`, or "" for the trainer itself."""
    return view["grpo.vllm_mode"] if view["grpo.use_vllm"] else ""


def generation_batch(view: View) -> tuple[int, int]:
    """Completions of one generation block and the micro-steps that use it (GRPOConfig.__post_init__)."""
    step = view["grpo.per_device_train_batch_size"] * processes_of_grpo(view)
    size, steps = view["grpo.generation_batch_size"], view["grpo.steps_per_generation"]
    if size is not None:
        return size, max(1, size // step)
    steps = steps if steps is not None else view["grpo.gradient_accumulation_steps"]
    return step * steps, steps


def known_model(view: View, section: str) -> ModelShape | None:
    """The shape of the hub model that a section names, None for others."""
    return KNOWN_MODELS.get(str(view[f"{section}.model_name_or_path"]))
