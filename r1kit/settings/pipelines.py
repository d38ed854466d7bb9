"""pipeline.yaml: trainings composed of named stages, as R1's was (arXiv 2501.12948, section 3).

A stage takes its model and its data from the run's data stage (`base`, `traces`, `prompts`) or from a stage
before it, so a pipeline can hold no cycle. What a stage does is said by sft.yaml, grpo.yaml and
evaluation.yaml; its `set` replaces single values of those, and that of the pipeline those of every file.
`--set pipeline.r1.cold_start.sft.max_steps=40` reaches into a stage.

The lessons: their order, what each needs of those before it, and which settings its parameters change.

A lesson is a stage of a run and a notebook of the same name; everything else about it is in the notebook.
Settings files name lessons too (`model_name_or_path: 02_sft`), so the one list of them is here.

Notebook parameters: names and types of the parameters cell, checked before a stage opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from r1kit.settings.errors import Problem, SettingsError, describe, nearest_name
from r1kit.settings.validation import Positive, Settings
from r1kit.settings.yaml import KeyPath


@dataclass(frozen=True)
class Knob:
    """A notebook parameter. With `setting` it overrides that key of the profile, unless it is None."""

    kind: type
    setting: str | None = None


@dataclass(frozen=True)
class Lesson:
    """One lesson.

    Attributes:
        sections: settings files that it reads, its training's own first.
        needs: earlier lessons whose results it reads, and the artifacts that its own are made from.
        requires: a part of the settings that a profile may leave out and this lesson cannot do without.
        knobs: its parameters beyond PROFILE and RUN_ID.
        pipelines: it runs the pipelines of pipeline.yaml; "all" leaves it out, since each is a training of
            its own.
        programs: its kernel may run model-written programs, or judge answers that are programs.
    """

    name: str
    question: str
    sections: tuple[str, ...] = ()
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    requires: str = ""
    knobs: dict[str, Knob] = field(default_factory=dict)
    pipelines: bool = False
    programs: bool = False


STAGES: dict[str, Lesson] = {
    lesson.name: lesson
    for lesson in (
        Lesson("00_environment", "Can this machine do the lesson, and how long will it take?", ("machine",)),
        Lesson(
            "01_data",
            "Where do reasoning traces come from, and which of them may we trust?",
            ("data", "base"),
            knobs={
                "SLIP_RATE": Knob(float, "data.slip_rate"),
                "HURRY_RATE": Knob(float, "data.hurry_rate"),
                "TRACES": Knob(int, "data.traces"),
            },
        ),
        Lesson(
            "02_sft",
            "What does a model learn from imitating traces?",
            ("sft",),
            needs={"01_data": ("model", "traces")},
            knobs={
                "LEARNING_RATE": Knob(float, "sft.learning_rate"),
                "MAX_STEPS": Knob(int, "sft.max_steps"),
            },
        ),
        Lesson(
            "03_vllm",
            "What is a rollout, and what does it cost?",
            ("evaluation",),
            needs={"01_data": ("model",), "02_sft": ("model",)},
            knobs={"PROMPTS": Knob(int), "GROUP_SIZE": Knob(int)},
        ),
        Lesson(
            "04_grpo",
            "How does a reward make a model reason better than its teacher?",
            ("grpo",),
            needs={"01_data": ("prompts",), "02_sft": ("model",)},
            requires="grpo.collapse",
            knobs={
                "LEARNING_RATE": Knob(float, "grpo.learning_rate"),
                "MAX_STEPS": Knob(int, "grpo.max_steps"),
                "GROUP_SIZE": Knob(int, "grpo.num_generations"),
            },
            programs=True,
        ),
        Lesson(
            "04b_rewards",
            "What does a reward really teach?",
            ("grpo", "sft", "data"),
            needs={"01_data": ("model",), "02_sft": ("model",)},
            requires="grpo.programs",
            knobs={
                "MAX_STEPS": Knob(int, "grpo.programs.max_steps"),
                "CASES": Knob(int, "grpo.programs.cases"),
            },
            programs=True,
        ),
        Lesson(
            "05_evaluation",
            "Did it really get better, and how sure are we?",
            ("evaluation",),
            needs={"01_data": ("model",), "02_sft": ("model",), "04_grpo": ("model",)},
            knobs={
                "PROBLEMS_PER_LEVEL": Knob(int, "evaluation.problems_per_level"),
                "SAMPLES": Knob(int, "evaluation.samples"),
            },
            programs=True,
        ),
        Lesson(
            "06_pipeline",
            "How do imitation and reinforcement become one training?",
            knobs={"PIPELINE": Knob(str), "ALSO": Knob(list)},
            pipelines=True,
        ),
    )
}
"""The lessons by name, in order."""

STAGE_OF_SECTION = {"base": "01_data", "sft": "02_sft", "grpo": "04_grpo"}
"""The lesson that trains with each trainer's file; the file's name is also its checkpoint's in tables."""

