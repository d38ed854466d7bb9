"""evaluation.yaml of a profile with the embedded world: held-out story problems, level by level."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from r1kit.settings.strict import Levels, Positive, Settings


class EvaluationSettings(Settings):
    """evaluation.yaml: how checkpoints are judged."""

    problems_per_level: Positive = Field(description="Held-out problems of each level that are asked.")
    samples: Positive = Field(description="Completions per problem.")
    levels: Levels = Field(
        description="Levels whose mean is the headline pass@1; all held-out levels are shown."
    )
    temperature: float = Field(gt=0, description="Sampling temperature; greedy answers are shown beside it.")
    top_p: float = Field(gt=0, le=1, description="Nucleus sampling; 1.0 is off.")
    max_new_tokens: Positive = Field(description="Longest completion in tokens.")
    batch_size: Positive = Field(description="Completions generated at once.")
    k: Annotated[list[Positive], Field(min_length=1)] = Field(description="The k of pass@k.")
    seed: int = Field(ge=0, description="Seed of the sampling.")
    greedy: bool = Field(default=True, description="One greedy answer to each problem as well.")
    expect: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict,
        description="Checkpoint -> [lowest, highest] pass@1; outside, `r1kit run --strict` exits with 5.",
    )
