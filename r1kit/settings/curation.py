"""What `r1kit data curate` removes from a set: one model a step, null where a step is left out.

The steps run in one order, whatever the order in the file: filters that look at one row each, then
decontamination, then duplicates. A row that a filter removes can then never be the representative of its
duplicates, and the filters commute (a test holds it), so nobody has to think about order.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r1kit.settings.strict import Positive, Settings, Share

Text = Literal["problem", "trace"]
Texts = Annotated[list[Text], Field(min_length=1)]
LanguageCode = Literal[
    "ar", "bg", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id", "it",
    "ja", "ko", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sr", "sv", "th", "tr", "uk", "vi", "zh",
]  # fmt: skip


class VerifiedStep(Settings):
    """Keep rows that a verifier accepted."""

    column: str = Field(default="verified", description="A column that is true for accepted rows.")


class PassRateStep(Settings):
    """Keep problems that a checkpoint solves sometimes: nothing is learned from always or never."""

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
    """Remove traces that say the same over and over: a model imitates that too."""

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
    """Keep one of the rows that are equal but for letter case, spaces and punctuation."""

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