MODEL_STAGES = tuple(STAGE_OF_SECTION.values())
"""Lessons that leave a model behind, so that `model_name_or_path` may name them."""

PIPELINE_STAGE = "06_pipeline"
"""The lesson that runs the pipelines of pipeline.yaml."""

DEFAULT_PIPELINE = "r1"
"""The pipeline of a run that names none, and of the notebook's parameters cell."""


WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    list: "a list",
    dict: "a dictionary",
}
REQUIRED = ("PROFILE", "RUN_ID")


def check_parameters(stage: str, given: Mapping[str, Any], declared: Mapping[str, type]) -> dict[str, Any]:
    """Return the values of all declared parameters, each of its declared type.

    Args:
        stage: the notebook's name, for messages.
        given: name -> value, as the parameters cell (or papermill) set them.
        declared: name -> type.

    Returns:
        a value for every declared name; a whole number becomes a float where a number is declared; None for a
        parameter that is not set or None, which keeps the profile's value.

    Raises:
        SettingsError: with every unknown name, wrong type, and PROFILE or RUN_ID that is not set.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = dict.fromkeys(declared)

    def refuse(name: str, value: Any, **fields: str) -> None:
        found = "nothing" if value is None else describe(value)
        problems.append(Problem(f"notebooks/{stage}.ipynb", name, found=found, **fields))

    for name in [name for name in given if name not in declared]:
        nearest = nearest_name(name, declared)
        message = f"{stage} has no such parameter."
        refuse(name, given[name], allowed=", ".join(declared), nearest=nearest, message=message)
    for name, kind in declared.items():
        value = given.get(name)
        if value is None:
            if name in REQUIRED:
                refuse(name, None, allowed=WORDS[kind], message="The parameters cell must set it.")
        elif type(value) is kind:
            values[name] = value
        elif type(value) is int and kind is float:
            values[name] = float(value)
        else:
            refuse(name, value, allowed=WORDS[kind], message=_how_to_write(name, value, kind))
    if problems:
        plural = "s" if len(problems) > 1 else ""
        raise SettingsError(problems, f"{len(problems)} wrong parameter{plural} of {stage}")
    return values


def _how_to_write(name: str, value: Any, kind: type) -> str:
    """The line that would be right, for the mistakes that papermill's options invite."""
    if isinstance(value, str):
        if kind is bool and value.lower() in ("true", "false"):
            return f"It is text; write {name} = {value.capitalize()} without quotes."
        if kind not in (int, float):
            return ""
        try:
            kind(value)
        except ValueError:
            return "It is text, and no number can be read from it."
        return f"It is text; write {name} = {value} without quotes (papermill: -p {name} {value}, not -r)."
    if isinstance(value, float) and value.is_integer() and kind is int:
        return f"Write it without a point or exponent: {name} = {int(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and kind is str:
        return f'It is a number; write it in quotes: {name} = "{value}" (papermill: -r {name} {value}).'
    if isinstance(value, bool) and kind in (int, float):
        return "True and False are no numbers."
    return ""


GIVEN = {"base": "model", "traces": "data", "prompts": "prompts"}
"""What the data stage provides, and as what it can serve."""

