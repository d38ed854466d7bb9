"""Duplicates: which rows say the same, exactly or nearly, and which one of them stays.

Near duplicates are rows whose word n-grams are nearly the same set (Jaccard similarity, estimated by MinHash;
Broder 1997), as in Lee et al. 2022 (arXiv:2107.06499). Signatures and their index are rensa's. Two choices
make the result independent of the order of the rows:

- The representative is the row with the smallest hash over all its columns, not the first one read.
- Rows are looked at in the order of those hashes; a row goes if a row that *stays* is near it. So each
  removed row has a near twin in the result. Clusters closed over chains (A near B near C) would remove a row
  that nothing in the result is near to.

In mathematics "3 apples" and "4 apples" are two problems with two answers, though 90% of their words agree.
Where `same_numbers` is set, only rows whose problems have the same numbers are compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r1kit.data.texts import ngrams, numbers, problem_text, row_words
from r1kit.settings.curation import ExactStep, NearStep

if TYPE_CHECKING:
    from rensa import RMinHash

PERMUTATIONS = 128
"""Slots of a signature: a similarity of 0.8 is estimated with a standard error of 0.035."""

BANDS = 32
"""Of 4 slots each: rows of similarity 0.8 are compared with probability 1 - (1 - 0.8^4)^32 > 0.9999, those of
0.5 with 0.87. Comparing is cheap, missing is not."""


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of a row, whatever its length."""

    rank: bytes
    """A hash over all columns; the smallest of a group of duplicates stays."""
    exact: bytes = b""
    """Equal for rows that are exact duplicates."""
    signature: RMinHash | None = None
    numbers: bytes = b""
    """Equal for problems with the same numbers."""


def fingerprint(row: Mapping[str, Any], exact: ExactStep | None, near: NearStep | None) -> Fingerprint:
    """The fingerprint of a row for these steps; what a step that is None would need is left out."""
    rank = _hash(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str))
    same = _hash(" ".join(row_words(row, exact.texts))) if exact else b""
    if not near:
        return Fingerprint(rank, same)
    compared = " ".join(sorted(numbers(problem_text(row)))) if near.same_numbers else ""
    return Fingerprint(rank, same, signature(row_words(row, near.texts), near.ngram), _hash(compared))


def signature(found: Sequence[str], ngram: int) -> RMinHash:
    """The MinHash signature of the n-grams of words; fewer words than that are one n-gram by themselves."""
    from rensa import RMinHash

    shingles = list(ngrams(found, ngram)) or [" ".join(found)]
    made = RMinHash(num_perm=PERMUTATIONS, seed=0)
    made.update(shingles)
    return made


def exact_duplicates(prints: Mapping[int, Fingerprint]) -> dict[int, int]:
    """Row to remove -> row that stays for it, among the fingerprints by row."""
    stays: dict[bytes, int] = {}
    for row in ranked(prints):
        stays.setdefault(prints[row].exact, row)
    return {row: stays[found.exact] for row, found in prints.items() if stays[found.exact] != row}


def near_duplicates(prints: Mapping[int, Fingerprint], threshold: float) -> dict[int, tuple[int, float]]:
    """Row to remove -> (the most similar row that stays, their similarity)."""
    from rensa import RMinHashLSH

    index = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=BANDS)
    removed: dict[int, tuple[int, float]] = {}
    for row in ranked(prints):
        one = prints[row]
        twins = [
            (one.signature.jaccard(prints[other].signature), prints[other].rank, other)
            for other in index.query(one.signature)
            if prints[other].numbers == one.numbers
        ]
        similarity, _, twin = max(twins, default=(0.0, b"", -1))
        if similarity >= threshold:
            removed[row] = (twin, similarity)
        else:
            index.insert(row, one.signature)
    return removed


def ranked(prints: Mapping[int, Fingerprint]) -> list[int]:
    """Rows in the order in which they are looked at."""
    return sorted(prints, key=lambda row: prints[row].rank)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
