"""data.yaml and evaluation.yaml of a profile with real data: datasets of the hub, benchmarks by name.

The values are read, checked and planned with. Loading them comes with issue 7; until then the stage 01_data
refuses such a profile (`refuse_what_cannot_run_yet`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r1kit.settings.strict import Positive, Settings

TraceDataset = Literal["open-r1/Mixture-of-Thoughts", "open-r1/codeforces-cots"]
PromptDataset = Literal[
    "open-r1/OpenR1-Math-220k",
    "open-r1/DAPO-Math-17k-Processed",
    "open-r1/Big-Math-RL-Verified-Processed",
    "open-r1/codeforces",
    "AI-MO/NuminaMath-CoT",
]
Benchmark = Literal["aime24", "aime25", "math_500", "gpqa_diamond", "lcb", "gsm8k"]


class HubDataset(Settings):
    """One dataset of the hub, or of a mirror folder."""

    config: str = Field(default="default", description="The dataset's configuration, on the hub a `subset`.")
    split: str = "train"
    revision: str | None = Field(default=None, description="A commit; null takes the newest.")
    weight: float = Field(default=1.0, gt=0, description="Share of its rows taken; 2 takes all twice.")
    most: Positive | None = Field(default=None, description="Rows taken at most.")


class HubTraces(HubDataset):
    """Reasoning traces to imitate."""

    dataset: TraceDataset


class HubPrompts(HubDataset):
    """Problems with solutions to check against."""

    dataset: PromptDataset
    prompt_column: str = "problem"
    solution_column: str = Field(
        default="answer",
        description="OpenR1-Math's `solution` is prose, which parses to wrong golds; `answer` is the answer.",
    )
    pass_rate: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="Keep prompts that a checkpoint solves this often, [least, most]."
    )


class HubDataSettings(Settings):
    """data.yaml with `source: hub`."""

    source: Literal["hub"] = Field(description="Where problems come from.")
    seed: int = Field(ge=0, description="Seed of shuffles and mixtures.")
    traces_from: Annotated[list[HubTraces], Field(min_length=1)] = Field(description="Datasets for SFT.")
    prompts_from: Annotated[list[HubPrompts], Field(min_length=1)] = Field(description="Datasets for GRPO.")
    prompts: Positive = Field(description="Prompts that are left after filtering, for GRPO's epochs.")
    max_prompt_length: int = Field(
        ge=1, description="Tokens the longest prompt may take, template included; longer ones are left out."
    )
    mirror: str | None = Field(
        default=None, description="A folder with copies of the datasets, for machines without network."
    )


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
    expect: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict, description="Benchmark -> [lowest, highest] pass@1."
    )