RESERVED = (*GIVEN, "heldout", "corpus", "tokenizer", "model", "data", "server", "set")
"""Names that would be mistaken for something else in a stage's inputs."""


@dataclass(frozen=True)
class Kind:
    """What all stages of a kind share.

    Attributes:
        program: the module that does the work.
        makes: `model`, `data` (traces), `prompts` or `answers`.
        reads: the file of the profile whose values decide the result; "": its own keys alone do.
        may_set: files that a stage's `set` may change.
        data: what the program calls the input that pipeline.yaml calls `data`.
    """

    program: str
    makes: str
    reads: str = ""
    may_set: tuple[str, ...] = ()
    data: str = "data"

    @property
    def artifact(self) -> str:
        """The name of what a stage of this kind hands on."""
        return "model" if self.makes == "model" else "data"


KINDS = {
    "sft": Kind("r1kit.training.sft", "model", "sft", ("sft",), "traces"),
    "grpo": Kind("r1kit.training.grpo", "model", "grpo", ("grpo",), "prompts"),
    # Its answers are judged with the forms that grpo.yaml rewards.
    "rejection_sampling": Kind(
        "r1kit.evaluation.rejection_sampling", "data", may_set=("grpo",), data="prompts"
    ),
    "pass_rate": Kind("r1kit.evaluation.rejection_sampling", "prompts", data="prompts"),
    "merge_data": Kind("r1kit.pipeline.data", "data"),
    "evaluate": Kind("r1kit.evaluation.checkpoints", "answers", "evaluation", ("evaluation",)),
}
"""The kinds of stages that a pipeline may have."""

MODEL_KINDS, DATA_KINDS, PROMPT_KINDS = (
    tuple(name for name, kind in KINDS.items() if kind.makes == made) for made in ("model", "data", "prompts")
)
MAY_SET = {name: kind.may_set for name, kind in KINDS.items()}

