"""evaluation.yaml of a profile with the embedded world: held-out story problems, level by level.

evaluation.yaml of a profile with real data: public benchmarks by name.

Which dataset, prompt and judge belong to a name is `r1kit.evaluation.benchmarks`; here is how they are
sampled.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r1kit.settings.validation import Levels, Positive, Settings


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


Benchmark = Literal["aime24", "aime25", "math_500", "gpqa_diamond", "lcb", "gsm8k"]

PROBLEMS = {"aime24": 30, "aime25": 30, "math_500": 500, "gpqa_diamond": 198, "lcb": 268, "gsm8k": 1319}
"""How many problems each has (a test holds them to `r1kit.evaluation.benchmarks`); `lcb`: those of its
default window, as others count them who judge with lighteval."""

PROMPT_ROOM = 1024
"""Tokens that a benchmark's prompt may take on a server of ours."""

Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class BenchmarkSettings(Settings):
    """evaluation.yaml with `benchmarks`: samples per problem, so that published numbers are comparable."""

    benchmarks: Annotated[dict[Benchmark, Positive], Field(min_length=1)] = Field(
        description="Benchmark -> samples of each problem; open-r1's table: 64, 4, 8, 16."
    )
    temperature: float = Field(gt=0, description="Sampling temperature.")
    top_p: float = Field(gt=0, le=1, description="Nucleus sampling; 1.0 is off.")
    max_new_tokens: Positive = Field(description="Longest completion in tokens.")
    batch_size: Positive = Field(description="Completions generated at once.")
    seed: int = Field(ge=0, description="Seed of the sampling.")
    k: Annotated[list[Positive], Field(min_length=1)] = Field(
        default=[1], description="The k of pass@k; those that the samples allow are shown."
    )
    greedy: bool = Field(
        default=False, description="One greedy answer to each problem as well; long thoughts loop under it."
    )
    most: Positive | None = Field(
        default=None, description="Problems of each benchmark at most, for a first look; null: all of them."
    )
    lcb_window: Annotated[list[Day], Field(min_length=2, max_length=2)] = Field(
        default=["2024-08-01", "2025-02-01"],
        description="First and last contest day of LiveCodeBench's problems; the default is DeepSeek-R1's.",
    )
    expect: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict, description="Checkpoint -> [lowest, highest] mean of the benchmarks' pass@1."
    )

    @property
    def levels(self) -> list[str]:
        """The benchmarks: in tables they stand where the embedded world has its levels."""
        return list(self.benchmarks)
