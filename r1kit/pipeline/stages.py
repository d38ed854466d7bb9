"""Stages before they run: their settings, their inputs, and the hash of everything that decides their result.

The notebooks form one pipeline, named `lessons`: each stage is a notebook, and `r1kit.settings.pipelines`
says in which order they run and what each needs. The other pipelines are in pipeline.yaml: each stage is a
program. A stage's hash includes the hashes of its inputs, down to the data stage. The hash of a pipeline.yaml
stage leaves names out, so two pipelines with equal first stages share their results.

In reading order: `StageSpec`, lessons, pipelines, and the stage names of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from r1kit.settings import Profile, nearest_name, settings_hash
from r1kit.settings.data import DataSettings
from r1kit.settings.errors import UserError
from r1kit.settings.lessons import MODEL_STAGES, STAGES, Lesson
from r1kit.settings.pipelines import GIVEN, KINDS, AnyStage
from r1kit.settings.profile import base_of, pipeline_of, pipeline_profile, profiles_under

LESSON, DATA_STAGE = "lesson", "01_data"

FORMAT_REWARDS = ("format", "think_format", "tag_count")
"""Rewards for an answer's format. Those in grpo.yaml also filter the traces of rejection sampling."""

UNHASHED_KEYS = ("collapse", "programs", "model_name_or_path", "expect")
"""Keys of a trainer's file that do not change a pipeline stage's result: lessons use them, or inputs replace
them."""


class Input(NamedTuple):
    """An input of a stage: `artifact` of the stage `source`, passed to the program as `role`."""

    role: str
    source: str
    artifact: str


@dataclass(frozen=True)
class StageSpec:
    """A stage and the settings under which it runs.

    Attributes:
        name: its name in its pipeline, and its folder's name.
        kind: `lesson`, or one of `settings.pipelines.KINDS`.
        program: the notebook of a lesson, else a module.
        profile: the settings under which it runs.
        inputs: what it takes from other stages; in a pipeline, `source` may be `base`, `traces` or `prompts`
            of the data stage.
        inputs_hash: 16 hex digits, equal for stages that would make the same result.
        parameters: values for its program beside the profile.
        settings: its entry in pipeline.yaml; None for a lesson.
    """

    name: str
    kind: str
    program: str
    profile: Profile
    inputs: tuple[Input, ...] = ()
    inputs_hash: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    settings: AnyStage | None = None

    @property
    def trains(self) -> bool:
        """True if its program is a training: `accelerate launch` starts it and it saves a model."""
        return self.kind in KINDS and KINDS[self.kind].makes == "model"


# Lessons


def lesson_stage(name: str, settings: Profile) -> StageSpec:
    """Return the lesson `name` under these settings.

    06_pipeline has the hash of its pipeline instead: see `open_run.lesson_in_run`.
    """
    inputs = [
        Input(artifact, source, artifact)
        for source, artifacts in STAGES[name].needs.items()
        for artifact in artifacts
    ]
    return StageSpec(name, LESSON, f"{name}.ipynb", settings, tuple(inputs), lesson_hash(name, settings))


def lesson_hash(name: str, settings: Profile) -> str:
    """Hash the settings that decide a lesson's result: those it reads, and those of the lessons it needs."""
    values = settings.dump()
    sections = {section: values[section] for section in STAGES[name].sections if section in values}
    if "data" in sections and not isinstance(settings.data, DataSettings):
        sections["model"] = base_model(settings)  # its tokenizer decides which prompts are too long
    upstream = {need: lesson_hash(need, settings) for need in STAGES[name].needs}
    return settings_hash({"stage": name, "settings": sections, "upstream": upstream})


def base_model(settings: Profile) -> str:
    """Return the model for which real data is prepared: the one sft.yaml starts from, else grpo.yaml's."""
    for section in ("sft", "grpo"):
        name = getattr(settings, section).model.get("model_name_or_path")
        if name and name not in MODEL_STAGES:
            return name
    return ""


def model_folder(name: str) -> Path:
    """Return the folder of a model: `name` itself, or its snapshot from the hub, downloaded if necessary.

    Raises:
        OSError: `name` is neither a folder nor a model on the hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name))


def second_trainings(name: str, settings: Profile) -> dict[str, dict[str, Any]]:
    """Return, by name, the changed settings of each training of a lesson after its first.

    They are known before the lesson starts, so that invalid ones are rejected before anything runs.
    """
    grpo = settings.grpo
    if name == "04_grpo" and grpo.collapse:
        return {"collapse": grpo.failure()}
    if name != "04b_rewards" or not grpo.programs:
        return {}
    code = grpo.programs
    return {
        "student": {"sft.max_steps": code.sft_steps, "sft.save_steps": code.sft_steps},
        "programs": {
            "grpo.max_steps": code.max_steps,
            "grpo.save_steps": code.max_steps,
            "grpo.num_generations": code.num_generations,
            "grpo.per_device_train_batch_size": code.per_device_train_batch_size,
            "grpo.max_completion_length": code.max_completion_length,
            "grpo.collapse": None,
            "grpo.rewards": [{"name": "binary_code", "weight": 1.0}],
        },
    }


# Pipelines of pipeline.yaml


def pipeline_stages(source: str | Path, overrides: Mapping[str, Any], name: str) -> dict[str, StageSpec]:
    """Return the stages of a pipeline of pipeline.yaml by name, in order.

    Args:
        source: the profile, by name or path.
        overrides: the user's changes; they take precedence over the pipeline's own (`pipeline_profile`).

    Raises:
        SettingsError: the pipeline, or the settings of one of its stages, are wrong.
    """
    whole = pipeline_profile(source, overrides, name)
    profiles = profiles_under(whole, source, name)
    hashes = _data_stage_hashes(whole)
    artifacts = {given: "model" if given == "base" else given for given in GIVEN}
    stages = {}
    for entry in pipeline_of(whole, name).stages:
        spec = _pipeline_stage(entry, profiles[entry.name], artifacts, hashes)
        stages[entry.name] = spec
        hashes[entry.name] = spec.inputs_hash
        artifacts[entry.name] = KINDS[entry.kind].artifact
    return stages


def pipeline_hash(name: str, stages: Mapping[str, StageSpec]) -> str:
    """Hash what decides a pipeline's results; the lesson that runs the pipeline has this hash."""
    hashes = {stage.name: stage.inputs_hash for stage in stages.values()}
    return settings_hash({"pipeline": name, "stages": hashes})


