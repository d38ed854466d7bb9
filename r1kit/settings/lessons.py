"""The lessons: their order, what each needs from earlier ones, and which settings its parameters change.

A lesson is a stage of a run and a notebook of the same name; the rest of it is in the notebook. Settings
files name lessons too (`model_name_or_path: 02_sft`), so the list is here. `check_parameters` checks the
values of a notebook's parameters cell before its stage opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from r1kit.settings.errors import Problem, SettingsError, describe, nearest_name
from r1kit.settings.validation import WORDS


@dataclass(frozen=True)
class Knob:
    """A notebook parameter; unless it is None, its value overrides the profile's key `setting`."""

    kind: type
    setting: str | None = None


@dataclass(frozen=True)
class Lesson:
    """One lesson.

    Attributes:
        sections: settings files that it reads, its training's own first.
        needs: earlier lessons with the artifacts of theirs that it reads or passes on.
        requires: a part of the settings that a profile may leave out but this lesson needs.
        knobs: its parameters besides PROFILE and RUN_ID.
        pipelines: it runs the pipelines of pipeline.yaml; `--stages all` leaves it out, since each pipeline
            is a training of its own.
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
"""Lessons whose result is a model, so that `model_name_or_path` may name them."""

PIPELINE_STAGE = "06_pipeline"
"""The lesson that runs the pipelines of pipeline.yaml."""

DEFAULT_PIPELINE = "r1"
"""The pipeline of a run that names none, and of the notebook's parameters cell."""

REQUIRED = ("PROFILE", "RUN_ID")


def check_parameters(stage: str, given: Mapping[str, Any], declared: Mapping[str, type]) -> dict[str, Any]:
    """Check the parameters of a notebook.

    Args:
        stage: the notebook's name, for messages.
        given: name -> value, as the parameters cell (or papermill) set them.
        declared: name -> type.

    Returns:
        a value of the declared type for each declared name (a whole number becomes a float where a float is
        declared), or None for a parameter that is missing or None, which keeps the profile's value.

    Raises:
        SettingsError: with every unknown name, wrong type, and missing PROFILE or RUN_ID.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = dict.fromkeys(declared)
    words = WORDS | {bool: "True or False", list: "a list"}

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
                refuse(name, None, allowed=words[kind], message="The parameters cell must set it.")
        elif type(value) is kind:
            values[name] = value
        elif type(value) is int and kind is float:
            values[name] = float(value)
        else:
            refuse(name, value, allowed=words[kind], message=_how_to_write(name, value, kind))
    if problems:
        plural = "s" if len(problems) > 1 else ""
        raise SettingsError(problems, f"{len(problems)} wrong parameter{plural} of {stage}")
    return values


def _how_to_write(name: str, value: Any, kind: type) -> str:
    """Return the correct line for the mistakes that papermill's options invite."""
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
    if isinstance(value, bool):
        return "True and False are not numbers." if kind in (int, float) else ""
    if isinstance(value, float) and value.is_integer() and kind is int:
        return f"Write it without a point or exponent: {name} = {int(value)}"
    if isinstance(value, (int, float)) and kind is str:
        return f'It is a number; write it in quotes: {name} = "{value}" (papermill: -r {name} {value}).'
    return ""
