"""Figures of composed trainings: the courses of several GRPO stages, and which problems were asked when.

Problems are told apart by their level or, where the data have none, by their measured pass rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.views.curves import LINES
from r1kit.views.figures import COLOURS, Rows, course, described, panels, rows_of, running_mean, series

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COURSES = {
    "rewards/accuracy_reward/mean": ("Accuracy of what was asked", "mean of the batch"),
    "completions/mean_length": ("Length of completions", "tokens"),
    "frac_reward_zero_std": ("Groups without signal", "share of the trained ones"),
}
SMOOTH = 0.7  # of a running mean: one batch of eight prompts is noise


def courses(sources: Mapping[str, str | Path | Rows]) -> Figure:
    """Accuracy, length and groups without signal of several GRPO stages. Name -> metrics.jsonl."""
    figure, axes_list = panels([title for title, _ in COURSES.values()], columns=3)
    said = []
    for axes, (key, (title, unit)) in zip(axes_list, COURSES.items(), strict=True):
        for i, (name, source) in enumerate(sources.items()):
            steps, values = series(rows_of(source), key)
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % 4]}
            axes.plot(steps, running_mean(values, SMOOTH), label=name, **style)
            said.append(course(f"{name}, {title.lower()}", steps, values))
        axes.set_ylabel(unit)
    figure.set_size_inches(12, 3.6)
    if sources:
        axes_list[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return described(figure, " ".join(said))


def pools(rows: Mapping[str, Sequence[Any]] | pd.DataFrame | Any) -> pd.Series:
    """What tells rows apart: their level, else their pass rate in tenths, else nothing (`all`).

    Args:
        rows: a dataset or a table; a column that holds nothing counts as absent.
    """
    import pandas as pd

    names = getattr(rows, "column_names", None) or list(rows)
    known = {name: list(rows[name]) for name in ("level", "pass_rate") if name in names}
    known = {name: values for name, values in known.items() if any(value is not None for value in values)}
    if "level" in known:
        return pd.Series(known["level"], name="level")
    if "pass_rate" in known:
        return pd.Series([round(rate, 1) for rate in known["pass_rate"]], name="pass rate")
    return pd.Series(["all"] * len(rows), name="problems")


def counted(sets: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of several datasets by pool; one row of it a pool, one column a dataset."""
    import pandas as pd

    counts = {name: pools(rows).value_counts() for name, rows in sets.items()}
    order = sorted(
        {pool for found in counts.values() for pool in found.index}, key=lambda pool: (str(type(pool)), pool)
    )
    aligned = {name: found.reindex(order, fill_value=0) for name, found in counts.items()}
    return pd.DataFrame(aligned, index=order)


def levels_asked(rollouts: pd.DataFrame, *, every: int | None = None) -> Figure:
    """Which levels (or pass rates) GRPO asked, and how long the answers were, step by step.

    Args:
        rollouts: rows with `step`, `tokens`, and `level` or `pass_rate` (`views.rollouts.load_rollouts`).
        every: steps that are averaged; by default a sixteenth of all.
    """
    pool = pools(rollouts)
    titles = {"level": "Levels that were asked", "pass rate": "Pass rates that were asked"}
    title = titles.get(pool.name, "Problems that were asked")
    figure, (asked, length) = panels([title, "Length of the answers"], columns=2)
    figure.set_size_inches(10, 3.6)
    every = every or max(1, int(rollouts["step"].max() - rollouts["step"].min()) // 16)
    groups = rollouts.assign(step=rollouts["step"] // every * every, level=pool.to_numpy())
    shares = groups.groupby("step")["level"].value_counts(normalize=True).unstack(fill_value=0.0)
    tokens = groups.groupby(["step", "level"])["tokens"].mean().unstack()
    levels = sorted(shares.columns)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(levels))]
    asked.stackplot(
        shares.index, *(shares[level] for level in levels), labels=levels, colors=colours, alpha=0.8
    )
    asked.set(ylabel="share of the answers", ylim=(0, 1))
    asked.legend(title=pool.name, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(levels))
    said = []
    for i, level in enumerate(levels):
        values = tokens[level].dropna()
        length.plot(values.index, values, color=colours[i], linestyle=LINES[i % 4], label=level)
        name = f"{str(pool.name).capitalize()} {level}"
        ends = f"{shares[level].iloc[0]:.0%} to {shares[level].iloc[-1]:.0%} of the answers"
        said.append(f"{name}: {ends}, {values.iloc[0]:.0f} to {values.iloc[-1]:.0f} tokens.")
    length.plot(
        *zip(*groups.groupby("step")["tokens"].mean().items(), strict=True), color="black", linewidth=2.5
    )
    length.set_ylabel("tokens (black: all)")
    return described(figure, " ".join(said))