def _data_stage_hashes(whole: Profile) -> dict[str, str]:
    """Hash the data stage's results; a base model that the profile names is hashed by its name."""
    data = lesson_hash(DATA_STAGE, whole)
    base = data if whole.base is not None else settings_hash({"model": base_of(whole)})
    return dict.fromkeys(GIVEN, data) | {"base": base}


def _pipeline_stage(
    entry: AnyStage, profile: Profile, artifacts: Mapping[str, str], hashes: Mapping[str, str]
) -> StageSpec:
    kind, sources = KINDS[entry.kind], {}
    for role, source in entry.sources().items():
        if isinstance(source, list):
            sources |= {name: name for name in source}
        else:
            sources[kind.data if role == "data" else role] = source
    parameters = entry.parameters()
    if entry.kind == "rejection_sampling":
        parameters["forms"] = [r.name for r in profile.grpo.rewards if r.name in FORMAT_REWARDS]
    if entry.kind in ("merge_data", "evaluate"):
        parameters["names"] = list(sources)
    section = profile.dump()[kind.reads] if kind.reads else {}
    hashed = {
        "kind": entry.kind,
        "parameters": parameters,
        "settings": {key: value for key, value in section.items() if key not in UNHASHED_KEYS},
        "inputs": {role: hashes[source] for role, source in sources.items()},
    }
    return StageSpec(
        name=entry.name,
        kind=entry.kind,
        program=kind.program,
        profile=profile,
        inputs=tuple(Input(role, source, artifacts[source]) for role, source in sources.items()),
        inputs_hash=settings_hash(hashed),
        parameters=parameters,
        settings=entry,
    )


# Stage names of the command line


class UnknownStage(UserError):
    """Raised for a stage name that does not exist."""


def find_lesson(name: str) -> Lesson:
    """Return the lesson called `name`, or with that number ("04", "4", "04b").

    Raises:
        UnknownStage: with the allowed names and the nearest one.
    """
    if name in STAGES:
        return STAGES[name]
    for lesson in STAGES.values():
        if name and name.lstrip("0") == lesson.name.partition("_")[0].lstrip("0"):
            return lesson
    nearest = nearest_name(name, STAGES, 0.3)
    hint = f" Did you mean {nearest}?" if nearest else ""
    raise UnknownStage(f"no stage is called {name!r}; there are {', '.join(STAGES)}.{hint}")


def is_runnable(name: str, settings: Profile) -> bool:
    """Return whether the profile has the settings that the lesson requires."""
    section, _, key = STAGES[name].requires.partition(".")
    return not key or getattr(getattr(settings, section), key) is not None


def runnable_stages(settings: Profile) -> list[str]:
    """List the lessons that the profile has the settings for: the default of `r1kit run`."""
    return [name for name, lesson in STAGES.items() if not lesson.pipelines and is_runnable(name, settings)]


def requested_stages(text: str, settings: Profile, pipeline: str | None = None) -> list[str]:
    """List the stages of a new run with `--stages text`; "" and "all" mean those the profile can run.

    Args:
        pipeline: the run's pipeline; by default such a run has the data stage and the pipeline stage.

    Raises:
        UnknownStage: see `select_stages`.
    """
    if text not in ("", "all"):
        return select_stages(text, settings)
    return select_stages("01,06") if pipeline else runnable_stages(settings)


def select_stages(text: str, settings: Profile | None = None) -> list[str]:
    """List stage names from "01-04", "02_sft", "00,02-03" or "all" (without pipelines), in the run's order.

    Args:
        settings: inside a range, stages that this profile has no settings for are left out.

    Raises:
        UnknownStage: for a name or number that no stage has, or a range that runs backwards.
    """
    if text == "all":
        return [name for name, lesson in STAGES.items() if not lesson.pipelines]
    order, selected = list(STAGES), set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, dash, last = part.partition("-")
        low = order.index(find_lesson(first).name)
        high = order.index(find_lesson(last).name) if dash else low
        if high < low:
            raise UnknownStage(f"the range {part!r} runs backwards")
        selected.update({order[low], order[high]})
        selected.update(name for name in order[low:high] if not settings or is_runnable(name, settings))
    if not selected:
        raise UnknownStage(f"{text!r} names no stage; write for example 01-04, 02_sft or all")
    return [name for name in order if name in selected]
