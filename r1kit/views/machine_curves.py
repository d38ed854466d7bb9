"""What the machine did while a job ran, from its system.jsonl: utilisation, memory, power, temperature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.views.figures import BLUE, GREEN, GREY, ORANGE, Rows, described, panels, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
GB = 1e9
QUANTITIES: dict[str, tuple[str, str, float]] = {
    "utilisation": ("utilisation", "% busy", 1),
    "memory_used": ("memory", "GB", GB),
    "power": ("power", "watts", 1),
    "temperature": ("temperature", "degrees Celsius", 1),
}
"""Of a GPU: its key in a row -> the panel's name, its unit, what to divide by."""
OF_THE_HOST = {"utilisation": "cpu", "memory_used": "memory_used", "temperature": "cpu_temperature"}


def machine_panel(source: str | Path | Rows) -> Figure:
    """A panel for each quantity that was recorded; minutes since the job's first sample below.

    GPUs as their mean and the band from the least to the most of them, the host as one line beside. A panel
    that nothing was said of is left out, as temperature is in most virtual machines.

    Raises:
        ValueError: there is no sample yet.
    """
    rows = [row for row in rows_of(source) if "time" in row]
    if not rows:
        raise ValueError("system.jsonl has no rows yet: the first comes with the job's first second")
    drawn = [key for key in QUANTITIES if on_gpus(rows, key) or on_host(rows, key)]
    names = [f"{QUANTITIES[key][0].capitalize()}, {QUANTITIES[key][1]}" for key in drawn]
    figure, axes_list = panels(names, columns=2)
    start, said = rows[0]["time"], []
    for key, axes in zip(drawn, axes_list, strict=True):
        name, unit, scale = QUANTITIES[key]
        said += gpu_band(axes, on_gpus(rows, key), start, name, unit, scale)
        said += line(axes, on_host(rows, key), start, f"host {name}", unit, scale, ORANGE)
        if key == "memory_used":
            job = points(rows, lambda row: row.get("job_rss_bytes"))
            said += line(axes, job, start, "this job's memory", unit, scale, GREEN)
        axes.set(xlabel="minutes", ylim=(0, 105) if key == "utilisation" else (0, None))
        axes.legend(fontsize=8)
    return described(figure, " ".join(said))


Points = list[tuple[float, Any]]


def points(rows: Sequence[Row], value: Callable[[Row], Any]) -> Points:
    """(time, value) of the rows that say it."""
    return [(row["time"], found) for row in rows if (found := value(row)) is not None]


def on_host(rows: Sequence[Row], key: str) -> Points:
    """What is recorded of processor and main memory."""
    return points(rows, lambda row: row.get(OF_THE_HOST[key])) if key in OF_THE_HOST else []


def on_gpus(rows: Sequence[Row], key: str) -> Points:
    """Lists with the value of each GPU that says it."""

    def each(row: Row) -> list[float] | None:
        return [gpu[key] for gpu in row.get("gpus", []) if gpu.get(key) is not None] or None

    return points(rows, each)


def line(
    axes: Axes, found: Points, start: float, name: str, unit: str, scale: float, colour: str
) -> list[str]:
    """Draw one curve, if there is one; the sentence on it."""
    if not found:
        return []
    values = [value / scale for _, value in found]
    axes.plot([(time - start) / 60 for time, _ in found], values, color=colour, lw=1.4, label=name)
    return [summary(name, values, max(values), unit)]


def gpu_band(axes: Axes, found: Points, start: float, name: str, unit: str, scale: float) -> list[str]:
    """Draw mean, least and most of the GPUs, if there are any; the sentence on them."""
    if not found:
        return []
    minutes = [(time - start) / 60 for time, _ in found]
    least, most = ([edge(values) / scale for _, values in found] for edge in (min, max))
    mean = [sum(values) / len(values) / scale for _, values in found]
    axes.fill_between(minutes, least, most, color=BLUE, alpha=0.2, lw=0)
    axes.plot(minutes, mean, color=BLUE, lw=1.6, label=f"GPUs ({len(found[-1][1])}), mean")
    axes.axhline(max(most), color=GREY, lw=0.8, ls=":")
    return [summary(f"{name} of the GPUs", mean, max(most), unit)]


def summary(name: str, values: Sequence[float], most: float, unit: str) -> str:
    """One sentence on a curve."""
    return (
        f"{name[0].upper()}{name[1:]}: {sum(values) / len(values):.3g} {unit} on average, at most {most:.3g}."
    )
