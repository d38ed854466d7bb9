"""The View through which rules read a profile, and the helpers that several rule modules share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
from r1kit.settings.validation import Source, key_path
from r1kit.settings.yaml import KeyPath, dotted


@dataclass(frozen=True)
class Rule:
    """A function that yields the violations of one rule, and how severe they are."""

    violations: Callable[[View], Iterator[Problem]]
    severity: Literal["error", "warning"]


def rule(function: Callable[[View], Iterator[Problem]]) -> Rule:
    """Make a rule: settings that violate it cannot work, or silently do something else."""
    return Rule(function, "error")


def advice(function: Callable[[View], Iterator[Problem]]) -> Rule:
    """Make a rule that only warns: settings that violate it run, but are probably a mistake."""
    return Rule(function, "warning")


class NotKnown(KeyError):
    """A rule needs a value that is missing or wrong. That is reported already, so the rule is skipped."""


class View:
    """The sections of a profile. `view["sft.max_length"]` is the value in effect, or raises NotKnown."""

    def __init__(
        self,
        values: Mapping[str, Any],
        sources: Mapping[str, Source],
        wrong: Mapping[str, set[KeyPath]],
        models: Mapping[str, type[BaseModel]],
    ):
        self.values, self.sources, self.wrong, self.models = values, sources, wrong, models

    def has(self, section: str) -> bool:
        """Return True if the profile has this file and it is a mapping."""
        return isinstance(self.values.get(section), dict)

    @property
    def trainers(self) -> list[str]:
        """The profile's trainer files."""
        return [section for section in TRAINER_SECTIONS if self.has(section)]

    def given(self, name: str) -> bool:
        """Return True if the file itself sets the key, so that no default is in effect."""
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
            if not self.has(section) or any(dotted(path) == key for path in self.wrong[section]):
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
        # Rules cannot use a list with a wrong element.
        if any(bad[: len(path)] == path for bad in self.wrong[section]) and isinstance(value, list):
            raise NotKnown(name)
        return value

    def _default(self, section: str, key: str) -> Any:
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
        """Make a Problem at `section.key`; `found` says if the value is a default."""
        section, *keys = name.split(".")
        if not found:
            try:
                default = "" if self.given(name) else ", the default: the file does not say"
                found = describe(self[name]) + default
            except NotKnown:
                found = "nothing"
        return self.sources[section].problem(
            key_path(keys), found=found, allowed=allowed, message=message, nearest=nearest
        )

    def context(self, section: str) -> tuple[int, str]:
        """Return the context length of the model that `section` trains, and its origin.

        Follows `model_name_or_path` from stage to stage to base.yaml, or reads a model folder's config.json.

        Raises:
            NotKnown: there is neither, because the model is not downloaded yet.
        """
        if section == "base":
            return self["base.architecture.max_position_embeddings"], "max_position_embeddings in base.yaml"
        model = str(self[f"{section}.model_name_or_path"])
        for earlier, stage in STAGE_OF_SECTION.items():
            if model == stage < STAGE_OF_SECTION[section]:
                return self.context(earlier)
        if model in KNOWN_MODELS:
            longer = f"; {LONGER[model]} has more" if model in LONGER else ""
            length = KNOWN_MODELS[model].max_position_embeddings
            return length, f"max_position_embeddings of {model}{longer}"
        config = Path(model).expanduser() / "config.json"
        try:
            length = json.loads(config.read_text(encoding="utf-8"))["max_position_embeddings"]
        except (OSError, ValueError, KeyError) as error:
            raise NotKnown(model) from error
        return length, f"max_position_embeddings in {config}"


def part(view: View, name: str, model: Any) -> Any:
    """Return a part of machine.yaml with its defaults, None without one; raise NotKnown if it is wrong."""
    value = view[f"machine.{name}"]
    if value is None or not isinstance(value, dict):
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise NotKnown(name) from error


def layout_of(view: View) -> LayoutSettings | None:
    """Return machine.yaml's layout."""
    return part(view, "layout", LayoutSettings)


def server_of(view: View) -> ServerSettings | None:
    """Return machine.yaml's server."""
    return part(view, "server", ServerSettings)


def sync_of(view: View) -> WeightSyncSettings:
    """Return machine.yaml's weight_sync, or its defaults."""
    return part(view, "weight_sync", WeightSyncSettings) or WeightSyncSettings()


def processes_of_grpo(view: View) -> int:
    """Count the training processes of GRPO."""
    return grpo_processes(layout_of(view), view["accelerate.num_processes"])


def mode(view: View) -> str:
    """Return where GRPO generates: `server`, `colocate`, or "" for the trainer itself."""
    return view["grpo.vllm_mode"] if view["grpo.use_vllm"] else ""


def generation_batch(view: View) -> tuple[int, int]:
    """Return completions per generation and the micro-steps that use them (GRPOConfig.__post_init__)."""
    step = view["grpo.per_device_train_batch_size"] * processes_of_grpo(view)
    size, steps = view["grpo.generation_batch_size"], view["grpo.steps_per_generation"]
    if size is not None:
        return size, max(1, size // step)
    steps = steps if steps is not None else view["grpo.gradient_accumulation_steps"]
    return step * steps, steps


def known_model(view: View, section: str, follow: bool = False) -> ModelShape | None:
    """Return the shape of the hub model that a section names, None for another model.

    With `follow`, a GRPO that starts from the SFT lesson has the SFT's model.
    """
    name = view[f"{section}.model_name_or_path"]
    if follow and name == "02_sft":
        name = view["sft.model_name_or_path"]
    return KNOWN_MODELS.get(str(name))


def entries(view: View, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, entry) for each entry of a list: `data.prompts_from`, `grpo.rewards`."""
    return ((f"{name}.{position}", entry) for position, entry in enumerate(view[name]))