Overrides = Annotated[
    dict[str, Any], Field(default_factory=dict, description="Changes, each as `file.key: value`.")
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class StageSettings(Settings):
    """What every stage has."""

    name: Name = Field(description="Its folder's name, and that of its checkpoint in tables.")
    set: Overrides

    def sources(self) -> dict[str, str | list[str]]:
        """Its inputs by their role: which model or models, which data."""
        return {role: getattr(self, role) for role in ("model", "models", "data") if hasattr(self, role)}

    def parameters(self) -> dict[str, Any]:
        """Its own parameters, without name, kind, inputs and overrides."""
        return self.model_dump(mode="json", exclude={"name", "kind", "set", "model", "models", "data"})


class SftStage(StageSettings):
    """Fine-tuning on traces, with sft.yaml."""

    kind: Literal["sft"]
    model: str = Field(default="base", description="`base`, or a stage before that trains a model.")
    data: str = Field(default="traces", description="`traces`, or a stage before that makes a dataset.")


class GrpoStage(StageSettings):
    """Reinforcement learning on prompts, with grpo.yaml."""

    kind: Literal["grpo"]
    model: str = Field(description="`base` (R1-Zero), or a stage before that trains a model.")
    data: str = Field(default="prompts", description="`prompts`, or a stage before that chooses among them.")


class RejectionSamplingStage(StageSettings):
    """Several answers to each prompt; those that the rewards accept become a dataset of traces."""

    kind: Literal["rejection_sampling"]
    model: str = Field(description="`base`, or a stage before that trains a model.")
    data: Literal["prompts"] = "prompts"
    prompts: Positive | None = Field(default=None, description="The first so many prompts; null: all.")
    samples: Positive = Field(default=4, description="Answers to each prompt.")
    keep: Positive = Field(default=1, description="Answers kept of each prompt at most.")
    deduplicate: bool = Field(default=True, description="Keep an answer once, however often it came.")
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: Positive = Field(description="Longest answer in tokens.")
    longest: Positive | None = Field(
        default=None, description="Longest answer that is kept, in tokens; null: any that was finished."
    )
    repetition: float | None = Field(
        default=None, gt=0, le=1, description="Most of an answer's 4-grams that may be repeats; null: all."
    )
    batch_size: Positive = Field(default=128, description="Answers written at once.")
    seed: int = Field(default=0, ge=0, description="Seed of the sampling.")


class PassRateStage(StageSettings):
    """Prompts with the pass rate that a checkpoint has on them, as far as it lies in a band."""

    kind: Literal["pass_rate"]
    model: str = Field(description="`base`, or a stage before that trains a model.")
    data: Literal["prompts"] = "prompts"
    prompts: Positive | None = Field(default=None, description="The first so many prompts; null: all.")
    samples: int = Field(default=8, ge=2, description="Answers to each prompt.")
    lowest: float = Field(default=0.1, ge=0, le=1, description="Least pass rate of a prompt that is kept.")
    highest: float = Field(default=0.6, ge=0, le=1, description="Highest pass rate of one that is kept.")
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: Positive = Field(description="Longest answer in tokens.")
    batch_size: Positive = Field(default=128, description="Answers written at once.")
    seed: int = Field(default=0, ge=0, description="Seed of the sampling.")


class MergeDataStage(StageSettings):
    """One dataset of several."""

    kind: Literal["merge_data"]
    data: Annotated[list[str], Field(min_length=1)] = Field(
        description="`traces` and stages before that make datasets."
    )


class EvaluateStage(StageSettings):
    """Held-out problems for every checkpoint, with evaluation.yaml."""

    kind: Literal["evaluate"]
    models: Annotated[list[str], Field(min_length=1)] = Field(
        description="`base` and stages before that train models, in the order of the table."
    )


AnyStage = Annotated[
    SftStage | GrpoStage | RejectionSamplingStage | PassRateStage | MergeDataStage | EvaluateStage,
    Field(discriminator="kind"),
]


class Pipeline(Settings):
    """One composed training."""

    about: str = Field(default="", description="What it shows, in a sentence.")
    set: Overrides
    stages: Annotated[list[AnyStage], Field(min_length=1)] = Field(description="In the order of the run.")


class PipelineSettings(Settings):
    """pipeline.yaml."""

    pipelines: Annotated[dict[Name, Pipeline], Field(min_length=1)] = Field(description="By name.")


def place_of(content: Any, keys: list[str]) -> KeyPath | Problem:
    """Where `pipeline.<pipeline>.<stage>.<key>` stands in the file's content.

    `<key>` is one of the stage's own (`samples`) or one of a file (`sft.max_steps`), which goes into the
    stage's `set`; `pipeline.<pipeline>.set.<file.key>` changes the whole pipeline.
    """
    name = f"pipeline.{'.'.join(keys)}"
    pipelines = content.get("pipelines") if isinstance(content, dict) else None
    if not isinstance(pipelines, dict):
        return Problem(f"override {name}", name, message="pipeline.yaml holds no pipelines.")
    if keys[0] not in pipelines:
        return _unknown(name, keys[0], list(pipelines), "There is no such pipeline.")
    if len(keys) < 3:
        allowed = f"pipeline.{keys[0]}.<stage>.<key>, for example pipeline.{keys[0]}.final.grpo.max_steps"
        return Problem(f"override {name}", name, found=describe(name), allowed=allowed)
    way: KeyPath = ("pipelines", keys[0])
    if keys[1] == "set":
        return (*way, "set", ".".join(keys[2:]))
    stages = [stage.get("name") for stage in pipelines[keys[0]].get("stages", []) if isinstance(stage, dict)]
    if keys[1] not in stages:
        return _unknown(name, keys[1], stages, f"{keys[0]} has no such stage.")
    way = (*way, "stages", stages.index(keys[1]))
    return (*way, keys[2]) if len(keys) == 3 else (*way, "set", ".".join(keys[2:]))


def _unknown(name: str, found: str, known: list[str], message: str) -> Problem:
    nearest = nearest_name(found, known)
    return Problem(f"override {name}", name, describe(found), ", ".join(known), nearest, message)
