"""Load a profile: read its files, apply overrides, check types and rules, report every problem at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.settings.algorithms import make_room
from r1kit.settings.benchmarks import BenchmarkSettings
from r1kit.settings.cluster import grpo_processes
from r1kit.settings.errors import Problem, SettingsError, describe, display_path, nearest_name
from r1kit.settings.evaluation import EvaluationSettings
from r1kit.settings.hub_data import HubDataSettings
from r1kit.settings.machine import MachineSettings
from r1kit.settings.models import FILES, OPTIONAL_FILES, SECTIONS, model_for, validate_section
from r1kit.settings.overrides import key_path, set_override, unshared
from r1kit.settings.pipelines import PipelineSettings, place_of
from r1kit.settings.rules import View, check, data, machine, training  # noqa: F401 - they register rules
from r1kit.settings.story_data import DataSettings
from r1kit.settings.training import TRAINER_SECTIONS, BaseSettings, GrpoSettings, SftSettings
from r1kit.settings.validation import Source
from r1kit.settings.yaml import KeyPath, read_file, yaml_dump

CONFIG_ROOT = Path(__file__).resolve().parents[2] / "configs"
LENGTHS = {"max_steps", "num_train_epochs"}
"""Two ways to say how long a training is; a file has one of them."""
MISSING = {
    "base": "This profile has no base.yaml: it starts from a given model.",
    "pipeline": "This profile has no pipeline.yaml.",
}
"""What to say about an override of a file that a profile may leave out."""


@dataclass(frozen=True)
class Profile:
    """A checked profile folder with overrides applied."""

    name: str
    folder: Path
    machine: MachineSettings
    data: DataSettings | HubDataSettings
    base: BaseSettings | None
    sft: SftSettings
    grpo: GrpoSettings
    evaluation: EvaluationSettings | BenchmarkSettings
    accelerate: dict[str, Any]
    pipeline: PipelineSettings | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    def dump(self) -> dict[str, Any]:
        """What programs read, as plain mappings, for resolved.yaml; `base` only if there is one.

        Without accelerate, which has a file of its own, and pipeline, of which each stage is told its part.
        """
        sections = {name: getattr(self, name) for name in FILES if name != "pipeline"}
        return {
            name: settings.flat() if name in TRAINER_SECTIONS else settings.model_dump(mode="json")
            for name, settings in sections.items()
            if settings is not None
        }

    def accelerate_yaml(self, program: str = "") -> str:
        """The text of accelerate.yaml with overrides applied, for the job folder of `program`.

        With a layout GRPO starts one process on each device of `train`, however many the file says; a program
        whose settings say `alone` gets one process.
        """
        section = getattr(self, {"pretrain": "base"}.get(program, program), None)
        if section is not None and section.alone:
            shared = {key: value for key, value in self.accelerate.items() if not key.endswith("_config")}
            return yaml_dump(shared | {"distributed_type": "NO", "num_processes": 1})
        count = {"num_processes": self.grpo_processes} if program == "grpo" and self.machine.layout else {}
        return yaml_dump(self.accelerate | count)

    @property
    def grpo_processes(self) -> int:
        """Processes in which GRPO trains (see `cluster.grpo_processes`)."""
        return grpo_processes(self.machine.layout, self.accelerate.get("num_processes", 1))


def profile_names(config_root: str | Path | None = None) -> list[str]:
    """Profiles that can be loaded by name: the folders in configs/."""
    root = Path(config_root or CONFIG_ROOT)
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []


def load_profile(
    name_or_path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    config_root: str | Path | None = None,
) -> Profile:
    """The profile of that name in `configs/`, or in that folder.

    Args:
        name_or_path: `cpu-tiny`, or the path of a profile folder.
        overrides: `{"sft.learning_rate": 1e-3}`; they replace what the files say and are checked like it.
        config_root: where named profiles are, by default `configs/` of the project.

    Raises:
        SettingsError: with all problems of all files.
    """
    profile, problems = _judge(_find_folder(name_or_path, config_root), overrides or {})
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors or profile is None:
        count = f"{len(errors)} problem{'s' if len(errors) != 1 else ''}"
        raise SettingsError(errors, f"{count} in profile {_find_folder(name_or_path, config_root).name}")
    return profile


def examine_profile(
    name_or_path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    config_root: str | Path | None = None,
) -> list[Problem]:
    """All problems of a profile, errors before warnings, as a list: for the doctor. Raises nothing for them.

    Raises:
        SettingsError: there is no such profile.
    """
    _, problems = _judge(_find_folder(name_or_path, config_root), overrides or {})
    return sorted(problems, key=lambda problem: problem.severity != "error")


def _judge(folder: Path, overrides: Mapping[str, Any]) -> tuple[Profile | None, list[Problem]]:
    """The profile (None if a file is not valid by itself) and everything that is wrong with it."""
    values, sources, problems = _read(folder)
    problems += _apply_overrides(values, sources, overrides)
    if ("algorithm",) in (source.overridden if (source := sources.get("grpo")) else ()):
        make_room(values["grpo"], {path[0] for path in source.overridden})
    typed: dict[str, Any] = {}
    wrong: dict[str, set[KeyPath]] = {}
    for section, value in values.items():
        typed[section], found, wrong[section] = validate_section(section, value, sources[section])
        problems += found
    models = {section: model_for(section, value) for section, value in values.items() if section in FILES}
    problems += check(View(values, sources, wrong, models))
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    for section in OPTIONAL_FILES:
        typed.setdefault(section, None)
    profile = Profile(
        name=folder.name, folder=folder, **typed, overrides=dict(overrides), warnings=tuple(problems)
    )
    return profile, problems


def settings_hash(profile: Profile | Mapping[str, Any], sections: Iterable[str] | None = None) -> str:
    """16 hex digits over the named sections (default: all), equal for equal values in any order of keys."""
    values = {**profile.dump(), "accelerate": profile.accelerate} if isinstance(profile, Profile) else profile
    chosen = {name: values.get(name) for name in (sections if sections is not None else values)}
    text = json.dumps(chosen, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Put overrides over others; `upper` wins, also if it counts in steps where `lower` counts in epochs."""
    said = {_other_length(key) for key in upper} - set(upper)
    return {key: value for key, value in lower.items() if key not in said} | dict(upper)


