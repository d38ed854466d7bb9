"""grpo.yaml's `curriculum` and `dynamic_sampling`: which prompts are asked, which groups are trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from r1kit.settings.strict import Positive, Settings, Share


class LengthStage(Settings):
    """From which step on completions may be how long."""

    step: int = Field(ge=0, description="First optimizer step of the stage.")
    max_completion_length: Positive = Field(description="Longest completion in tokens.")


class CurriculumSettings(Settings):
    """Which prompts GRPO asks.

    `levels` goes from one level of the dataset to the next; `pass_rate` asks what is sometimes right;
    `length` leaves the prompts alone and lets completions grow longer in stages.
    """

    strategy: Literal["none", "levels", "pass_rate", "length"] = Field(description="How prompts are chosen.")
    reward: str = Field(
        default="accuracy", description="The reward whose mean over a group is its pass rate."
    )
    promote: Share = Field(
        default=0.8, description="`levels`: pass rate of a level from which on the next one is asked as well."
    )
    focus: float = Field(
        default=3.0, ge=1, le=100, description="`levels`: weight of the newest open level, beside 1."
    )
    revisit: Share = Field(
        default=0.1, description="Share of prompts drawn from all that are open, so no estimate grows old."
    )
    memory: float = Field(
        default=0.9, ge=0, lt=1, description="Weight of a pool's older groups at each new one."
    )
    lengths: list[LengthStage] = Field(
        default_factory=list, description="`length`: its stages, the first from step 0."
    )


class DynamicSamplingSettings(Settings):
    """Groups whose completions all earned the same are replaced by others (DAPO, section 3.2); those that are
    left are passed over by the gradient's work.
    """

    max_extra: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Groups written in addition at most, as a multiple of the step's; 0: none is replaced.",
    )
