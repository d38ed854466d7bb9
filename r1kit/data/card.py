"""The data card: what a prepared set contains, its sources, what was left out, and how long its traces are.

`card.json` holds only facts about the data, so preparing the same data gives the same file. What a training
would make of the data (truncation, epochs, hours) depends on a profile's other files and is calculated when
`render` shows the card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from r1kit.settings.known_models import Lengths, from_counts

CARD, TEXT = "card.json", "card.md"
BINS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
BAR = 24  # characters of the longest bar of a histogram


@dataclass(frozen=True)
class SourceCard:
    """One dataset of a set.

    Attributes:
        pinned: True if the next preparation reads the same rows.
        rows: rows of the dataset, None if a stream does not state them.
        drawn: rows taken by weight and cap.
        written: rows of the set; a row with several right traces gives several.
        dropped: reason -> number of drawn rows; `examples` has the beginning of the first row of each.
        lengths: tokens of the measured rows, ascending.
    """

    set: str
    name: str
    place: str
    revision: str | None
    pinned: bool
    rows: int | None
    drawn: int
    written: int
    heldout: int
    dropped: dict[str, int]
    examples: dict[str, str]
    lengths: list[int]
    notes: list[str]


@dataclass(frozen=True)
class Card:
    """Facts about a prepared set.

    Attributes:
        sets: name -> number of rows.
        counted: True if tokens were counted; otherwise `why` gives the reason for estimating them.
    """

    digest: str
    sets: dict[str, int]
    sources: list[SourceCard]
    tokenizer: str
    counted: bool
    why: str
    seed: int
    heldout_share: float
    planned_prompts: int
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Card:
        """Make the card from the content of a `card.json`."""
        return cls(**{**content, "sources": [SourceCard(**source) for source in content["sources"]]})

    def of_set(self, name: str) -> list[SourceCard]:
        """Return the datasets of a set."""
        return [source for source in self.sources if source.set == name]

    def lengths(self, name: str = "traces") -> dict[str, list[int]]:
        """Return the measured tokens of each dataset of a set, for a figure."""
        return {source.name: source.lengths for source in self.of_set(name)}

    def trace_lengths(self) -> Lengths | None:
        """Return the histogram of all traces, weighted by the rows of each dataset; None without traces."""
        pairs = [
            (tokens, source.written / len(source.lengths))
            for source in self.of_set("traces")
            for tokens in source.lengths
        ]
        how = f"counted by {self.tokenizer}" if self.counted else "estimated from bytes"
        return from_counts(pairs, f"the prepared traces, {how}") if pairs else None


def longer(lengths: Sequence[int], most: int) -> float:
    """Return the share of documents with more than `most` tokens."""
    return sum(n > most for n in lengths) / len(lengths) if lengths else 0.0


def histogram(lengths: Sequence[int], bins: Sequence[int] = BINS) -> list[tuple[str, float]]:
    """Return (range, share of documents) up to the first bound, between bounds, and above the last."""
    edges = [0, *bins, max([*lengths, bins[-1]]) + 1]
    names = [f"up to {bins[0]:,}", *(f"to {bound:,}" for bound in bins[1:]), f"over {bins[-1]:,}"]
    counts = [sum(low < n <= high for n in lengths) for low, high in pairwise(edges)]
    return [(name, count / max(1, len(lengths))) for name, count in zip(names, counts, strict=True)]


def render(card: Card, max_length: int | None = None, training: Mapping[str, Any] | None = None) -> str:
    """Write the card as Markdown.

    Args:
        max_length: tokens at which SFT truncates a trace; None if it does not.
        training: the plan of the SFT by name (`r1kit.pipeline.data.estimate`).
    """
    sets = ", ".join(f"{rows:,} {name}" for name, rows in card.sets.items())
    lines = [f"# Data card {card.digest}", "", sets, ""]
    if card.sets["prompts"] != card.planned_prompts:
        lines += [f"data.yaml plans with {card.planned_prompts:,} prompts.", ""]
    how = (
        f"tokens counted by {card.tokenizer}" if card.counted else f"tokens ESTIMATED from bytes ({card.why})"
    )
    lines += [f"seed {card.seed}, {card.heldout_share:.1%} of the problems held out, {how}", ""]
    for source in card.sources:
        lines += [*_source(source, max_length), ""]
    if training:
        lines += ["## SFT, planned", "", *(f"- {name}: {value}" for name, value in training.items()), ""]
    return "\n".join(lines)


def _source(source: SourceCard, max_length: int | None) -> list[str]:
    rows = f"{source.rows:,} rows" if source.rows is not None else "a stream"
    commit = f" at {source.revision}" if source.revision else ""
    lines = [f"## {source.name} ({source.set})", "", f"- from: {source.place}{commit}, {rows}"]
    if not source.pinned:
        pin = f"`revision: {source.revision}`" if source.revision else "a `revision:`"
        lines.append(f"- **not pinned**: {pin} in data.yaml keeps these rows")
    lines.append(f"- drawn {source.drawn:,}, written {source.written:,}, held out {source.heldout:,}")
    for reason, count in source.dropped.items():
        example = " ".join(source.examples.get(reason, "").split())
        lines.append(f"- left out, {reason}: {count:,}, the first: {example[:100]}")
    lines += [f"- note: {note}" for note in source.notes]
    if source.lengths:
        lengths, rows = source.lengths, len(source.lengths)
        lines.append(
            f"- tokens of {rows:,} rows: mean {sum(lengths) / rows:,.0f}, median {lengths[rows // 2]:,}, "
            f"longest {lengths[-1]:,}"
        )
        if source.set == "traces":
            if max_length:
                lines.append(f"- longer than max_length ({max_length:,}): {longer(lengths, max_length):.1%}")
            lines += ["", "```", *_bars(lengths), "```"]
    return lines


def _bars(lengths: Sequence[int]) -> list[str]:
    shares = histogram(lengths)
    tallest = max(share for _, share in shares)
    return [
        f"{name:>14} {share:6.1%} {'#' * round(BAR * share / tallest)}".rstrip() for name, share in shares
    ]
