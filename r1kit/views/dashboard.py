"""`await watch(job)`: a training's live view in a notebook, and a static copy that stays in the saved file.

Live are a status line, a progress bar, a plot and a Stop button (ipywidgets). The mirror beside them is plain
HTML output, rewritten every half minute and at the end, because viewers that do not run widgets (GitHub,
nbconvert, an untrusted notebook) would show nothing else.

The cell must `await`: while a cell blocks, the kernel receives no message, and Stop has no effect.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from r1kit.runs import jsonl
from r1kit.views.progress import clock, describe, newest

TICK = 0.5  # seconds: at most two plots a second
DRAWING_SHARE = 0.1  # drawing rests ten times as long as it took: the training needs the cores
MIRROR_SECONDS = 30.0

Draw = Callable[[Sequence[Mapping[str, Any]]], Any]


async def watch(job: Any, *, draw: Draw | None = None, title: str = "", beside: Any = None) -> None:
    """Show a job until it ends. Return nothing, so that a cell may end with the call.

    Args:
        job: the return value of `r1kit.runs.launch.launch`, or a job's folder; a job that is watched by its
            folder keeps running when the watching ends.
        draw: rows -> Figure; by default the reward panel if there are rewards, else the loss.
        title: shown before the status; the folder's name if left out.
        beside: a server that runs beside the training; its `line()` is added to the status.

    Raises:
        JobFailed: the job failed, or Stop ended it; the end of its log is shown first.
        CancelledError, KeyboardInterrupt: passed on, after stopping the job unless it was started detached.
    """
    if isinstance(job, (str, Path)):
        from r1kit.runs.launch import attach

        job = attach(job)
    view = _View(title or Path(job.folder).name, draw or default_figure)
    follower = jsonl.Follower(Path(job.folder) / "metrics.jsonl")
    stopping: list[asyncio.Task] = []

    def stop(_: Any = None) -> None:
        if not stopping:  # job.stop() waits for the end of the tree: in a thread, to keep the view alive
            view.say("stopping: the training writes a checkpoint first")
            view.freeze_button()
            stopping.append(asyncio.ensure_future(asyncio.to_thread(job.stop)))

    view.show(stop)
    try:
        while True:
            ended = job.poll() is not None
            fresh = follower.poll()
            if fresh and not stopping:
                view.say("  ".join(filter(None, (describe(newest(follower.rows)), beside and beside.line()))))
            await view.redraw(follower.rows, force=ended)
            if ended:
                break
            await asyncio.sleep(TICK)
        if stopping:
            await asyncio.wait(stopping)
        await job.finished()
    except BaseException as error:
        interrupted = isinstance(error, (asyncio.CancelledError, KeyboardInterrupt))
        if job.poll() is None and getattr(job, "detached", False):
            view.end("no longer watched; the job continues")
        else:
            if job.poll() is None:  # without a view there would be no Stop button
                view.say("stopping the training")
                await asyncio.to_thread(job.stop)
            if interrupted:  # the loop has not seen the end of the file
                follower.poll()
                await view.redraw(follower.rows, force=True)
            failure = f"failed: {getattr(error, 'message', None) or error or type(error).__name__}"
            said = "stopped by you" if stopping else "interrupted" if interrupted else failure
            view.end(said, log=job.log_tail(15))
        raise
    seconds = f" in {clock(follower.rows[-1].get('seconds') or 0)}" if follower.rows else ""
    view.end(f"completed{seconds}" + (f": {describe(newest(follower.rows))}" if follower.rows else ""))


def default_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the reward panel if the rows have rewards, else the loss curve."""
    from r1kit.views.figures import loss_curve, training_panel

    return training_panel(rows) if any("reward" in row for row in rows) else loss_curve(rows)


class _View:
    """The widgets and the mirror, independent of jobs."""

    def __init__(self, title: str, draw: Draw) -> None:
        import ipywidgets as widgets
        from IPython.display import HTML

        self._html, self._title, self._draw = HTML, title, draw
        self.status = widgets.HTML()
        self.status.add_class("r1-status")
        self.bar = widgets.IntProgress(min=0, max=1, layout=widgets.Layout(width="60%"))
        self.button = widgets.Button(
            description="Stop", icon="stop", tooltip="End the training; it saves first"
        )
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", display="none"))
        self.box = widgets.VBox([self.status, widgets.HBox([self.bar, self.button]), self.image])
        self.box.add_class("r1-dash")
        self._text, self._alt, self._drawn = "starting", "", 0
        self._mirrored, self._next_drawing = time.monotonic(), 0.0
        self._handle = None

    def show(self, stop: Callable) -> None:
        from IPython.display import display

        self.button.on_click(stop)
        self.say("starting")
        display(self.box)
        self._handle = display(self._html(self._mirror()), display_id=True)

    def say(self, text: str) -> None:
        self._text = text
        self.status.value = self._line()

    def freeze_button(self) -> None:
        self.button.disabled = True

    async def redraw(self, rows: Sequence[Mapping[str, Any]], *, force: bool = False) -> None:
        """Update the bar, the plot (with new rows, within its share of the time) and the mirror if due."""
        now = time.monotonic()
        if rows:
            self.bar.max = max(int(rows[-1].get("total_steps") or 1), 1)
            self.bar.value = min(int(rows[-1].get("step") or 0), self.bar.max)
        if len(rows) != self._drawn and (force or now >= self._next_drawing):
            try:
                self.image.value, self._alt = await asyncio.to_thread(self._painted, list(rows))
                self.image.layout.display = None
            except Exception as error:  # a failed plot must not end the training
                self._alt = f"no plot: {type(error).__name__}: {error}"
            self._drawn = len(rows)
            self._next_drawing = time.monotonic() + (time.monotonic() - now) / DRAWING_SHARE
        if now - self._mirrored >= MIRROR_SECONDS and self._handle is not None and not force:
            self._handle.update(self._html(self._mirror()))
            self._mirrored = now

    def end(self, text: str, *, log: str = "") -> None:
        """Replace the widgets by the opened mirror with the final plot."""
        self.say(text)
        for part in self.status, self.bar, self.button, self.image:
            part.layout.display = "none"
        if self._handle is not None:
            self._handle.update(self._html(self._mirror(open_=True, log=log)))

    def _painted(self, rows: list) -> tuple[bytes, str]:
        from r1kit.views.figures import figure_alt, png

        figure = self._draw(rows)
        return png(figure), figure_alt(figure)

    def _line(self) -> str:
        text = escape(self._text).replace("  ", " &nbsp; ")  # HTML would run the parts together
        return f"<b>{escape(self._title)}</b> &nbsp; {text}"

    def _mirror(self, *, open_: bool = False, log: str = "") -> str:
        """Return the mirror's HTML: folded and with its time while the widgets show, since it is older."""
        image = f"<p>{escape(self._alt)}</p>"
        if self.image.value:
            data = base64.b64encode(self.image.value).decode()
            image = (
                f'<img style="max-width:100%" alt="{escape(self._alt)}" src="data:image/png;base64,{data}">'
            )
        tail = f"<pre>{escape(log)}</pre>" if log else ""
        when = "" if open_ else f"kept in the notebook's file, as of {time.strftime('%H:%M:%S')}: "
        body = f"<summary>{when}{self._line()}</summary>{image}{tail}"
        return f'<details class="r1-mirror"{" open" if open_ else ""}>{body}</details>'
