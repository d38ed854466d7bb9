"""The lessons: their order, what each needs of those before it, and which settings its parameters change.

A lesson is a stage of a run and a notebook of the same name; everything else about it is in the notebook.
Settings files name lessons too (`model_name_or_path: 02_sft`), so the one list of them is here.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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
