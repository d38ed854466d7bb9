"""Filters that look at one row: verified, pass rate, language, repetition. Each says why it removes a row.

A filter is a function `row -> reason`, where "" keeps the row. It knows nothing of other rows, so filters
commute and a set can be divided among cores. open-r1 filters by pass rate alone (`pass_rate_filtering`, one
reward's mean between two bounds that are themselves excluded).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from r1kit.data.texts import prose, row_text, trace_text, words
from r1kit.settings.curation import LanguageCode, LanguageStep, PassRateStep, RepetitionStep, VerifiedStep

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

Filter = Callable[[Mapping[str, Any]], str]

WINDOW = 400
"""Characters of prose that are classified at a time; a trace may change its language half way."""

LEAST_LETTERS = 24
"""Letters below which prose is too short to tell its language by."""

NO_LANGUAGE = "zxx"
"""The model's class for text that is no language: numbers, identifiers, markup."""


class NoSuchColumn(ValueError):
    """A step asks for a column that the set does not have; the command line exits with 2."""

    exit_code = 2


def column(row: Mapping[str, Any], step: str, name: str) -> Any:
    """The value of a row's column. Raises NoSuchColumn, naming the step that needs it."""
    if name not in row:
        have = ", ".join(sorted(row))
        raise NoSuchColumn(f"the step {step} needs a column {name!r}; the set has: {have}")
    return row[name]


def unverified(row: Mapping[str, Any], step: VerifiedStep) -> str:
    """Why the row is not verified: a verifier refused it, or none could judge it."""
    found = column(row, "verified", step.column)
    return "" if found is True else "not judged" if found is None else "refused by the verifier"


def outside_band(row: Mapping[str, Any], step: PassRateStep) -> str:
    """Why the problem's pass rate is of no use; both ends of the band are kept."""
    rate = column(row, "pass_rate", step.column)
    if rate is None:
        return "pass rate not measured"
    if rate < step.least:
        return f"pass rate below {step.least:g}"
    return f"pass rate above {step.most:g}" if rate > step.most else ""


def foreign(row: Mapping[str, Any], step: LanguageStep) -> str:
    """The language of the row's prose where it is not allowed, such as `zh`.

    Looked at are windows of `WINDOW` characters at the beginning, the middle and the end of each text. Prose
    too short to tell, and what the model is unsure of, is kept.
    """
    for text in step.texts:
        said = " ".join(prose(row_text(row, text)).split())
        for window in _windows(said):
            if sum(map(str.isalpha, window)) < _least_letters(window):
                continue
            language, probability = identifier().classify(window)
            if language not in (*step.allowed, NO_LANGUAGE) and probability >= step.confidence:
                return language
    return ""


def repetitive(row: Mapping[str, Any], step: RepetitionStep) -> str:
    """Why the trace repeats itself: the share of its n-grams that occurred before in it."""
    share = repeated_share(words(trace_text(row)), step.ngram)
    return f"{step.ngram}-grams repeated" if share > step.most else ""


def repeated_share(found: Sequence[str], n: int) -> float:
    """Share of the n-grams of words that occurred before, 0 to 1; 0.0 where there are fewer than n words.

    An n-gram is compared by a polynomial over its words' hashes, 64 bits: long traces have ten thousand.
    """
    import numpy as np

    windows = len(found) - n + 1
    if windows < 1:
        return 0.0
    hashes = np.fromiter(map(hash, found), dtype=np.int64, count=len(found)).view(np.uint64)
    sums = np.zeros(windows, dtype=np.uint64)
    for first in range(n):
        sums = sums * np.uint64(0x9E3779B97F4A7C15) + hashes[first : first + windows]
    return 1 - len(np.unique(sums)) / windows


def row_filters(settings: Any) -> dict[str, Filter]:
    """The filters of these curation settings by the name of their step, in the order of the steps."""
    functions = {
        "verified": unverified,
        "pass_rate": outside_band,
        "language": foreign,
        "repetition": repetitive,
    }
    steps = {name: getattr(settings, name) for name in functions}
    return {name: functools.partial(functions[name], step=step) for name, step in steps.items() if step}


def _windows(text: str) -> list[str]:
    if len(text) <= 3 * WINDOW:
        return [text[start : start + WINDOW] for start in range(0, max(1, len(text)), WINDOW)]
    middle = (len(text) - WINDOW) // 2
    return [text[:WINDOW], text[middle : middle + WINDOW], text[-WINDOW:]]


def _least_letters(window: str) -> int:
    # A Chinese or Japanese character says as much as four letters.
    return LEAST_LETTERS // 4 if any(char >= "\u3040" for char in window) else LEAST_LETTERS


@functools.cache
def identifier() -> LanguageIdentifier:
    """The language model (py3langid, in its wheel; half a second to load), asked for probabilities among the
    languages that the settings know: short texts are else taken for rare relatives, Chinese for Cantonese.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([*get_args(LanguageCode), NO_LANGUAGE])
    return model
