"""grpo.yaml's `guards`: signs at which a GRPO is stopped, since what follows would be wasted or harmful."""

from __future__ import annotations

from pydantic import Field

from r1kit.settings.strict import Positive, Settings, Share


class GuardSettings(Settings):
    """Bounds on averages over `window` logged rows; null turns a guard off.

    The bounds are wide: they end what has failed, and the shipped runs pass none of them.
    """

    window: Positive = Field(default=10, description="Logged rows that an average is taken over.")
    min_entropy: float | None = Field(
        default=0.002,
        ge=0,
        description="Mean entropy of a token in nats; below, nothing is explored any more.",
    )
    max_entropy_growth: float | None = Field(
        default=8.0, gt=1, description="Entropy over that of the first window; above, the policy dissolves."
    )
    min_distinct: Share | None = Field(
        default=None, description="Distinct answers over completions of a group that is not all right."
    )
    max_same_answer: Share | None = Field(
        default=0.9, description="Completions of different prompts that end in one and the same answer."
    )
    max_repetition: Share | None = Field(
        default=0.8, description="Word 4-grams of a completion that occurred in it before."
    )
    min_length_share: Share | None = Field(
        default=0.2, description="Completion length over that of the first window; below, reasoning is gone."
    )
    max_clipped: Share | None = Field(
        default=0.95, description="Completions cut at max_completion_length, if they were fewer at first."
    )
    patience: Positive = Field(
        default=3, description="Held-out measurements in a row below the best one, while the reward rose."
    )
    min_heldout_drop: float | None = Field(
        default=0.05, ge=0, le=1, description="How far below the best each of them lies."
    )
    min_reward_rise: float = Field(
        default=0.05, ge=0, description="How far the reward has risen since the best one."
    )
