"""What a terminal shows while `r1kit run` executes notebooks: `02_sft  step 40/250  loss 1.23  left 1:10`.

A thread reads the stage's metrics files; nothing is asked of the notebooks. On a terminal one line is
rewritten (rich); elsewhere (a pipe, CI) whole lines are printed, at most one in five seconds.

The tables of `r1kit run` and `r1kit status`: pass@1 per checkpoint and level, seconds per stage, path.

Drawn from summary.json alone; loads neither pandas nor torch.
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

SHOWN = {  # metric -> how it reads, the first of each line's two shown
    "loss": "loss {:.3f}",
    "reward": "reward {:.3f}",
    "rewards/accuracy_reward/mean": "accuracy {:.3f}",
    "heldout/pass@1": "held-out {:.3f}",
    "tokens_per_second": "{:,.0f} tokens/s",
}
QUIET_SECONDS = 30.0  # a stage that logs nothing says at least this often that it is alive


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:03:09."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe(row: Mapping[str, Any]) -> str:
    """A row of metrics.jsonl in one line: step, loss or reward (GRPO's loss says nothing), time left."""
    parts = [f"step {row.get('step', '?')}/{row.get('total_steps', '?')}"]
    hidden = {"loss"} if "reward" in row else set()
    for name, form in SHOWN.items():
        if name not in hidden and isinstance(row.get(name), (int, float)):
            parts.append(form.format(row[name]))
    if row.get("seconds_left"):
        parts.append(f"left {clock(row['seconds_left'])}")
    return "  ".join(parts)


def newest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last row, with what only some rows hold (a reward, where a generation serves several steps)."""
    merged: dict[str, Any] = {}
    for row in rows[-20:]:
        merged.update(row)
    return merged


class Progress:
    """Told by the pipeline which stage starts and ends (its Reporter protocol), prints what the stage's
    files say.

    Args:
        out: where to print; sys.stdout as it is at that moment if left out.
        interval: least seconds between two plain lines of a stage; its last step is always printed.
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
        """Follow the stage from here on; what its files already hold (a resumed run) is not repeated."""
        self.close()
        self._say(f"{name}  {note}" if note else name)
        self._started = time.monotonic()
        self._stop = threading.Event()
        followers: dict[Path, jsonl.Follower] = {}
        self._look(Path(folder), followers)
        if self.live:
            self._status = self._rich().status(name)
            self._status.start()
        self._thread = threading.Thread(
            target=self._follow,
            args=(name, Path(folder), followers, self._stop),
            name="progress",
            daemon=True,
        )
        self._thread.start()

    def stage_skipped(self, name: str, folder: str | Path) -> None:
        """The stage was done before."""
        self._say(f"{name}  skipped: done before, inputs unchanged")

    def stage_ended(self, name: str, folder: str | Path, error: str = "") -> None:
        """Stop following and say how it ended."""
        self.close()
        took = clock(time.monotonic() - self._started)
        first = error.strip().splitlines()[0] if error.strip() else ""
        self._say(f"{name}  FAILED after {took}: {first}" if first else f"{name}  done in {took}")

    def close(self) -> None:
        """End the thread and the live line, if any."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._status is not None:
            self._status.stop()
        self._thread = self._status = None

    def _follow(self, name: str, folder: Path, followers: dict, stop: threading.Event) -> None:
        shown, said, pending, message = time.monotonic(), "", "", ""
        first = True
        while True:
            ending = stop.wait(self.tick)
            now = time.monotonic()
            last = False
            for job, row in self._look(folder, followers):
                pending = f"{name if job == folder else f'{name}/{job.name}'}  {describe(row)}"
                last = last or row.get("step") == row.get("total_steps")
            state = status.read(folder)
            news = str(state.get("message") or "") if state.get("state") == "running" else ""
            if news and news != message:  # what a failed stage says is for `stage_ended`
                message, pending = news, pending or f"{name}  {news}"
            due = first or now - shown >= self.interval or last
            if not pending and now - shown >= QUIET_SECONDS:
                pending, due = f"{name}  running for {clock(now - self._started)}  {message}".rstrip(), True
            if pending and (due or ending or self.live):
                if pending != said:
                    self._show(pending)
                shown, said, pending, first = now, pending, "", False
            if ending:
                return

    def _look(self, folder: Path, followers: dict[Path, jsonl.Follower]) -> list[tuple[Path, dict[str, Any]]]:
        """(job folder, newest row) of every metrics file of the stage that has grown."""
        grown = []
        for path in sorted([*folder.glob("metrics.jsonl"), *folder.glob("*/metrics.jsonl")]):
            if path.parent.name.startswith("stale-"):
                continue
            follower = followers.setdefault(path, jsonl.Follower(path))
            if follower.poll():
                grown.append((path.parent, newest(follower.rows)))
        return grown

    def _show(self, line: str) -> None:
        if self._status is not None:
            self._status.update(self._escaped(line))
        else:
            self._say(line)

    def _say(self, line: str) -> None:
        if self._status is not None:
            self._rich().print(self._escaped(line))
        else:
            print(line, file=self.out, flush=True)

    def _rich(self):
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self.out, highlight=False, force_terminal=self.live)
        return self._console

    @staticmethod
    def _escaped(line: str) -> str:
        from rich.markup import escape

        return escape(line)


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
