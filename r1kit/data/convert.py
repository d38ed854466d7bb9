"""A batch of somebody else's rows as a batch of ours: what a worker of `prepare` does.

What is held out follows from a hash of the problem's words and the seed, as in the embedded world: however
many datasets hold a problem, it is on one side in all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r1kit.data.sources.registry import Entry, reader_of
from r1kit.data.sources.schema import TURNS, arrow_schema
from r1kit.data.texts import words
from r1kit.data.tokens import TokenCounter
from r1kit.settings.hub_data import HubPrompts

if TYPE_CHECKING:
    import pyarrow as pa

COPIES, MEASURE = "r1kit_copies", "r1kit_measure"
"""Columns that go to the workers beside the dataset's: how often a row is taken, and whether its tokens are
counted."""
SETS = {
    "traces": {
        "messages": TURNS, "problem": "string", "solution": "string", "verified": "bool", "source": "string",
    },
    "prompts": {
        "prompt": TURNS, "problem": "string", "solution": "string", "verification_info": "string",
        "source": "string",
    },
    "heldout": {"problem": "string", "solution": "string", "verification_info": "string", "level": "int64",
                "source": "string"},
}  # fmt: skip
"""Columns of the prepared sets. `level` is 0: real problems have none, and the lessons' tables read it."""
HELD_OUT = "held out"
SHOWN = 160
"""Characters of a row left out that the card shows."""


@dataclass
class Tally:
    """What became of rows, additive over batches; `lengths` are tokens of rows whose tokens were counted."""

    rows: int = 0
    written: int = 0
    heldout: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take another batch's counts in; the first example of each reason stays."""
        self.rows += other.rows
        self.written += other.written
        self.heldout += other.heldout
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        self.examples = other.examples | self.examples
        self.lengths += other.lengths


@dataclass(frozen=True)
class Conversion:
    """Everything that decides what becomes of a row of one dataset; called with the rows of a batch.

    Attributes:
        name: the dataset's name, for the column `source`.
        columns: those of the dataset.
        rates: measured pass rates by `rate_key`, in place of the dataset's own column `rate_column`.
    """

    entry: Entry
    name: str
    columns: tuple[str, ...]
    tokens: TokenCounter
    seed: int
    heldout_share: float
    max_prompt_length: int
    rates: Mapping[str, float] | None = None
    rate_column: str = ""

    def __call__(self, rows: list[dict[str, Any]]) -> tuple[pa.RecordBatch, pa.RecordBatch, Tally]:
        """(rows of ours, held-out rows, what became of them all)."""
        import pyarrow as pa

        read = reader_of(self.entry, self.columns)
        kept: list[dict[str, Any]] = []
        reserved: list[dict[str, Any]] = []
        tally = Tally()
        prompts = isinstance(self.entry, HubPrompts)
        for row in rows:
            tally.rows += row[COPIES]
            for found in read(row):
                reason = found.reason or self._refused(row, found.row)
                if reason == HELD_OUT:
                    tally.heldout += row[COPIES]
                    reserved += [found.row | {"level": 0, "source": self.name}] if prompts else []
                elif reason:
                    tally.dropped[reason] = tally.dropped.get(reason, 0) + row[COPIES]
                    tally.examples.setdefault(reason, _shown(row))
                else:
                    if row[MEASURE]:
                        tally.lengths.append(self._length(found.row))
                    tally.written += row[COPIES]
                    kept += [found.row | {"source": self.name}] * row[COPIES]
        own = arrow_schema(SETS["prompts" if prompts else "traces"])
        return (
            pa.RecordBatch.from_pylist([_only(own, row) for row in kept], schema=own),
            pa.RecordBatch.from_pylist(reserved, schema=arrow_schema(SETS["heldout"])),
            tally,
        )

    def _refused(self, row: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
        prompts = isinstance(self.entry, HubPrompts)
        if prompts and self._length(ours) > self.max_prompt_length:
            return "prompt longer than max_prompt_length"
        if is_heldout(problem_key(ours["problem"]), self.seed, self.heldout_share):
            return HELD_OUT
        if prompts and self.entry.pass_rate and (self.rates is not None or self.rate_column):
            rate = (
                self.rates.get(rate_key(ours["problem"]))
                if self.rates is not None
                else row.get(self.rate_column)
            )
            least, most = self.entry.pass_rate
            if rate is None:
                return "no pass rate"
            if not least <= rate <= most:
                return "pass rate outside the band"
        return ""

    def _length(self, ours: Mapping[str, Any]) -> int:
        if isinstance(self.entry, HubPrompts):
            return self.tokens.asked(ours["prompt"][-1]["content"])
        return self.tokens.told(ours["messages"])


def problem_key(text: str) -> str:
    """32 hex digits over a problem's words: case, spaces, punctuation and LaTeX's typography don't count."""
    return hashlib.sha256(" ".join(words(text)).encode()).hexdigest()[:32]


def rate_key(text: str) -> str:
    """A problem's text with single spaces: 2 + 3 and 2 - 3 are one to `problem_key`, not to a pass rate."""
    return " ".join(text.split())


def is_heldout(key: str, seed: int, share: float) -> bool:
    """Whether the problem with this key is held out; a share of all keys is, each seed's its own."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _only(schema: pa.Schema, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in schema.names}


def _shown(row: Mapping[str, Any]) -> str:
    texts = [str(value) for name, value in row.items() if name not in (COPIES, MEASURE) and value]
    return (texts[0] if texts else "")[:SHOWN]
