"""`rewards` in grpo.yaml: one model per reward, because each has its own parameters.

Names and parameters are those of the functions in `r1kit/rewards`, which follow open-r1 where it has the
reward. A length of `null` means `max_completion_length` of the same file: with open-r1's fixed 16384 its
overlong punishment was always 0 in a demo that stops at 2048 tokens.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from r1kit.settings.validation import Positive, Settings

Language = Literal["en", "zh"]
CodeLanguage = Literal["python", "cpp"]


class Reward(Settings):
    """A reward function and its weight in the sum; 0 only logs it."""

    weight: float = 1.0


class Accuracy(Reward):
    """The answer after the reasoning equals the gold solution."""

    name: Literal["accuracy"]


class Format(Reward):
    """One `<think>` block, one `<answer>` block, nothing else."""

    name: Literal["format"]


class TagCount(Reward):
    """A quarter for each tag in its place."""

    name: Literal["tag_count"]


class ThinkFormat(Reward):
    r"""R1's own form: `<think>…</think>`, then the answer with `\boxed`."""

    name: Literal["think_format"]


class ReasoningSteps(Reward):
    """A third for each step written in the reasoning, up to three."""

    name: Literal["reasoning_steps"]


class Length(Reward):
    """Kimi k1.5: of the right answers to one prompt the shorter ones earn more."""

    name: Literal["length"]


class Cosine(Reward):
    """A cosine between two values over the completion's length, with other values for wrong answers."""

    name: Literal["cosine"]
    min_value_wrong: float = Field(default=-1.0, description="For a wrong answer of no length.")
    max_value_wrong: float = Field(default=-0.5, description="For a wrong answer of max_len tokens.")
    min_value_correct: float = Field(default=0.5, description="For a right answer of max_len tokens.")
    max_value_correct: float = Field(default=1.0, description="For a right answer of no length.")
    max_len: Positive | None = Field(default=None, description="Tokens; null: max_completion_length.")


class RepetitionPenalty(Reward):
    """A penalty that grows with the share of repeated n-grams."""

    name: Literal["repetition_penalty"]
    ngram_size: Positive = Field(default=3, description="Words (Chinese: characters) of an n-gram.")
    max_penalty: float = Field(default=-1.0, le=0, description="What a completion of repetitions earns.")
    language: Language = "en"


class SoftOverlongPunishment(Reward):
    """DAPO, equation 13: 0, then a line down to -1 over the last tokens before the limit."""

    name: Literal["soft_overlong_punishment"]
    max_completion_len: Positive | None = Field(
        default=None, description="Tokens; null: max_completion_length."
    )
    soft_punish_cache: Positive = Field(description="Tokens before the limit over which the line falls.")


class LanguageConsistency(Reward):
    """R1 paper, section 2.3.2: the share of the reasoning's words that are in the target language."""

    name: Literal["language_consistency"]
    language: Language = "en"


class Code(Reward):
    """The share of test cases that the answer's program passes, in the sandbox."""

    name: Literal["code"]
    require_reasoning: bool = Field(
        default=False,
        description="Ignore programs before `</think>`; always on if the template opens `<think>`.",
    )


class BinaryCode(Code):
    """1 if the answer's program passes every test case."""

    name: Literal["binary_code"]


class CodeFormat(Reward):
    """The form of `format` with one fenced block of the language in the answer."""

    name: Literal["code_format"]
    language: CodeLanguage = "python"


class NaiveAccuracy(Reward):
    """Only for a lesson: the solution occurs somewhere in the text."""

    name: Literal["naive_accuracy"]


class NaiveSteps(Reward):
    """Only for a lesson: open-r1's pattern for reasoning steps."""

    name: Literal["naive_steps"]


class NaiveCode(Reward):
    """Only for a lesson: the program, run without input, prints the solution."""

    name: Literal["naive_code"]


AnyReward = Annotated[
    Accuracy
    | Format
    | TagCount
    | ThinkFormat
    | ReasoningSteps
    | Length
    | Cosine
    | RepetitionPenalty
    | SoftOverlongPunishment
    | LanguageConsistency
    | Code
    | BinaryCode
    | CodeFormat
    | NaiveAccuracy
    | NaiveSteps
    | NaiveCode,
    Field(discriminator="name"),
]
REWARDS: dict[str, type[Reward]] = {
    get_args(model.model_fields["name"].annotation)[0]: model for model in get_args(get_args(AnyReward)[0])
}
