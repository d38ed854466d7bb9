"""What all settings models share: strictness, and the few types that several of them use."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
Level = Annotated[int, Field(ge=1, le=5, description="Number of operations in a story problem.")]
Levels = Annotated[list[Level], Field(min_length=1)]


class Settings(BaseModel):
    """Base of all files: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
