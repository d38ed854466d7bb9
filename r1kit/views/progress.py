"""What `r1kit run` and `r1kit status` print: progress while stages run, tables at the end.

Progress: a thread reads the running stage's metrics files and prints lines such as
`02_sft  step 40/250  loss 1.23  left 1:10`; notebooks need not cooperate. On a terminal rich rewrites
one line; elsewhere (a pipe, CI) whole lines are printed, at most one every five seconds.

Tables: pass@1 per checkpoint and level, seconds per stage, and the run's path, from summary.json alone.

Loads neither pandas nor torch.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from r1kit.runs import jsonl, status

METRIC_FORMATS = {
    "loss": "loss {:.3f}",
    "reward": "reward {:.3f}",
    "rewards/accuracy_reward/mean": "accuracy {:.3f}",
    "heldout/pass@1": "held-out {:.3f}",
    "tokens_per_second": "{:,.0f} tokens/s",
}
QUIET_SECONDS = 30.0  # a stage that logs nothing prints at least this often that it is running


def clock(seconds: float) -> str:
    """Format seconds as 1:05 or 2:03:09."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe(row: Mapping[str, Any]) -> str:
    """Format a row of metrics.jsonl: step, loss (of GRPO the reward instead), other metrics, time left."""
    parts = [f"step {row.get('step', '?')}/{row.get('total_steps', '?')}"]
    for name, form in METRIC_FORMATS.items():
        hidden = name == "loss" and "reward" in row  # GRPO's loss is uninformative
        if not hidden and isinstance(row.get(name), (int, float)):
            parts.append(form.format(row[name]))
    if row.get("seconds_left"):
        parts.append(f"left {clock(row['seconds_left'])}")
    return "  ".join(parts)


def newest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the last row, and the metrics that only earlier rows hold (a generation may serve several)."""
    merged: dict[str, Any] = {}
    for row in rows[-20:]:
        merged.update(row)
    return merged


class Progress:
    """The pipeline's Reporter for a terminal: prints what the files of the running stage hold.

    Args:
        out: where to print; by default sys.stdout as it is at that moment.
        interval: minimum seconds between two plain lines of a stage; its last step is always printed.
        live: rewrite one line; by default if `out` is a terminal.
        tick: seconds between two looks at the files.
    """

    def __init__(
        self, out: TextIO | None = None, *, interval: float = 5.0, live: bool | None = None, tick: float = 0.5
    ) -> None:
        self.out = out or sys.stdout
        self.interval, self.tick = interval, tick
        self.live = self.out.isatty() if live is None else live
        self._console = self._status = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def stage_started(self, name: str, folder: str | Path, note: str = "") -> None:
        """Follow the stage from now on; rows that its files already hold (a resumed run) are not repeated."""
        self.close()
        self._print(f"{name}  {note}" if note else name)
        self._started = time.monotonic()
        self._stop = threading.Event()
        followers: dict[Path, jsonl.Follower] = {}
        self._grown(Path(folder), followers)
        if self.live:
            self._status = self._rich().status(name)
            self._status.start()
        arguments = (name, Path(folder), followers, self._stop)
        self._thread = threading.Thread(target=self._follow, args=arguments, name="progress", daemon=True)
        self._thread.start()

    def stage_skipped(self, name: str, folder: str | Path) -> None:
        """Print that the stage was completed before."""
        self._print(f"{name}  skipped: done before, inputs unchanged")

    def stage_ended(self, name: str, folder: str | Path, error: str = "") -> None:
        """Stop following; print how long the stage took, or the first line of its error."""
        self.close()
        took = clock(time.monotonic() - self._started)
        first = error.strip().partition("\n")[0]
        self._print(f"{name}  FAILED after {took}: {first}" if first else f"{name}  done in {took}")

    def close(self) -> None:
        """End the thread and the live line, if any."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._status is not None:
            self._status.stop()
        self._thread = self._status = None

    def _follow(self, name: str, folder: Path, followers: dict, stop: threading.Event) -> None:
        shown, last_line, pending, message = time.monotonic(), "", "", ""
        first = True
        while True:
            ending = stop.wait(self.tick)
            now = time.monotonic()
            due = first or now - shown >= self.interval
            for job, row in self._grown(folder, followers):
                pending = f"{name if job == folder else f'{name}/{job.name}'}  {describe(row)}"
                due = due or row.get("step") == row.get("total_steps")
            state = status.read(folder)
            current = str(state.get("message") or "") if state.get("state") == "running" else ""
            if current and current != message:  # `stage_ended` prints the message of a failed stage
                message, pending = current, pending or f"{name}  {current}"
            if not pending and now - shown >= QUIET_SECONDS:
                pending, due = f"{name}  running for {clock(now - self._started)}  {message}".rstrip(), True
            if pending and (due or ending or self.live):
                if pending != last_line:
                    self._show(pending)
                shown, last_line, pending, first = now, pending, "", False
            if ending:
                return

    def _grown(self, folder: Path, followers: dict[Path, jsonl.Follower]) -> list[tuple[Path, dict]]:
        """Return (job folder, newest row) of every metrics file of the stage that has grown."""
        grown = []
        for path in sorted([*folder.glob("metrics.jsonl"), *folder.glob("*/metrics.jsonl")]):
            if path.parent.name.startswith("stale-"):
                continue
            follower = followers.setdefault(path, jsonl.Follower(path))
            if follower.poll():
                grown.append((path.parent, newest(follower.rows)))
        return grown

    def _show(self, line: str) -> None:
        if self._status is None:
            self._print(line)
        else:
            from rich.text import Text

            self._status.update(Text(line))

    def _print(self, line: str) -> None:
        if self._status is None:
            print(line, file=self.out, flush=True)
        else:
            from rich.text import Text

            self._rich().print(Text(line))

    def _rich(self):
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self.out, highlight=False, force_terminal=self.live)
        return self._console


