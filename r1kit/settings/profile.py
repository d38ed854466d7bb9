"""Load a profile: read its files, apply overrides, check types and rules, report every problem at once.

accelerate.yaml: accelerate's own file, checked against accelerate's keys.

Which strict model reads which file of a profile, and how a file is checked.

The settings of a composed training: those of the whole pipeline, and those of each of its stages.

Files, then the pipeline's `set`, then what the user changed (`--set`), then the stage's `set`: the last
that speaks wins.
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
from r1kit.settings.machine import MachineSettings, grpo_processes
from r1kit.settings.pipelines import AnyStage, Pipeline, PipelineSettings, place_of
from r1kit.settings.rules import View, check
from r1kit.settings.rules import data as _data_rules  # noqa: F401 - registers its rules
from r1kit.settings.rules import machine as _machine_rules  # noqa: F401
from r1kit.settings.rules import training as _training_rules  # noqa: F401
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

# Older names that accelerate still converts.
CONVERTED = ("fp16", "dynamo_backend")
PRECISIONS = ("no", "fp16", "bf16", "fp8")
WHOLE = ("num_processes", "num_machines", "machine_rank", "main_process_port")


def validate_accelerate(data: Any, source: Source) -> tuple[dict | None, list[Problem], set[KeyPath]]:
    """Check accelerate.yaml: its mapping (None if anything is wrong), the problems, the wrong paths."""
    if not isinstance(data, dict):
        found = "an empty file" if data is None else describe(data)
        return (
            None,
            [Problem(source.file, "", found=found, allowed="a mapping of keys to values: key: value")],
            {()},
        )
    known = [*trl_keys.accelerate_keys(), *CONVERTED]
    found: dict[str, Problem] = {}

    def wrong(key: str, allowed: str, message: str = "", nearest: str = "") -> None:
        value = describe(data[key]) if key in data else "nothing"
        found[key] = source.problem((key,), found=value, allowed=allowed, message=message, nearest=nearest)

    for key in data:
        if key not in known:
            wrong(key, "", "Unknown key; accelerate would refuse the file.", nearest_name(key, known))
    kinds = trl_keys.distributed_types()
    kind = data.get("distributed_type")
    if kind not in kinds:
        nearest = nearest_name(kind, kinds) if isinstance(kind, str) else ""
        hint = 'YAML reads a bare NO as false; write distributed_type: "NO"' if kind is False else ""
        wrong("distributed_type", f"one of {', '.join(kinds)}", hint, nearest)
    precision = data.get("mixed_precision", "no")
    if precision not in PRECISIONS:
        hint = 'YAML reads a bare no as false; write mixed_precision: "no"' if precision is False else ""
        nearest = nearest_name(precision, PRECISIONS) if isinstance(precision, str) else ""
        wrong("mixed_precision", f"one of {', '.join(PRECISIONS)}", hint, nearest)
    for key in WHOLE:
        least = 1 if key in ("num_processes", "num_machines") else 0
        value = data.get(key, least)
        if value is None and key == "main_process_port":
            continue
        if type(value) is not int or value < least:
            wrong(key, f"a whole number, {least} or more")
    if not isinstance(data.get("use_cpu", False), bool):
        wrong("use_cpu", "true or false")
    if "num_processes" not in data and kind != "NO":
        wrong("num_processes", "a whole number, 1 or more", "The key is missing.")
    for key in ("deepspeed_config", "fsdp_config"):
        if not isinstance(data.get(key, {}), dict):
            wrong(key, "a mapping")
    problems = sorted(found.values(), key=lambda problem: problem.line or 0)
    return (None if problems else dict(data)), problems, {(key,) for key in found}


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


CONFIG_ROOT = shipped_folder("configs")
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
