"""What a stage is before it runs: the settings and inputs that it takes, and the hash of all that decides it.

The lessons are one pipeline, named `lessons`: a stage is a notebook, and its order and needs are in
`r1kit.settings.lessons`. The others are in pipeline.yaml: a stage is a program. A hash holds the hashes
of the stages before it, down to the data stage's. The hash of a pipeline's stage leaves names out, so two
pipelines that begin alike share the stages they begin with.
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

FORMS = ("format", "think_format", "tag_count")
"""Rewards that judge an answer's form; those that grpo.yaml names judge sampled traces too."""

NO_PART = ("collapse", "programs", "model_name_or_path", "expect")
"""Keys of a trainer's file that decide nothing in a pipeline: the lessons' own, and what its inputs say."""


class Input(NamedTuple):
    """What a stage takes: `artifact` of the stage `source`, under the name by which its program reads it."""

    role: str
    source: str
    artifact: str


@dataclass(frozen=True)
class StageSpec:
    """A stage and the settings under which it runs.

    Attributes:
        name: its name in its pipeline, and its folder's.
        kind: `lesson`, or one of `settings.pipelines.KINDS`.
        program: the notebook of a lesson, else a module.
        profile: the settings under which it runs.
        inputs: what it takes from other stages; of a pipeline's stage, `source` may be `base`, `traces` or
            `prompts` of the data stage.
        inputs_hash: 16 hex digits, equal for stages that would make the same.
        parameters: what its program is told beside the profile.
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
        """Whether its program is a training, which `accelerate launch` starts and which leaves a model."""
        return self.kind in KINDS and KINDS[self.kind].makes == "model"


def lesson_stage(name: str, settings: Profile) -> StageSpec:
    """Return the lesson `name` under these settings. The lesson that runs pipelines has the hash
    of a pipeline instead: `opening.stage_in`."""
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


def pipeline_stages(source: str | Path, overrides: Mapping[str, Any], name: str) -> dict[str, StageSpec]:
    """Return the stages of a pipeline of pipeline.yaml by name, in order.

    Args:
        source: the profile, by name or path.
        overrides: what the user changed; the pipeline's own changes lie below it (`settings.composed`).

    Raises:
        SettingsError: the pipeline, or the settings of one of its stages, are wrong.
    """
    whole = pipeline_profile(source, overrides, name)
    profiles = profiles_under(whole, source, name)
    hashes = _given_hashes(whole)
    artifacts = {given_name: "model" if given_name == "base" else given_name for given_name in GIVEN}
    stages = {}
    for entry in pipeline_of(whole, name).stages:
        spec = _pipeline_stage(entry, profiles[entry.name], artifacts, hashes)
        stages[entry.name] = spec
        hashes[entry.name] = spec.inputs_hash
        artifacts[entry.name] = KINDS[entry.kind].artifact
    return stages


def pipeline_hash(name: str, stages: Mapping[str, StageSpec]) -> str:
    """Hash what decides a whole pipeline's results, which are those of the lesson that runs it."""
    hashes = {stage.name: stage.inputs_hash for stage in stages.values()}
    return settings_hash({"pipeline": name, "stages": hashes})


def base_model(settings: Profile) -> str:
    """Return the model that real data is made for: what sft.yaml starts from, else what grpo.yaml does."""
    for section in ("sft", "grpo"):
        name = getattr(settings, section).model.get("model_name_or_path")
        if name and name not in MODEL_STAGES:
            return name
    return ""


def second_trainings(name: str, settings: Profile) -> dict[str, dict[str, Any]]:
    """Return what changes in the settings for each training of a lesson but its first, by name.

    They are known before the lesson starts, so that what cannot run is refused then.
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


def model_folder(name: str) -> Path:
    """Return the folder of a model: `name` itself, or the hub's copy of it, downloaded if need be.

    Raises:
        OSError: neither a folder nor a model that the hub gives us.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name))


def _given_hashes(whole: Profile) -> dict[str, str]:
    """The hash of the data stage's results; that of a given model is its name's."""
    data = lesson_hash(DATA_STAGE, whole)
    base = data if whole.base is not None else settings_hash({"model": base_of(whole)})
    return dict.fromkeys(GIVEN, data) | {"base": base}


def _pipeline_stage(
    entry: AnyStage, profile: Profile, artifacts: Mapping[str, str], hashes: Mapping[str, str]
) -> StageSpec:
    """The stage of an entry; `artifacts` and `hashes` are those of what it may take."""
    kind, sources = KINDS[entry.kind], {}
    for role, source in entry.sources().items():
        if isinstance(source, list):
            sources |= {name: name for name in source}
        else:
            sources[kind.data if role == "data" else role] = source
    parameters = entry.parameters()
    if entry.kind == "rejection_sampling":
        parameters["forms"] = [r.name for r in profile.grpo.rewards if r.name in FORMS]
    if entry.kind in ("merge_data", "evaluate"):
        parameters["names"] = list(sources)
    read = profile.dump()[kind.reads] if kind.reads else {}
    decides = {
        "kind": entry.kind,
        "parameters": parameters,
        "settings": {key: value for key, value in read.items() if key not in NO_PART},
        "inputs": {role: hashes[source] for role, source in sources.items()},
    }
    return StageSpec(
        name=entry.name,
        kind=entry.kind,
        program=kind.program,
        profile=profile,
        inputs=tuple(Input(role, source, artifacts[source]) for role, source in sources.items()),
        inputs_hash=settings_hash(decides),
        parameters=parameters,
        settings=entry,
    )


class UnknownStage(UserError):
    """Raised for a stage name that does not exist."""


def lacks(lesson: Lesson, settings: Profile) -> bool:
    """Return whether the profile leaves out what the lesson requires."""
    section, _, key = lesson.requires.partition(".")
    return bool(key) and getattr(getattr(settings, section), key) is None


def possible(settings: Profile) -> list[str]:
    """List the lessons that a profile has the settings for: what `r1kit run` runs unless told otherwise."""
    return [name for name, lesson in STAGES.items() if not (lesson.pipelines or lacks(lesson, settings))]


def asked_for(text: str, settings: Profile, pipeline: str | None = None) -> list[str]:
    """List the stages that `--stages` asks of a new run; "" and "all" mean what the profile can run.

    Args:
        pipeline: the run's pipeline, whose run is the data stage and the pipeline stage.

    Raises:
        UnknownStage: see `select`.
    """
    if text not in ("", "all"):
        return select(text, settings)
    return select("01,06") if pipeline else possible(settings)


def stage(name: str) -> Lesson:
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


def select(text: str, settings: Profile | None = None) -> list[str]:
    """List stage names from "01-04", "02_sft", "00,02-03" or "all" (without pipelines), in the run's order.

    Args:
        settings: between the ends of a range, stages that this profile has no settings for are left out.

    Raises:
        UnknownStage: for a name or number that no stage has, or a range that runs backwards.
    """
    if text == "all":
        return [name for name, lesson in STAGES.items() if not lesson.pipelines]
    order, chosen = list(STAGES), set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, dash, last = part.partition("-")
        low = order.index(stage(first).name)
        high = order.index(stage(last).name) if dash else low
        if high < low:
            raise UnknownStage(f"the range {part!r} runs backwards")
        chosen.update({order[low], order[high]})
        chosen.update(name for name in order[low:high] if not (settings and lacks(STAGES[name], settings)))
    if not chosen:
        raise UnknownStage(f"{text!r} names no stage; write for example 01-04, 02_sft or all")
    return [name for name in order if name in chosen]
