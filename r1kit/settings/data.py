"""data.yaml, and the settings of the data commands.

DataSettings is data.yaml with the embedded world of story problems and its teacher; HubDataSettings is
data.yaml with real datasets of the hub, of a mirror folder, or local files (`r1kit.data.sources` converts
their rows). CurationSettings are the steps of `r1kit data curate`, GenerationSettings the options of
`r1kit data generate`; both are checked like a profile's files, but belong to no profile.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from r1kit.settings.errors import Problem, SettingsError, display_path
from r1kit.settings.validation import Level, Levels, Positive, Seconds, Settings, Share, Source, settings_of


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
    most: Positive | None = Field(default=None, description="Most rows taken.")


class HubTraces(HubDataset):
    """Reasoning traces to imitate."""

    dataset: TraceDataset | LocalPath
    per_problem: Positive = Field(
        default=1, description="Most correct traces per problem, if a row holds several."
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
        default="", description="Added after each problem, for a model that was not trained on the form."
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
        default=0.01, ge=0, lt=1, description="Share of the problems that are kept out of training."
    )
    mirror: str | None = Field(
        default=None,
        description="A folder with copies of the datasets, for use without a network; null: $R1KIT_MIRROR.",
    )
    stream: bool = Field(
        default=False, description="Stream the hub's files, without a copy in the hub's cache."
    )
    excerpt: bool = Field(
        default=False, description="The mirror holds parts of the datasets: their rows are not counted."
    )
    measured_rows: Positive | None = Field(
        default=2000,
        description="Traces of each dataset whose tokens are counted for the data card; null: all of them.",
    )


Text = Literal["problem", "trace"]
Texts = Annotated[list[Text], Field(min_length=1)]
LanguageCode = Literal[
    "ar", "bg", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id", "it",
    "ja", "ko", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sr", "sv", "th", "tr", "uk", "vi", "zh",
]  # fmt: skip


# Curation. The steps run in a fixed order: filters of single rows, decontamination, duplicates. So a row
# that a filter removes never represents its duplicates.


class VerifiedStep(Settings):
    """Keep rows that a verifier accepted."""

    column: str = Field(default="verified", description="A column that is true for accepted rows.")


class PassRateStep(Settings):
    """Keep problems that a checkpoint solves sometimes; a pass rate of 0 or 1 teaches nothing."""

    column: str = Field(default="pass_rate", description="Measured pass rates, 0 to 1.")
    least: Share = Field(default=0.1, description="Lowest that is kept; open-r1's DAPO recipe: 0.1.")
    most: Share = Field(default=0.6, description="Highest that is kept; open-r1's DAPO recipe: 0.6.")


class LanguageStep(Settings):
    """Keep rows whose prose is in one of these languages; formulas and programs have none."""

    allowed: Annotated[list[LanguageCode], Field(min_length=1)] = Field(
        default=["en"], description="Languages by their two letters."
    )
    confidence: Share = Field(
        default=0.9, description="Probability of another language from which a row is removed."
    )
    texts: Texts = Field(default=["problem", "trace"], description="Where it looks.")


class RepetitionStep(Settings):
    """Remove traces that repeat themselves, because a model imitates that too."""

    ngram: Positive = Field(default=20, description="Words that must recur in the same order.")
    most: Share = Field(default=0.2, description="Largest share of repeated n-grams that is kept.")


class DecontaminationStep(Settings):
    """Remove rows that share an n-gram with a problem of an evaluation set."""

    against: list[str] = Field(
        default=[],
        description="Evaluation sets: benchmarks by name, or files; `--against` adds to them.",
    )
    ngram: Annotated[int, Field(ge=2)] = Field(default=8, description="Words; s1 and open-r1 take 8.")
    texts: Texts = Field(
        default=["problem"], description="`trace` as well: an evaluation problem may be worked inside one."
    )


class ExactStep(Settings):
    """Keep one of the rows that differ only in letter case, spaces and punctuation."""

    texts: Texts = Field(
        default=["problem", "trace"],
        description="What must be equal; [problem] keeps one trace of each problem.",
    )


class NearStep(Settings):
    """Keep one of the rows whose word n-grams are nearly the same set (MinHash)."""

    texts: Texts = Field(default=["problem", "trace"], description="Where it looks.")
    threshold: Annotated[float, Field(ge=0.4, le=1)] = Field(
        default=0.8, description="Jaccard similarity from which two rows are one."
    )
    ngram: Positive = Field(default=3, description="Words of a shingle.")
    same_numbers: bool = Field(
        default=True,
        description="Problems with other numbers are other problems, however alike their words.",
    )


class CurationSettings(Settings):
    """All steps. Without a file: exact and near duplicates."""

    verified: VerifiedStep | None = None
    pass_rate: PassRateStep | None = None
    language: LanguageStep | None = None
    repetition: RepetitionStep | None = None
    decontamination: DecontaminationStep | None = None
    exact: ExactStep | None = Field(default_factory=ExactStep)
    near: NearStep | None = Field(default_factory=NearStep)


def load_curation(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> CurationSettings:
    """Read the steps of a YAML file (by default the default steps), with overrides on top.

    Args:
        overrides: such as `{"curation.near.threshold": 0.9}`.

    Raises:
        SettingsError: with all problems.
    """
    source = Source("curation", display_path(path) if path else "the default steps")
    settings, problems = settings_of(CurationSettings, source, overrides or {}, Path(path) if path else None)
    if settings is not None:
        problems = list(_rules(settings, source))
    if problems:
        raise SettingsError(problems, "bad curation steps")
    return settings


def _rules(settings: CurationSettings, source: Source) -> Iterator[Problem]:
    band = settings.pass_rate
    if band and band.least >= band.most:
        message = "No problem has such a pass rate."
        found = f"{band.least:g} to {band.most:g}"
        yield source.problem(("pass_rate", "least"), found=found, allowed="least < most", message=message)


class SamplingSettings(Settings):
    """Settings that, with the prompt, determine an answer. A file of answers belongs to exactly one set."""

    model: str = Field(min_length=1, description="The model's name at the endpoint.")
    temperature: Annotated[float, Field(ge=0)] = Field(default=0.6, description="DeepSeek-R1's advice.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=0.95, description="Nucleus sampling.")
    max_tokens: Positive | None = Field(
        default=16384, description="Longest answer, reasoning included; null: the endpoint's own limit."
    )
    seed: int | None = Field(
        default=0, ge=0, description="Each sample's seed follows from it; null sends none, for hosts without."
    )
    system: str = Field(default="", description="A system prompt; R1's authors advise against one.")
    instruction: str = Field(
        default="", description="Added to the problem when asking, left out of the trace that is kept."
    )
    extra: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of the request: {top_k: 20}."
    )

    def identity(self) -> str:
        """Hash all fields to 12 hex digits; answers with different identities must not be mixed."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class PatienceSettings(Settings):
    """Parallelism, timeouts and retries; none of them changes an answer."""

    concurrency: Positive = Field(default=32, description="Requests in flight; a vLLM server takes 256.")
    timeout: Seconds = Field(default=1800, description="Seconds of a whole request.")
    silence: Seconds = Field(
        default=300, description="Seconds without a byte: the queue of a busy server before the first token."
    )
    attempts: Positive = Field(
        default=10, description="Most attempts of a failing request; ten take about two minutes."
    )
    first_wait: Seconds = Field(
        default=1.0, description="Seconds before the second attempt, on average half."
    )
    longest_wait: Seconds = Field(
        default=60.0, description="Limit of the doubling wait; a `Retry-After` may be longer."
    )
    stream: bool = Field(
        default=True, description="Take answers piece by piece: silence is noticed, proxies cut no idle line."
    )


class GenerationSettings(Settings):
    """Options of `r1kit data generate`, except the prompts and the output folder."""

    url: str = Field(description="The endpoint up to its version: http://host:8000/v1")
    key_variable: str = Field(
        default="OPENAI_API_KEY",
        description="Environment variable that holds the API key; the key itself is written nowhere.",
    )
    samples: Positive = Field(default=1, description="Answers per prompt.")
    sampling: SamplingSettings = Field(description="Sampling of the answers.")
    patience: PatienceSettings = Field(
        default_factory=PatienceSettings, description="Parallelism, timeouts and retries."
    )


def generation_settings(options: Mapping[str, Any]) -> GenerationSettings:
    """Check options such as `generation.sampling.temperature`; a later one replaces an earlier one.

    Raises:
        SettingsError: with all problems.
    """
    source = Source("generation", "the options")
    settings, problems = settings_of(GenerationSettings, source, options)
    if settings is not None and not re.match(r"https?://[^/]", settings.url):
        allowed = "http://host:port/v1 or https://host/v1"
        problems = [source.problem(("url",), found=settings.url, allowed=allowed)]
    if problems:
        raise SettingsError(problems, "bad options")
    return settings
