"""Lengths of documents as a histogram, and what padding, packing and truncation make of them.

A training step costs its slots, not its tokens. So the gain of packing is the ratio of two fills, which a
histogram of lengths decides: for documents of one length there is none. The guide's "38x" is more than any
histogram of long traces gives (docs/big-machine.md, last table).
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from r1kit.settings.errors import Problem, SettingsError

SAMPLE = 2000
"""Documents that packing is tried on: enough for a fill within 1%, packed in a hundredth of a second."""


@dataclass(frozen=True)
class Lengths:
    """A histogram: `share[i]` of the documents have `tokens[i]` tokens; ascending, shares sum to 1."""

    tokens: tuple[int, ...]
    share: tuple[float, ...]
    source: str = ""

    @property
    def mean(self) -> float:
        """Mean tokens of a document."""
        return sum(n * p for n, p in zip(self.tokens, self.share, strict=True))

    @property
    def attended(self) -> float:
        """sum(n^2) / sum(n): the length that attention costs as much as."""
        return sum(n * n * p for n, p in zip(self.tokens, self.share, strict=True)) / self.mean

    def cut(self, most: int) -> Lengths:
        """Every document truncated to `most` tokens."""
        below = [(n, p) for n, p in zip(self.tokens, self.share, strict=True) if n < most]
        rest = 1 - sum(p for _, p in below)
        kept = [*below, (most, rest)] if rest > 1e-12 else below
        return Lengths(tuple(n for n, _ in kept), tuple(p for _, p in kept), self.source)

    def dropped(self, most: int) -> float:
        """Share of all tokens that truncation to `most` throws away."""
        return 1 - self.cut(most).mean / self.mean

    def longer(self, most: int) -> float:
        """Share of documents longer than `most`."""
        return sum(p for n, p in zip(self.tokens, self.share, strict=True) if n > most)

    def quantiles(self, count: int) -> list[int]:
        """`count` documents spread evenly over the distribution."""
        sums, total = [], 0.0
        for p in self.share:
            total += p
            sums.append(total)
        last = len(sums) - 1
        return [
            self.tokens[min(last, bisect.bisect_left(sums, (i + 0.5) / count * total))] for i in range(count)
        ]


def from_counts(pairs: Iterable[Sequence[float]], source: str) -> Lengths:
    """A histogram from (tokens, documents) pairs in any order.

    Raises ValueError if there is no document or a length is not positive.
    """
    counts: dict[int, float] = {}
    for tokens, documents in pairs:
        counts[int(tokens)] = counts.get(int(tokens), 0) + documents
    total = sum(counts.values())
    if total <= 0 or min(counts) <= 0:
        raise ValueError(f"{source}: a length histogram is a list of [tokens, documents], all positive")
    ordered = sorted(counts)
    return Lengths(tuple(ordered), tuple(counts[n] / total for n in ordered), source)


def read_lengths(path: str | Path) -> Lengths:
    """A measured histogram from a JSON file: [[tokens, documents], ...].

    Raises SettingsError if the file is not one.
    """
    try:
        return from_counts(json.loads(Path(path).read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, TypeError) as error:
        form = "a JSON list of [tokens, documents]"
        raise SettingsError([Problem("--lengths", str(path), found=str(error), allowed=form)]) from error


def log_normal(parts: Sequence[tuple[float, float]], spread: float, source: str) -> Lengths:
    """A mixture of log-normals, each (documents, mean tokens), all with the same `spread` (sigma of the log).

    It stands in where only means are published; a measured histogram replaces it.
    """
    pairs, normal = [], NormalDist()
    for documents, mean in parts:
        centre = math.log(mean) - spread**2 / 2
        points = [(i + 0.5) / 200 for i in range(200)]
        raw = [math.exp(centre + spread * normal.inv_cdf(p)) for p in points]
        scale = mean * len(raw) / sum(raw)  # the cut tails would otherwise lower the mean
        pairs += [(max(1, round(n * scale)), documents / len(raw)) for n in raw]
    return from_counts(pairs, source)


def padded_fill(lengths: Lengths, rows: int) -> float:
    """Share of slots that hold tokens when `rows` documents are padded to the longest of them.

    The expected longest of n independent draws is exact: sum over x of x (F(x)^n - F(x-)^n).
    """
    longest, below = 0.0, 0.0
    total = sum(lengths.share)
    cumulated = 0.0
    for tokens, share in zip(lengths.tokens, lengths.share, strict=True):
        cumulated += share / total
        now = min(1.0, cumulated) ** rows
        longest += tokens * (now - below)
        below = now
    return lengths.mean / longest


def packed_fill(lengths: Lengths, row: int) -> float:
    """Share of slots filled by best-fit decreasing into rows of `row` tokens, as TRL's `bfd` packs."""
    rooms: list[int] = []  # ascending free slots of open rows
    documents = sorted((min(n, row) for n in lengths.quantiles(SAMPLE)), reverse=True)
    rows = 0
    for n in documents:
        place = bisect.bisect_left(rooms, n)
        if place == len(rooms):
            rows += 1
            room = row - n
        else:
            room = rooms.pop(place) - n
        if room:
            bisect.insort(rooms, room)
    return sum(documents) / (rows * row)


@dataclass(frozen=True)
class Packing:
    """What packing is worth: fills are shares of slots that hold tokens, `gain` is their ratio."""

    padded: float
    packed: float
    gain: float
    bound: float
    dropped: float


def packing_gain(lengths: Lengths, row: int, rows: int, strategy: str = "bfd") -> Packing:
    """Padding against packing at the same row length and rows a batch.

    `bound` is 1 / padded fill: no way of packing can gain more. `dropped` is the share of tokens that is
    truncated away (0 for `wrapped` and `bfd_split`, which keep every token).
    """
    kept = lengths.cut(row)
    padded = padded_fill(kept, rows)
    packed = 1.0 if strategy in ("wrapped", "bfd_split") else packed_fill(kept, row)
    dropped = 0.0 if strategy in ("wrapped", "bfd_split") else lengths.dropped(row)
    return Packing(padded, packed, packed / padded, 1 / padded, dropped)
