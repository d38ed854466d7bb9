"""pipeline.yaml: trainings composed of named stages, as R1's was (arXiv 2501.12948, section 3).

A stage takes its model and its data from the run's data stage (`base`, `traces`, `prompts`) or from an
earlier stage, so a pipeline has no cycles. What a stage does is set in sft.yaml, grpo.yaml and
evaluation.yaml; the stage's `set` replaces single values of those files, the pipeline's `set` values of any
file.
`--set pipeline.r1.cold_start.sft.max_steps=40` changes one stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from r1kit.settings.errors import Problem, describe, nearest_name
from r1kit.settings.validation import Positive, Settings
from r1kit.settings.yaml import KeyPath

GIVEN = {"base": "model", "traces": "data", "prompts": "prompts"}
"""The outputs of the data stage, with the input that each can be."""

RESERVED = (*GIVEN, "heldout", "corpus", "tokenizer", "model", "data", "server", "set")
"""Names that a stage must not have, because they mean something else among its inputs."""


@dataclass(frozen=True)
class Kind:
    """Properties of all stages of one kind.

    Attributes:
        program: the module that does the work.
        makes: `model`, `data` (traces), `prompts` or `answers`.
        reads: the profile's file that decides the result; "": only the stage's own keys do.
        may_set: files that a stage's `set` may change.
        data: the program's name for the input that pipeline.yaml calls `data`.
    """

    program: str
    makes: str
    reads: str = ""
    may_set: tuple[str, ...] = ()
    data: str = "data"

    @property
    def artifact(self) -> str:
        """The name of the stage's output."""
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
    """Keys of every stage."""

    name: Name = Field(description="Name of its folder, and of its checkpoint in tables.")
    set: Overrides

    def sources(self) -> dict[str, str | list[str]]:
        """Return its inputs by role: model, models, data."""
        return {role: getattr(self, role) for role in ("model", "models", "data") if hasattr(self, role)}

    def parameters(self) -> dict[str, Any]:
        """Return its own parameters, without name, kind, inputs and overrides."""
        return self.model_dump(mode="json", exclude={"name", "kind", "set", "model", "models", "data"})


class SftStage(StageSettings):
    """Fine-tuning on traces, with sft.yaml."""

    kind: Literal["sft"]
    model: str = Field(default="base", description="`base`, or an earlier stage that trains a model.")
    data: str = Field(default="traces", description="`traces`, or an earlier stage that makes a dataset.")


class GrpoStage(StageSettings):
    """Reinforcement learning on prompts, with grpo.yaml."""

    kind: Literal["grpo"]
    model: str = Field(description="`base` (R1-Zero), or an earlier stage that trains a model.")
    data: str = Field(default="prompts", description="`prompts`, or an earlier stage that selects some.")


class SamplingStage(StageSettings):
    """Keys of the stages that sample answers to the prompts."""

    model: str = Field(description="`base`, or an earlier stage that trains a model.")
    data: Literal["prompts"] = "prompts"
    prompts: Positive | None = Field(
        default=None, description="Number of prompts, from the first; null: all."
    )
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: Positive = Field(description="Longest answer in tokens.")
    batch_size: Positive = Field(default=128, description="Answers generated at once.")
    seed: int = Field(default=0, ge=0, description="Seed of the sampling.")


class RejectionSamplingStage(SamplingStage):
    """Sample several answers per prompt; those that the rewards accept become a dataset of traces."""

    kind: Literal["rejection_sampling"]
    samples: Positive = Field(default=4, description="Answers per prompt.")
    keep: Positive = Field(default=1, description="Most answers kept per prompt.")
    deduplicate: bool = Field(default=True, description="Keep one of several equal answers.")
    longest: Positive | None = Field(
        default=None, description="Longest answer that is kept, in tokens; null: any finished one."
    )
    repetition: float | None = Field(
        default=None, gt=0, le=1, description="Largest share of repeated 4-grams in a kept answer; null: any."
    )


class PassRateStage(SamplingStage):
    """Keep the prompts on which a checkpoint's pass rate lies within a band."""

    kind: Literal["pass_rate"]
    samples: int = Field(default=8, ge=2, description="Answers per prompt.")
    lowest: float = Field(default=0.1, ge=0, le=1, description="Lowest pass rate of a kept prompt.")
    highest: float = Field(default=0.6, ge=0, le=1, description="Highest pass rate of a kept prompt.")


class MergeDataStage(StageSettings):
    """Join several datasets into one."""

    kind: Literal["merge_data"]
    data: Annotated[list[str], Field(min_length=1)] = Field(
        description="`traces` and earlier stages that make datasets."
    )


class EvaluateStage(StageSettings):
    """Answer held-out problems with each checkpoint, as evaluation.yaml says."""

    kind: Literal["evaluate"]
    models: Annotated[list[str], Field(min_length=1)] = Field(
        description="`base` and earlier stages that train models, in the order of the table."
    )


AnyStage = Annotated[
    SftStage | GrpoStage | RejectionSamplingStage | PassRateStage | MergeDataStage | EvaluateStage,
    Field(discriminator="kind"),
]


class Pipeline(Settings):
    """One composed training."""

    about: str = Field(default="", description="What it shows, in one sentence.")
    set: Overrides
    stages: Annotated[list[AnyStage], Field(min_length=1)] = Field(description="In the order of the run.")


class PipelineSettings(Settings):
    """pipeline.yaml."""

    pipelines: Annotated[dict[Name, Pipeline], Field(min_length=1)] = Field(description="By name.")


def place_of(content: Any, keys: list[str]) -> KeyPath | Problem:
    """Find the path of the override `pipeline.<pipeline>.<stage>.<key>` in the file's content.

    `<key>` is a key of the stage (`samples`) or of a file (`sft.max_steps`), which goes into the stage's
    `set`; `pipeline.<pipeline>.set.<file.key>` changes the whole pipeline.
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