def _apply_overrides(
    values: dict[str, Any], sources: dict[str, Source], overrides: Mapping[str, Any]
) -> list[Problem]:
    """Set each override in `values`, note it in `sources`, and return problems of those without a place.

    Whether key and value are allowed is left to the validation that follows.
    """
    problems = []
    for section in {name.partition(".")[0] for name in overrides} & set(values):
        values[section] = unshared(values[section])
    for name, value in overrides.items():
        section, *keys = name.split(".")
        if section not in SECTIONS or not keys:
            known, nearest = ", ".join(f"{s}.…" for s in SECTIONS), nearest_name(section, SECTIONS)
            place, message = f"override {name}", "Unknown section."
            problems.append(Problem(place, name, describe(value), known, nearest, message))
        elif section not in values:
            # A file that a profile must have is reported as missing.
            if message := MISSING.get(section):
                problems.append(Problem(f"override {name}", name, found=describe(value), message=message))
        elif isinstance(values[section], dict):
            path = place_of(values[section], keys) if section == "pipeline" else key_path(keys)
            if isinstance(path, Problem):
                problems.append(path)
                continue
            wrong = set_override(sources[section], values[section], name, path, value)
            if section == "pipeline" and not wrong:  # a stage's `set` has one length as well
                _drop(values[section], (*path[:-1], _other_length(path[-1])))
            problems += wrong
    for section, source in sources.items():
        if isinstance(values.get(section), dict):
            _replace_length(values[section], source)
    return problems


def _other_length(key: Any) -> str:
    """`sft.num_train_epochs` for `sft.max_steps` and the other way round; "" for another key."""
    section, _, word = str(key).rpartition(".")
    return f"{section}.{next(iter(LENGTHS - {word}))}" if word in LENGTHS else ""


def _drop(container: Any, path: KeyPath) -> None:
    *way, last = path
    for part in way:
        container = container[part]
    if isinstance(container, dict):
        container.pop(last, None)


def _replace_length(values: dict[str, Any], source: Source) -> None:
    """Drop the file's length, in steps or in epochs, if the other one was overridden."""
    said = LENGTHS & {path[0] for path in source.overridden if len(path) == 1}
    if len(said) == 1:
        for other in LENGTHS - said:
            values.pop(other, None)


def _find_folder(name_or_path: str | Path, config_root: str | Path | None) -> Path:
    root = Path(config_root or CONFIG_ROOT)
    text = str(name_or_path)
    given = Path(name_or_path).expanduser()
    if text and "/" not in text and (root / text).is_dir():
        return root / text
    if text and ("/" in text or text in (".", "..")) and given.is_dir():
        return given.resolve()
    names = profile_names(root)
    found = "a file" if given.is_file() else "no such folder" if "/" in text else "no such profile"
    problem = Problem(
        file=text or '""',
        key="profile",
        found=found,
        allowed=", ".join([*names, "or the path of a profile folder"]),
        nearest=nearest_name(given.name, names),
        message=f"Profiles are folders in {display_path(root)}.",
    )
    raise SettingsError([problem], "unknown profile")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Source], list[Problem]]:
    """Raw values of all files that could be read, where they came from, and what could not be read."""
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    present = [path.name for path in folder.iterdir()]
    for section in SECTIONS:
        path = folder / f"{section}.yaml"
        name = display_path(path)
        if not path.is_file():
            if section not in OPTIONAL_FILES:
                nearest = nearest_name(path.name, set(present) - {f"{other}.yaml" for other in SECTIONS}, 0.7)
                files = ", ".join(f"{other}.yaml" for other in SECTIONS)
                message = f"The file is missing; a profile is a folder with {files}."
                problems.append(
                    Problem(
                        name,
                        "",
                        found="no such file",
                        allowed="a file",
                        nearest=nearest,
                        message=message,
                        rule="missing_file",
                    )
                )
            continue
        document = read_file(path)
        problems += document.problems
        if not document.problems:
            values[section] = document.value
            sources[section] = Source(section, name, document.lines)
    return values, sources, problems
