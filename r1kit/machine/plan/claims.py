"""Published figures held against each other: which follow, which do not, and what they would mean.

The guide this kit began with says: 540 s a step without packing and 14 s with it, "38x"; one epoch in 15
hours; "~79 days" without packing. The first two rates are the same 524,288 slots a step divided by 540 and by
14, so padding cannot be the difference; and 79 days are five epochs compared with one.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1kit.machine.plan.hours import SftHours
from r1kit.machine.plan.inputs import Training
from r1kit.settings.planning import Claims


@dataclass(frozen=True)
class Finding:
    """One claim: does it follow, and the arithmetic in a sentence."""

    claim: str
    follows: bool
    why: str


def audit(claims: Claims, training: Training, sft: SftHours, documents: int) -> list[Finding]:
    """Every claim beside what the profile's own numbers give."""
    slots = training.tokens_per_step
    step, unpacked = claims.step_seconds, claims.step_seconds_unpacked
    hours = sft.steps * step / 3600
    ratio = unpacked / step
    batch = training.rows * training.accumulation * training.devices
    epoch_steps = documents // batch
    days = epoch_steps * unpacked / 86400
    recipe_days = days * claims.epochs_of_the_recipe
    recipe_steps = epoch_steps * claims.epochs_of_the_recipe
    implied = claims.days_unpacked * 86400 / recipe_steps
    bound = sft.packing.bound if sft.packing else 1.0
    cut = f"{training.row:,} tokens a row and {training.rows} rows"
    return [
        Finding(
            f"{claims.hours:g} hours",
            abs(hours - claims.hours) / claims.hours < 0.02,
            f"{sft.tokens / 1e9:.2f} billion tokens / {slots:,} slots = {sft.steps:,} steps x {step:g} s = "
            f"{hours:.1f} h for {sft.epochs:g} epoch; {slots / step:,.0f} tokens/s are {sft.mfu:.1%} MFU "
            f"({sft.mfu_full_attention:.1%} with full attention counted)",
        ),
        Finding(
            f"{claims.speedup:g}x by packing",
            claims.speedup <= bound,
            f"both rates are the same {slots:,} slots a step, / {unpacked:g} s = {slots / unpacked:,.0f} and "
            f"/ {step:g} s = {slots / step:,.0f} tokens/s; at {cut}, padded traces fill "
            f"{1 / bound:.0%} of the slots, so packing gains {bound:.1f}x at most and {ratio:.1f}x has "
            "another cause (new shapes tuned at every step, warm-up, eager masks): measure it again",
        ),
        Finding(
            f"{claims.days_unpacked:g} days without packing",
            abs(days - claims.days_unpacked) / claims.days_unpacked < 0.05,
            f"{documents:,} traces / {batch} = {epoch_steps:,} steps x {unpacked:g} s = {days:.1f} days an "
            f"epoch, {recipe_days:.1f} days for {claims.epochs_of_the_recipe}; {claims.days_unpacked:g} days "
            f"are {recipe_steps:,} steps of {implied:.0f} s, so {claims.epochs_of_the_recipe} epochs are "
            f"compared with one; like for like it is {days * 24 / hours:.0f}x in the guide's own seconds",
        ),
    ]
