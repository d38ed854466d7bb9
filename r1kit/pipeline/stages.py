"""The stages of a run: their order, what each needs of those before it, which settings its parameters turn.

A stage is one notebook of the same name. Everything else about it lies in the notebook.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1kit.settings import Profile


@dataclass(frozen=True)
class Knob:
    """A notebook parameter. With `setting` it overrides that key of the profile, unless it is None."""

    kind: type
    setting: str | None = None


@dataclass(frozen=True)
class StageSpec:
    """One stage: settings files it reads, stages whose results it reads, knobs beyond PROFILE and RUN_ID.

    `requires` is a part of the settings that a profile may leave out and this stage cannot do without.
    `composed`: it runs the stages of pipeline.yaml; `all` leaves it out, since it is a training of its own.
    """

    name: str
    question: str
    sections: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    requires: str = ""
    knobs: dict[str, Knob] = field(default_factory=dict)
    composed: bool = False


STAGES: dict[str, StageSpec] = {
    spec.name: spec
    for spec in (
        StageSpec(
            "00_environment", "Can this machine do the lesson, and how long will it take?", ("machine",)
        ),
        StageSpec(
            "01_data",
            "Where do reasoning traces come from, and which of them may we trust?",
            ("data", "base"),
            knobs={
                "SLIP_RATE": Knob(float, "data.slip_rate"),
                "HURRY_RATE": Knob(float, "data.hurry_rate"),
                "TRACES": Knob(int, "data.traces"),
            },
        ),
        StageSpec(
            "02_sft",
            "What does a model learn from imitating traces?",
            ("sft",),
            needs=("01_data",),
            knobs={
                "LEARNING_RATE": Knob(float, "sft.learning_rate"),
                "MAX_STEPS": Knob(int, "sft.max_steps"),
            },
        ),
        StageSpec(
            "03_vllm",
            "What is a rollout, and what does it cost?",
            ("evaluation",),
            needs=("01_data", "02_sft"),
            knobs={"PROMPTS": Knob(int), "GROUP_SIZE": Knob(int)},
        ),
        StageSpec(
            "04_grpo",
            "How does a reward make a model reason better than its teacher?",
            ("grpo",),
            needs=("01_data", "02_sft"),
            requires="grpo.collapse",
            knobs={
                "LEARNING_RATE": Knob(float, "grpo.learning_rate"),
                "MAX_STEPS": Knob(int, "grpo.max_steps"),
                "GROUP_SIZE": Knob(int, "grpo.num_generations"),
            },
        ),
        StageSpec(
            "04b_rewards",
            "What does a reward really teach?",
            ("grpo", "sft", "data"),
            needs=("01_data", "02_sft"),
            requires="grpo.programs",
            knobs={
                "MAX_STEPS": Knob(int, "grpo.programs.max_steps"),
                "CASES": Knob(int, "grpo.programs.cases"),
            },
        ),
        StageSpec(
            "05_evaluation",
            "Did it really get better, and how sure are we?",
            ("evaluation",),
            needs=("01_data", "02_sft", "04_grpo"),
            knobs={
                "PROBLEMS_PER_LEVEL": Knob(int, "evaluation.problems_per_level"),
                "SAMPLES": Knob(int, "evaluation.samples"),
            },
        ),
        StageSpec(
            "06_pipeline",
            "How do imitation and reinforcement become one training?",
            knobs={"PIPELINE": Knob(str), "ALSO": Knob(list)},
            composed=True,
        ),
    )
}

COMPOSED = "06_pipeline"
"""The stage that runs pipelines."""

DEFAULT_PIPELINE = "r1"
"""The pipeline of a run that names none, and of the notebook's parameters cell."""

# The name under which the checkpoint of a stage appears in pass@1 tables.
CHECKPOINTS = {"01_data": "base", "02_sft": "sft", "04_grpo": "grpo"}


class UnknownStage(ValueError):
    """A stage that does not exist was asked for."""

    exit_code = 2


def lacks(spec: StageSpec, settings: Profile) -> bool:
    """Whether the profile leaves out what the stage requires."""
    section, _, key = spec.requires.partition(".")
    return bool(key) and getattr(getattr(settings, section), key) is None


def possible(settings: Profile) -> list[str]:
    """The stages that a profile has the settings for: what `r1kit run` runs unless told otherwise."""
    return [name for name, spec in STAGES.items() if not (spec.composed or lacks(spec, settings))]


def asked_for(text: str, settings: Profile, pipeline: str | None = None) -> list[str]:
    """The stages that `--stages` asks of a new run; "" and "all" mean what the profile, or its pipeline, has.

    Raises:
        UnknownStage: see `select`.
    """
    if text not in ("", "all"):
        return select(text, settings)
    return select("01,06") if pipeline else possible(settings)


def stage(name: str) -> StageSpec:
    """The stage called `name`, or by its number ("04", "4", "04b").

    Raises:
        UnknownStage: with the allowed names and the nearest one.
    """
    if name in STAGES:
        return STAGES[name]
    for spec in STAGES.values():
        if name and name.lstrip("0") == spec.name.partition("_")[0].lstrip("0"):
            return spec
    nearest = difflib.get_close_matches(name, STAGES, n=1, cutoff=0.3)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise UnknownStage(f"no stage is called {name!r}; there are {', '.join(STAGES)}.{hint}")


def select(text: str, settings: Profile | None = None) -> list[str]:
    """Stage names from "01-04", "02_sft", "00,02-03" or "all" (all but composed ones), in the run's order.

    Args:
        settings: between the ends of a range, stages that this profile has no settings for are left out.

    Raises:
        UnknownStage: for a name or number that no stage has, or a range that runs backwards.
    """
    if text == "all":
        return [name for name, spec in STAGES.items() if not spec.composed]
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
