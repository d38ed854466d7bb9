"""evaluation.yaml: held-out story problems level by level, or public benchmarks by name.

The dataset, prompt and judge of each benchmark are in `r1kit.evaluation.benchmarks`; here is how they are
sampled.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r1kit.settings.validation import Levels, Positive, Settings


class EvaluationSettings(Settings):
    """evaluation.yaml: how checkpoints are judged."""

    problems_per_level: Positive = Field(description="Held-out problems per level.")
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
    greedy: bool = Field(default=True, description="Generate one greedy answer per problem too.")
    expect: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict,
        description="Checkpoint -> [lowest, highest] pass@1; outside, `r1kit run --strict` exits with 5.",
    )


Benchmark = Literal["aime24", "aime25", "math_500", "gpqa_diamond", "lcb", "gsm8k"]

PROBLEMS = {"aime24": 30, "aime25": 30, "math_500": 500, "gpqa_diamond": 198, "lcb": 268, "gsm8k": 1319}
"""Problems of each benchmark, equal to `r1kit.evaluation.benchmarks` (tested); `lcb`: of its default window,
as lighteval counts them."""

PROMPT_ROOM = 1024
"""Tokens that the vLLM server reserves for a benchmark's prompt."""

Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class BenchmarkSettings(Settings):
    """evaluation.yaml with `benchmarks`: samples per problem, so that published numbers are comparable."""

    benchmarks: Annotated[dict[Benchmark, Positive], Field(min_length=1)] = Field(
        description="Benchmark -> samples per problem; open-r1's table: 64, 4, 8, 16."
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
        default=False, description="Generate one greedy answer per problem too; long reasoning tends to loop."
    )
    most: Positive | None = Field(
        default=None, description="Most problems per benchmark, for a first look; null: all."
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
