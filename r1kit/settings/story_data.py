"""data.yaml of a profile with the embedded world: story problems and their teacher (`r1kit.data`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from r1kit.settings.strict import Level, Levels, Positive, Settings


class DataSettings(Settings):
    """data.yaml: the embedded world of story problems and its teacher."""

    # `hub` is read with HubDataSettings (model_for); it stands here for the list of what is allowed.
    source: Literal["stories", "hub"] = Field(description="Where problems come from.")
    seed: int = Field(ge=0, description="Seed of all problems and of the teacher's slips.")
    base_documents: Positive = Field(description="Plain-text documents the base model is trained on.")
    traces: Positive = Field(description="Traces the teacher writes for SFT, before verification.")
    prompts: Positive = Field(description="Problems for GRPO, none of them among the traces.")
    heldout_per_level: Positive = Field(description="Held-out problems of each level, for evaluation only.")
    levels: Levels = Field(description="Levels in training.")
    heldout_levels: Levels = Field(description="Levels held out; may hold levels that are never trained.")
    slip_rate: float = Field(ge=0, lt=1, description="Share of steps in which the teacher makes a mistake.")
    hurry_rate: float = Field(
        default=0, ge=0, lt=1, description="Share of traces in which the teacher writes no steps."
    )
    rare_levels: list[Level] = Field(
        default_factory=list, description="Levels of which only a few traces are written."
    )
    rare_share: float = Field(default=0, ge=0, le=0.5, description="Share of the traces at `rare_levels`.")
    rare_hurry_rate: float | None = Field(
        default=None, ge=0, lt=1, description="`hurry_rate` at `rare_levels`; null: the same."
    )
    prompt_levels: Levels | None = Field(
        default=None, description="Levels of GRPO's prompts; null: `levels`."
    )
    base_levels: Levels | None = Field(default=None, description="Levels of the corpus; null: `levels`.")
    worked_share: float = Field(
        default=0, ge=0, lt=1, description="Share of the corpus that is a problem with a worked solution."
    )
    asked_share: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="Share of the corpus that is a chat in which a problem is answered.",
    )
    asked_hurry_rate: float | None = Field(
        default=None, ge=0, le=1, description="Share of those answers without steps; null: `hurry_rate`."
    )
    asked_plain_share: float = Field(
        default=0, ge=0, le=1, description="Share of those answers with neither tags nor a box."
    )
    vocabulary_size: int = Field(
        ge=274,
        description="Most tokens of the tokenizer; 256 bytes and 17 tokens of the format are always in it.",
    )
    max_prompt_length: int = Field(
        default=64,  # the longest of 1,500 stories at level 5 takes 46 (2026-11-23)
        ge=1,
        description="Tokens the longest prompt may take, chat template included; context checks use it.",
    )