# The tables at the end

Cells = list[list[str]]
LEVEL_METRIC = re.compile(r"pass@1/(?P<checkpoint>[^/]+)/level_(?P<level>[^/]+)(?:/(?P<end>low|high))?")


def print_summary(summary: Mapping[str, Any], path: str | Path, out: TextIO | None = None) -> None:
    """Print a run's tables: with rich on a terminal, in plain aligned text elsewhere."""
    out = out or sys.stdout
    for title, cells in (
        ("pass@1 on held-out problems, sampled, with 95% intervals", score_cells(summary)),
        ("stages", stage_cells(summary)),
    ):
        if len(cells) == 1:
            continue
        if out.isatty():
            _print_rich(title, cells, out)
        else:
            print(f"\n{title}\n{plain_table(cells)}", file=out)
    print(f"\n{summary['status']} in {clock(summary['seconds'])}: {path}", file=out, flush=True)


def score_cells(summary: Mapping[str, Any]) -> Cells:
    """Return a header and one line per checkpoint: its levels, then the mean over the headline levels.

    Levels come from the stages' metrics `pass@1/<checkpoint>/level_<level>`, with `/low` and `/high`.
    """
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for stage in (summary.get("stages") or {}).values():
        for name, value in (stage.get("metrics") or {}).items():
            if match := LEVEL_METRIC.fullmatch(name):
                key = match["checkpoint"], match["level"]
                scores.setdefault(key, {})[match["end"] or "value"] = value
    names = sorted({level for _, level in scores}, key=lambda level: (not level.isdigit(), level))
    levels = [name for name in names if name.isdigit() or name.isidentifier()]  # or benchmarks by name
    ranges = [name for name in names if name not in levels]
    heads = [f"level {level}" if level.isdigit() else level for level in levels]
    mean = f"mean of {ranges[0]}" if len(ranges) == 1 else "mean"
    cells = [["checkpoint", *heads, mean, "problems x samples"]]
    for name, entry in (summary.get("pass@1") or {}).items():
        each = [_interval(scores.get((name, level))) for level in levels]
        count = f"{entry['problems']} x {entry['samples'] / max(entry['problems'], 1):g}"
        cells.append([name, *each, _interval(entry), count])
    return cells


def _interval(entry: Mapping[str, float] | None) -> str:
    if not entry or entry.get("value") is None:
        return ""
    low, high = entry.get("low"), entry.get("high")
    interval = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    return f"{entry['value']:.2f}{interval}"


def stage_cells(summary: Mapping[str, Any]) -> Cells:
    """Return a header, one line per stage, and their sum."""
    cells = [["stage", "status", "seconds", "peak memory"]]
    stages = summary.get("stages") or {}
    for name, stage in stages.items():
        memory = stage.get("peak_rss_bytes") or 0
        peak = f"{memory / 2**30:.2f} GiB" if memory else ""
        cells.append([name, stage["status"], f"{stage['seconds']:.1f}", peak])
    if stages:
        cells.append(["all", summary["status"], f"{summary['seconds']:.1f}", ""])
    return cells


def plain_table(cells: Cells) -> str:
    """Pad columns to their widest cell: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    ]
    head, *lines = map("  ".join, rows)
    return "\n".join([head, "-" * len(head), *lines])


def _print_rich(title: str, cells: Cells, out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in cells[1:]:
        table.add_row(*(Text(cell) for cell in row))  # rich would take "[0.1, 0.2]" for markup
    Console(file=out).print(table)
