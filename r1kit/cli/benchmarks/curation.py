"""What curation costs, and what it finds: copies and evaluation problems that were planted among traces.

Traces have the lengths of Mixture-of-Thoughts and words of real English, each trace another text, so that
what is planted is all there is to find. As in `data.py` here, rows are counted against processor time.
"""

from __future__ import annotations

import math
import random
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1kit.cli.benchmarks.data import BYTES, NAME, WHOLE, cpu_seconds, peak_megabytes, write_set
from r1kit.data import curation, synthetic_mirror
from r1kit.data.row_files import open_rows
from r1kit.settings.data import CurationSettings
from r1kit.settings.known_models import SPREAD

ROWS = 10_000
PLANTED = {"exact": 0.01, "near": 0.03, "decontamination": 0.01}
"""Share of rows that are a copy of one before, a copy with some other words, an evaluation problem's."""
CHANGED = 0.01
"""Share of words that are others in a near copy: of its 3-word shingles 94% are then the original's."""
EVALUATION_PROBLEMS = 500
LETTERS = 5.7
"""Characters a word and the space behind it, by which lengths in bytes become lengths in words."""


def bench(rows: int = ROWS, workers: int = 2) -> dict[str, Any]:
    """Make `rows` traces, curate them with every step that needs no measurement, and compare with the plan.

    Returns:
        rows, seconds, cpu_seconds, rows_per_core_second, peak_megabytes (upper bound: this process and all
        workers at their largest), steps (name -> planted, removed), whole_core_hours in proportion.
    """
    settings = CurationSettings(language={}, repetition={}, decontamination={})
    asked = [
        f"{synthetic_mirror.problem(random.Random(seed))[0]} Say why." for seed in range(EVALUATION_PROBLEMS)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder, planted = Path(scratch), dict.fromkeys(PLANTED, 0)
        write_set(folder / "traces.parquet", NAME, traces(rows, asked, planted))
        source = open_rows(folder / "traces.parquet")
        began, used = time.perf_counter(), cpu_seconds()
        report = curation.curate(source, settings, folder / "out", {"asked": asked}, workers)
        seconds, cpu = time.perf_counter() - began, cpu_seconds() - used
    return {
        "rows": rows,
        "workers": workers,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rows_per_core_second": rows / cpu,
        "peak_megabytes": peak_megabytes(workers),
        "steps": {
            step.step: {"planted": planted.get(step.step, 0), "removed": step.removed}
            for step in report.steps
        },
        "whole_core_hours": WHOLE / (rows / cpu) / 3600,
    }


def traces(
    rows: int, asked: Sequence[str], planted: dict[str, int], seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Rows of Mixture-of-Thoughts' schema; what is planted is counted in `planted`."""
    rng, vocabulary = random.Random(seed), english()
    centre = math.log(BYTES) - SPREAD**2 / 2
    question, original = "", []
    for number in range(rows):
        drawn = rng.random()
        kind = next((name for name, below in _bounds() if drawn < below), "") if number else ""
        if kind:
            planted[kind] += 1
        length = min(50_000, max(200, int(rng.lognormvariate(centre, SPREAD) / LETTERS)))
        problem, said = question, original
        if kind == "decontamination":
            problem, said = f"{rng.choice(asked)} ({number})", rng.choices(vocabulary, k=length)
        elif kind == "near":
            changed = [rng.choice(vocabulary) if rng.random() < CHANGED else word for word in original]
            said = ["Anew", *changed[1:]]
        elif not kind:
            problem = question = f"{' '.join(rng.choices(vocabulary, k=30))} {number}?"
            said = original = rng.choices(vocabulary, k=length)
        text = f"<think>\n{' '.join(said)}\n</think>\n\nIt is $\\boxed{{{len(said)}}}$."
        yield {"messages": synthetic_mirror.turns(problem, text), "num_tokens": len(said), "source": "bench"}


def english() -> list[str]:
    """The words of Python's own help, as often as they stand there."""
    from pydoc_data.topics import topics

    return re.findall(r"[A-Za-z]{2,}", " ".join(topics.values()))


def table(found: dict[str, Any]) -> str:
    """The figures as text."""
    steps = [
        f"  {name:<16} planted {step['planted']:>7,}   removed {step['removed']:>7,}"
        for name, step in found["steps"].items()
    ]
    return "\n".join(
        (
            f"{found['rows']:,} traces, {found['workers']} workers:",
            f"  {found['seconds']:.1f} s, of all processes {found['cpu_seconds']:.1f} s of processor time",
            f"  {found['rows_per_core_second']:,.0f} rows a second of one core",
            f"  {found['peak_megabytes']:,.0f} MB at most (this process and {found['workers']} workers)",
            *steps,
            f"all {WHOLE:,} rows, in proportion: {found['whole_core_hours']:.2f} core hours",
        )
    )


def _bounds() -> Iterator[tuple[str, float]]:
    below = 0.0
    for name, share in PLANTED.items():
        below += share
        yield name, below
