"""Decontamination: no row may share an n-gram with a problem that a model will be evaluated on.

The method is s1's (arXiv:2501.19393, 8-grams of words), as in open-r1's `scripts/decontaminate.py`, with two
changes. There a problem of fewer than 8 words is never found; here it is compared as a whole. There words are
what stands between spaces; here they are normalised (`texts.words`), so that another way to write a formula
hides nothing. Like there, a stock phrase of 8 words removes an innocent row: the report names the phrase.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r1kit.data.texts import ngrams, row_text, words
from r1kit.settings.curation import DecontaminationStep


@dataclass
class EvaluationIndex:
    """The n-grams of evaluation problems, and the problems that are shorter, by whose they are."""

    ngram: int = 8
    long: dict[int, str] = field(default_factory=dict)
    short: dict[int, str] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    """Problems of each evaluation set."""

    def add(self, name: str, problems: Iterable[str]) -> None:
        """Take up the problems of an evaluation set.

        Raises:
            ValueError: there are none, or one has no word: nothing could be found by it.
        """
        count = 0
        for count, problem in enumerate(problems, start=1):
            found = words(problem)
            if not found:
                raise ValueError(f"problem {count} of {name} has no words: {problem!r}")
            where = f"{name}: problem {count}"
            if len(found) < self.ngram:
                self.short.setdefault(_hash(" ".join(found)), where)
            for ngram in ngrams(found, self.ngram):
                self.long.setdefault(_hash(ngram), where)
        if not count:
            raise ValueError(f"the evaluation set {name} has no problems")
        self.problems[name] = count

    def find(self, text: str) -> tuple[str, str] | None:
        """(evaluation set and problem, the words that both have), or None if the text is clean."""
        found = words(text)
        whole = " ".join(found)
        if len(found) < self.ngram and (where := self.short.get(_hash(whole))):
            return where, whole
        for ngram in ngrams(found, self.ngram):
            if where := self.long.get(_hash(ngram)):
                return where, ngram
        return None


def contaminated(row: Mapping[str, Any], step: DecontaminationStep, index: EvaluationIndex) -> str:
    """Where the row meets an evaluation set: `aime24: problem 7, "the words they share"`; "" if nowhere."""
    for text in step.texts:
        if found := index.find(row_text(row, text)):
            return f'{found[0]}, "{found[1]}"'
    return ""


def _hash(text: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
