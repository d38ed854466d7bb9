"""data.yaml of a profile with real data: datasets of the hub, of a mirror folder, or local files.

What the datasets hold and how their rows become ours is `r1kit.data.sources`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r1kit.settings.strict import Positive, Settings

TraceDataset = Literal["open-r1/Mixture-of-Thoughts", "open-r1/codeforces-cots", "open-r1/OpenR1-Math-220k"]
PromptDataset = Literal[
    "open-r1/OpenR1-Math-220k",
    "open-r1/DAPO-Math-17k-Processed",
    "open-r1/Big-Math-RL-Verified-Processed",
    "open-r1/codeforces",
    "AI-MO/NuminaMath-CoT",
]
LocalPath = Annotated[str, Field(pattern=r"^(~|\.{1,2})?/")]
"""A file or folder; `./` and `../` count from the profile's folder."""


class HubDataset(Settings):
    """One dataset of the hub, of a mirror folder, or a local one."""

    config: str = Field(default="default", description="The dataset's configuration, on the hub a `subset`.")
    split: str = "train"
    revision: str | None = Field(
        default=None, description="A commit; null takes the one that was checked, else the newest."
    )
    weight: float = Field(default=1.0, gt=0, description="Share of its rows taken; 2 takes all twice.")
    most: Positive | None = Field(default=None, description="Rows taken at most.")


class HubTraces(HubDataset):
    """Reasoning traces to imitate."""

    dataset: TraceDataset | LocalPath
    per_problem: Positive = Field(
        default=1, description="Right traces of a problem taken at most, where a row holds several."
    )


class HubPrompts(HubDataset):
    """Problems with solutions to check against."""

    dataset: PromptDataset | LocalPath
    prompt_column: str | None = Field(default=None, description="null: the dataset's own.")
    solution_column: str | None = Field(
        default=None,
        description="null: the dataset's own. OpenR1-Math's `solution` is prose, whose golds would be wrong.",
    )
    instruction: str = Field(
        default="", description="Added after each problem, for a model that nobody taught the form."
    )
    pass_rate: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="Keep prompts that a checkpoint solves this often, [least, most]."
    )
    pass_rates: LocalPath | None = Field(
        default=None,
        description="Measured rates: rows with `problem` or `prompt`, and `pass_rate`. null: the dataset's "
        "own column; without either the band is not applied, and the data card says so.",
    )


class HubDataSettings(Settings):
    """data.yaml with `source: hub`."""

    source: Literal["hub"] = Field(description="Where problems come from.")
    seed: int = Field(ge=0, description="Seed of what is drawn and of what is held out.")
    traces_from: Annotated[list[HubTraces], Field(min_length=1)] = Field(description="Datasets for SFT.")
    prompts_from: Annotated[list[HubPrompts], Field(min_length=1)] = Field(description="Datasets for GRPO.")
    prompts: Positive = Field(description="Prompts that are left after filtering, for GRPO's epochs.")
    max_prompt_length: int = Field(
        ge=1, description="Tokens the longest prompt may take, template included; longer ones are left out."
    )
    heldout_share: float = Field(
        default=0.01, ge=0, lt=1, description="Share of the problems that nothing is trained on."
    )
    mirror: str | None = Field(
        default=None,
        description="A folder with copies of the datasets, for want of a network; null: $R1KIT_MIRROR.",
    )
    stream: bool = Field(
        default=False, description="Read the hub's files as they come, without a copy in the hub's cache."
    )
    excerpt: bool = Field(
        default=False, description="The mirror holds parts of the datasets: their rows are not counted."
    )
    measured_rows: Positive | None = Field(
        default=2000,
        description="Traces of each dataset whose tokens are counted for the data card; null: all of them.",
    )
