"""What all figures share: colours, panels, thinned series, descriptions in words, PNG.

Figures are made without pyplot, so nothing leaks between cells and the dashboard can draw in a thread. The
colours are Okabe and Ito's, which people with any colour vision can tell apart.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from r1kit.runs import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#666666",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
HATCHES = ("", "//", "..", "xx", "--", "++")
MOST_POINTS = 400  # more cannot be seen in 700 pixels, and the dashboard draws again and again

Rows = Sequence[Mapping[str, Any]]


class Picture(Figure):
    """A figure that a notebook shows as a picture when it is a cell's last expression, without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def figure_alt(figure: Figure) -> str:
    """What the figure shows, in words: for alt texts and captions."""
    return getattr(figure, "r1kit_alt", "")


def png(figure: Figure, *, dpi: int = 90) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def reward_parts(rows: Rows) -> dict[str, str]:
    """Metric name of each reward's mean -> its short name, in the order in which they were logged."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {
        key: key.split("/")[1].removesuffix("_reward")
        for key in keys
        if key.startswith("rewards/") and key.endswith("/mean")
    }


def series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric where it was logged, thinned to about MOST_POINTS, the last one kept."""
    points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    if len(points) > MOST_POINTS:
        stride = -(-len(points) // MOST_POINTS)
        points = points[::stride] + ([points[-1]] if (len(points) - 1) % stride else [])
    return [p[0] for p in points], [p[1] for p in points]


def rows_of(source: str | Path | Rows) -> list[Mapping[str, Any]]:
    """Rows of a metrics.jsonl given by path, or the rows themselves."""
    return metrics.read(Path(source)) if isinstance(source, (str, Path)) else list(source)


def last(rows: Rows, key: str) -> float | None:
    """The newest value of a metric."""
    return next((row[key] for row in reversed(rows) if isinstance(row.get(key), (int, float))), None)


def running_mean(values: Sequence[float], smooth: float) -> list[float]:
    """Exponential running mean, corrected for its start (as Adam's)."""
    out, mean = [], 0.0
    for i, value in enumerate(values, start=1):
        mean = smooth * mean + (1 - smooth) * value
        out.append(mean / (1 - smooth**i))
    return out


def course(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """One sentence on how a curve went."""
    if not values:
        return f"{name}: no values yet."
    return f"{name} from {values[0]:.3g} at step {steps[0]} to {values[-1]:.3g} at step {steps[-1]}."


def panels(titles: Sequence[str], *, columns: int = 1, width: float = 7.0) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel each, grid behind, and room for the labels."""
    lines = -(-len(titles) // columns)
    size = (width, 3.6 * lines) if columns == 1 else (4 * columns, 2.7 * lines)
    figure = Picture(figsize=size, layout="constrained")
    axes_list = [figure.add_subplot(lines, columns, i + 1) for i in range(len(titles))]
    for axes, title in zip(axes_list, titles, strict=True):
        axes.set_title("\n".join(textwrap.wrap(title, 60)), fontsize=10, loc="left")
        axes.grid(True, alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step")
    return figure, axes_list


def described(figure: Figure, alt: str) -> Figure:
    """The figure, with what it shows in words kept for `figure_alt`."""
    figure.r1kit_alt = alt
    return figure
