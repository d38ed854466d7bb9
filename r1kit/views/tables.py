"""The tables of `r1kit run` and `r1kit status`: pass@1 per checkpoint and level, seconds per stage, path.

Drawn from summary.json alone; loads neither pandas nor torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from r1kit.views.progress import clock

_LEVEL_METRIC = re.compile(r"pass@1/(?P<checkpoint>[^/]+)/level_(?P<level>[^/]+)(?:/(?P<end>low|high))?")

Cells = list[list[str]]


def print_summary(summary: Mapping[str, Any], path: str | Path, out: TextIO | None = None) -> None:
    """Print a run's tables: with rich on a terminal, in plain aligned text elsewhere."""
    out = out or sys.stdout
    scores, stages = score_cells(summary), stage_cells(summary)
    titles = ("pass@1 on held-out problems, sampled, with 95% intervals", "stages")
    if out.isatty():
        _print_rich(list(zip(titles, (scores, stages), strict=True)), out)
    else:
        for title, cells in zip(titles, (scores, stages), strict=True):
            if len(cells) > 1:
                print(f"\n{title}\n{plain_table(cells)}", file=out)
    print(f"\n{summary['status']} in {clock(summary['seconds'])}: {path}", file=out, flush=True)


def score_cells(summary: Mapping[str, Any]) -> Cells:
    """Header and one line per checkpoint: its levels, then the headline (the mean over the chosen levels).

    Levels come from the stages' metrics `pass@1/<checkpoint>/level_<level>`, with `/low` and `/high`.
    """
    scores = summary.get("pass@1") or {}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for stage in (summary.get("stages") or {}).values():
        for name, value in (stage.get("metrics") or {}).items():
            if match := _LEVEL_METRIC.fullmatch(name):
                found.setdefault((match["checkpoint"], match["level"]), {})[match["end"] or "value"] = value
    names = sorted({level for _, level in found}, key=lambda level: (not level.isdigit(), level))
    levels = [n for n in names if n.isdigit() or n.isidentifier()]  # levels, or benchmarks by name
    ranges = [n for n in names if n not in levels]
    headline = f"mean of {ranges[0]}" if len(ranges) == 1 else "mean"
    cells = [
        [
            "checkpoint",
            *(f"level {level}" if level.isdigit() else level for level in levels),
            headline,
            "problems x samples",
        ]
    ]
    for name, entry in scores.items():
        each = [_interval(found.get((name, level))) for level in levels]
        asked = f"{entry['problems']} x {entry['samples'] / max(entry['problems'], 1):g}"
        cells.append([name, *each, _interval(entry), asked])
    return cells


def stage_cells(summary: Mapping[str, Any]) -> Cells:
    """Header, one line per stage, and their sum."""
    cells = [["stage", "status", "seconds", "peak memory"]]
    stages = summary.get("stages") or {}
    for name, stage in stages.items():
        memory = stage.get("peak_rss_bytes") or 0
        cells.append(
            [name, stage["status"], f"{stage['seconds']:.1f}", f"{memory / 2**30:.2f} GiB" if memory else ""]
        )
    if stages:
        cells.append(["all", summary["status"], f"{summary['seconds']:.1f}", ""])
    return cells


def plain_table(cells: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _interval(entry: Mapping[str, float] | None) -> str:
    if not entry or entry.get("value") is None:
        return ""
    ends = (entry.get("low"), entry.get("high"))
    interval = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if None not in ends else ""
    return f"{entry['value']:.2f}{interval}"


def _print_rich(tables: list[tuple[str, Cells]], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out)
    for title, cells in tables:
        if len(cells) == 1:
            continue
        table = Table(title=title, title_justify="left")
        for i, name in enumerate(cells[0]):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in cells[1:]:
            table.add_row(*(Text(cell) for cell in row))  # Text: "[0.1, 0.2]" is no markup
        console.print(table)
