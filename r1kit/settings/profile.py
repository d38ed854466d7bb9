"""Load a profile: read its files, apply overrides, check types and rules, report every problem at once.

`load_profile` is the entry. It reads each file (`_read`), sets the overrides in the raw values
(`_apply_overrides`), checks each file against its model (`validate_section`), then all files together
(`rules.check`). The last part derives the profiles of a pipeline's stages: the files, then the pipeline's
`set`, then `--set`, then the stage's `set`; the later one wins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r1kit.settings import trl_keys
from r1kit.settings.data import DataSettings, HubDataSettings
from r1kit.settings.errors import Problem, SettingsError, describe, display_path, nearest_name, shipped_folder
from r1kit.settings.evaluation import BenchmarkSettings, EvaluationSettings
from r1kit.settings.machine import AccelerateSettings, MachineSettings, grpo_processes
from r1kit.settings.pipelines import AnyStage, Pipeline, PipelineSettings, place_of
from r1kit.settings.rules import View, check
from r1kit.settings.training import (
    TRAINER_SECTIONS,
    BaseSettings,
    GrpoSettings,
    SftSettings,
    TrainerSettings,
    make_room,
)
from r1kit.settings.validation import Settings, Source, key_path, set_override, unshared, validate
from r1kit.settings.yaml import KeyPath, read_file, yaml_dump

FILES: dict[str, type[Settings]] = {
    "machine": MachineSettings,
    "data": DataSettings,
    "base": BaseSettings,
    "sft": SftSettings,
    "grpo": GrpoSettings,
    "evaluation": EvaluationSettings,
    "pipeline": PipelineSettings,
    "accelerate": AccelerateSettings,
}
OPTIONAL_FILES = {
    "base": "This profile has no base.yaml: it starts from a given model.",
    "pipeline": "This profile has no pipeline.yaml.",
}
"""Files that a profile may leave out, with the message about an override of a missing one."""

CONFIG_ROOT = shipped_folder("configs")
LENGTHS = {"max_steps", "num_train_epochs"}
"""The two keys for the length of a training; a file has one of them."""


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
        """Return the sections as plain mappings for resolved.yaml; `base` only if there is one.

        accelerate has its own file, and each pipeline stage gets its own part of pipeline.yaml.
        """
        sections = {name: getattr(self, name) for name in FILES if name not in ("pipeline", "accelerate")}
        return {
            name: settings.flat() if name in TRAINER_SECTIONS else settings.model_dump(mode="json")
            for name, settings in sections.items()
            if settings is not None
        }

    def accelerate_yaml(self, program: str = "") -> str:
        """Return the text of accelerate.yaml with overrides applied, for the job folder of `program`.

        With a layout GRPO starts one process per device of `train`, whatever the file says; a program with
        `alone` in its settings gets one process.
        """
        section = getattr(self, {"pretrain": "base"}.get(program, program), None)
        if section is not None and section.alone:
            shared = {key: value for key, value in self.accelerate.items() if not key.endswith("_config")}
            return yaml_dump(shared | {"distributed_type": "NO", "num_processes": 1})
        count = {"num_processes": self.grpo_processes} if program == "grpo" and self.machine.layout else {}
        return yaml_dump(self.accelerate | count)

    def in_effect(self, section: str, key: str) -> Any:
        """Return the value of a trainer's key: the file's or TRL's default; None without either."""
        settings = getattr(self, section)
        default = trl_keys.default(section, key)
        given = {**settings.model, **settings.trl}
        return given.get(key, None if default is ... else default)

    @property
    def grpo_processes(self) -> int:
        """Processes in which GRPO trains (see `machine.grpo_processes`)."""
        return grpo_processes(self.machine.layout, self.accelerate.get("num_processes", 1))


def profile_names(config_root: str | Path | None = None) -> list[str]:
    """List the profiles that can be loaded by name: the folders in configs/."""
    root = Path(config_root or CONFIG_ROOT)
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []


def load_profile(
    name_or_path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    config_root: str | Path | None = None,
) -> Profile:
    """Load and check a profile.

    Args:
        name_or_path: `cpu-tiny`, or the path of a profile folder.
        overrides: `{"sft.learning_rate": 1e-3}`; they replace values of the files and are checked like them.
        config_root: folder of the named profiles, by default the project's `configs/`.

    Raises:
        SettingsError: with all problems of all files.
    """
    folder = _find_folder(name_or_path, config_root)
    profile, problems = _load(folder, overrides or {})
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors or profile is None:
        count = f"{len(errors)} problem{'s' if len(errors) != 1 else ''}"
        raise SettingsError(errors, f"{count} in profile {folder.name}")
    return profile


def examine_profile(
    name_or_path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    config_root: str | Path | None = None,
) -> list[Problem]:
    """List all problems of a profile for the doctor, errors before warnings.

    Raises:
        SettingsError: there is no such profile.
    """
    _, problems = _load(_find_folder(name_or_path, config_root), overrides or {})
    return sorted(problems, key=lambda problem: problem.severity != "error")


