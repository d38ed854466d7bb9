"""What curation removed: every row with its reason, and for each step the counts and a few examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

EXAMPLES = 3
"""Removed rows that the report shows of each step."""


@dataclass
class Removal:
    """A row that a step removed. `row` counts from 0 in the set as it was read."""

    row: int
    step: str
    reason: str
    """`refused by the verifier`; what comes after a colon is about this row alone."""
    twin: int | None = None
    """The row that stays for this duplicate."""
    similarity: float | None = None
    text: str = ""
    """The beginning of its problem."""


@dataclass
class StepReport:
    """What one step did: rows it looked at, rows it removed, by reason, and the first of them."""

    step: str
    rows: int
    removed: int
    reasons: dict[str, int]
    examples: list[Removal]


@dataclass
class Report:
    """What curation did to a set."""

    source: str
    rows: int
    kept: int
    seconds: float
    steps: list[StepReport]
    settings: dict[str, Any]
    evaluation_sets: dict[str, int] = field(default_factory=dict)
    """Problems of each set that rows were compared with."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON's own types."""
        return asdict(self)


def step_reports(rows: int, steps: Sequence[str], removals: Sequence[Removal]) -> list[StepReport]:
    """One report for each of `steps`, which ran in this order over `rows` rows."""
    reports = []
    for step in steps:
        own = [removal for removal in removals if removal.step == step]
        reasons = Counter(removal.reason.partition(":")[0] for removal in own)
        reports.append(StepReport(step, rows, len(own), dict(reasons.most_common()), own[:EXAMPLES]))
        rows -= len(own)
    return reports
