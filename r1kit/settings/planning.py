"""What `r1kit plan` is told in machine.yaml because it cannot be computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r1kit.settings.strict import Settings

AcceleratorName = Literal["mi300x", "mi325x", "mi350x", "mi355x", "h100", "h200", "b200", "l4", "cpu"]
"""Rows of the device table, `r1kit.machine.speed.DEVICES` (a test holds the two equal)."""

PositiveShare = Annotated[float, Field(gt=0, le=1)]


class PlanSettings(Settings):
    """Numbers for `r1kit plan`. Write a comment beside each that says where it is from."""

    train_share: PositiveShare | None = Field(
        default=None,
        description="Share of the peak that training reaches, recomputation included; null: device table.",
    )
    decode_share: PositiveShare | None = Field(
        default=None, description="Share of the memory bandwidth that generation reaches; null: device table."
    )
    sft_step_seconds: float | None = Field(
        default=None, gt=0, description="A measured SFT step; hours and MFU then come from it."
    )
    mean_completion: PositiveShare = Field(
        default=0.5,
        description="Mean length of a GRPO completion over max_completion_length: 0.5 is uniform lengths.",
    )