def _load(folder: Path, overrides: Mapping[str, Any]) -> tuple[Profile | None, list[Problem]]:
    """Return the profile (None if there is an error) and all problems."""
    values, sources, problems = _read(folder)
    problems += _apply_overrides(values, sources, overrides)
    if ("algorithm",) in (source.overridden if (source := sources.get("grpo")) else ()):
        make_room(values["grpo"], {path[0] for path in source.overridden})
    typed: dict[str, Any] = {}
    wrong: dict[str, set[KeyPath]] = {}
    for section, value in values.items():
        typed[section], found, wrong[section] = validate_section(section, value, sources[section])
        problems += found
    models = {section: model_for(section, value) for section, value in values.items()}
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
    """Hash the named sections (default: all) to 16 hex digits, independent of the order of keys."""
    values = {**profile.dump(), "accelerate": profile.accelerate} if isinstance(profile, Profile) else profile
    chosen = {name: values.get(name) for name in (sections if sections is not None else values)}
    text = json.dumps(chosen, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# One file of a profile.


def model_for(section: str, data: Any) -> type[Settings]:
    """Return the model of a file: `source` decides in data.yaml, `benchmarks` in evaluation.yaml."""
    if isinstance(data, dict):
        if section == "data" and data.get("source") == "hub":
            return HubDataSettings
        if section == "evaluation" and "benchmarks" in data:
            return BenchmarkSettings
    return FILES[section]


def known_keys(section: str) -> list[str]:
    """List every key that the section's file may have."""
    return [*FILES[section].model_fields, *FILES[section].library_keys()]


def validate_section(section: str, data: Any, source: Source) -> tuple[Any, list[Problem], set[KeyPath]]:
    """Check one file of a profile without the others.

    Returns:
        the typed section (None if anything is wrong), the problems, and the paths that are wrong.
    """
    model = model_for(section, data)
    typed, problems, wrong = validate(model, data, source, explain=lambda name: _unknown_key(section, name))
    if typed and issubclass(model, TrainerSettings):
        typed = model.from_flat(data)
    return (dict(data) if typed and section == "accelerate" else typed), problems, wrong


def resolved_section(section: str, values: Mapping[str, Any]) -> Any:
    """Read one section of resolved.yaml back as its typed settings.

    The profile was checked when the file was written: TRL's values and the rules are not checked again.

    Raises:
        SettingsError: an unknown key, or a wrong value of one of our own keys, because the file was edited.
    """
    model = model_for(section, values)
    own = {key: value for key, value in values.items() if key not in model.library_keys()}
    source = Source(section, f"{section} of resolved.yaml")
    typed, problems, _ = validate(model, own, source, explain=lambda name: _unknown_key(section, name))
    if problems:
        raise SettingsError(problems)
    return model.from_flat(values) if issubclass(model, TrainerSettings) else typed


def _unknown_key(section: str, name: str) -> dict[str, str]:
    """Explain a key that the section's file does not take: refused, renamed, or a key of another file."""
    fields = {}
    if section in TRAINER_SECTIONS:
        if name in trl_keys.REFUSED:
            fields = {"allowed": "not in this file", "message": trl_keys.REFUSED[name], "rule": "refused_key"}
            return fields | {"nearest": ""}
        if name in trl_keys.RENAMED:
            nearest, why = trl_keys.RENAMED[name]
            nearest = nearest if nearest in known_keys(section) else ""
            fields = {"nearest": nearest, "message": f"Unknown key. {why}".strip(), "rule": "renamed_key"}
            return fields | {"allowed": ""}
    if section in (*TRAINER_SECTIONS, "accelerate"):  # too many keys to list them all
        fields = {"allowed": "", "nearest": nearest_name(name, known_keys(section))}
    if section == "accelerate":
        fields["message"] = "Unknown key; accelerate would refuse the file."
    files = [f"{other}.yaml" for other in FILES if other != section and name in known_keys(other)]
    if files:
        fields |= {"message": f"Unknown key here; it belongs in {' or '.join(files)}.", "nearest": ""}
    return fields


# Overrides, folders and files.


def _apply_overrides(
    values: dict[str, Any], sources: dict[str, Source], overrides: Mapping[str, Any]
) -> list[Problem]:
    """Set each override in `values`, note it in `sources`, and return problems of those that fit nowhere.

    The validation that follows checks key and value.
    """
    problems = []
    for section in {name.partition(".")[0] for name in overrides} & set(values):
        values[section] = unshared(values[section])
    for name, value in overrides.items():
        section, *keys = name.split(".")
        if section not in FILES or not keys:
            known, nearest = ", ".join(f"{s}.…" for s in FILES), nearest_name(section, FILES)
            place, message = f"override {name}", "Unknown section."
            problems.append(Problem(place, name, describe(value), known, nearest, message))
        elif section not in values:
            # A missing required file has its own problem.
            if message := OPTIONAL_FILES.get(section):
                problems.append(Problem(f"override {name}", name, found=describe(value), message=message))
        elif isinstance(values[section], dict):
            path = place_of(values[section], keys) if section == "pipeline" else key_path(keys)
            if isinstance(path, Problem):
                problems.append(path)
                continue
            wrong = set_override(sources[section], values[section], name, path, value)
            if section == "pipeline" and not wrong:  # a stage's `set` has one length as well
                parent = values[section]
                for part in path[:-1]:
                    parent = parent[part]
                if isinstance(parent, dict):
                    parent.pop(_other_length(path[-1]), None)
            problems += wrong
    for section, source in sources.items():
        overridden = LENGTHS & {path[0] for path in source.overridden if len(path) == 1}
        if len(overridden) == 1 and isinstance(values.get(section), dict):
            for other in LENGTHS - overridden:
                values[section].pop(other, None)
    return problems


def _other_length(key: Any) -> str:
    """`sft.num_train_epochs` for `sft.max_steps` and the other way round; "" for another key."""
    section, _, word = str(key).rpartition(".")
    return f"{section}.{next(iter(LENGTHS - {word}))}" if word in LENGTHS else ""


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
    """Read all files: raw values and sources of the readable ones, problems of the others."""
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    present = [path.name for path in folder.iterdir()]
    for section in FILES:
        path = folder / f"{section}.yaml"
        name = display_path(path)
        if not path.is_file():
            if section not in OPTIONAL_FILES:
                files = [f"{other}.yaml" for other in FILES]
                nearest = nearest_name(path.name, set(present) - set(files), 0.7)
                message = f"The file is missing; a profile is a folder with {', '.join(files)}."
                fields = {"nearest": nearest, "message": message, "rule": "missing_file"}
                problems.append(Problem(name, "", "no such file", "a file", **fields))
            continue
        document = read_file(path)
        problems += document.problems
        if not document.problems:
            values[section] = document.value
            sources[section] = Source(section, name, document.lines)
    return values, sources, problems


# The profiles of a pipeline's stages.


def pipeline_of(profile: Profile, name: str) -> Pipeline:
    """Return the pipeline called `name`.

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
    """Load the profile of a whole pipeline, its data stage included.

    Raises:
        SettingsError: bad settings, or no such pipeline.
    """
    pipeline = pipeline_of(load_profile(source, overrides), name)
    try:
        return load_profile(source, over(pipeline.set, overrides))
    except SettingsError as error:
        raise SettingsError(_placed(error, f"{name}.set", source), error.heading) from error


def stage_profiles(source: str | Path, overrides: Mapping[str, Any], name: str) -> dict[str, Profile]:
    """Load the profile of each stage of a pipeline, by the stage's name, in order.

    Raises:
        SettingsError: with the problems of all stages.
    """
    return profiles_under(pipeline_profile(source, overrides, name), source, name)


def profiles_under(whole: Profile, source: str | Path, name: str) -> dict[str, Profile]:
    """Load `stage_profiles` from the profile of the whole pipeline."""
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
    """Return the overrides that follow from a stage's place, so that the rules check what will really run.

    A model without an earlier SFT counts as the base model. The keys of the lessons 04 and 04b are removed.
    """
    if stage.kind not in ("sft", "grpo"):
        return {}
    taught = stage.kind == "grpo" and "sft" in ancestors(stage.name, stages)
    implied: dict[str, Any] = {f"{stage.kind}.model_name_or_path": "02_sft" if taught else base_of(whole)}
    if stage.kind == "grpo":
        implied |= {"grpo.collapse": None, "grpo.programs": None}
    return implied


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Put overrides over others; `upper` wins, also if it counts in steps where `lower` counts in epochs."""
    replaced = {_other_length(key) for key in upper} - set(upper)
    return {key: value for key, value in lower.items() if key not in replaced} | dict(upper)


def base_of(profile: Profile) -> str:
    """Return the base model's `model_name_or_path`: the data stage's model, or the given one."""
    if profile.base is not None:
        return "01_data"
    return profile.sft.model["model_name_or_path"]


def ancestors(name: str, stages: list[AnyStage]) -> set[str]:
    """Return the kinds of all stages that trained the model of this stage before it."""
    by_name = {stage.name: stage for stage in stages}
    kinds, source = set(), by_name[name].sources().get("model")
    while source in by_name:
        kinds.add(by_name[source].kind)
        source = by_name[source].sources().get("model")
    return kinds


def _placed(error: SettingsError, where: str, source: str | Path, stage: str = "") -> list[Problem]:
    """Give the problems of a stage's settings their place in pipeline.yaml."""
    word = f"in the stage {stage}" if stage else "in this pipeline"
    return [
        replace(
            problem,
            file=f"pipelines.{where} on {problem.file.removeprefix('override of ')}",
            message=f"{problem.message} ({word})".strip(),
        )
        for problem in error.problems
    ]
