"""Figures of composed trainings: the courses of several GRPO stages, and which levels were asked when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

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


def levels_asked(rollouts: pd.DataFrame, *, every: int | None = None) -> Figure:
    """Which levels GRPO asked, and how long the answers were, step by step.

    Args:
        rollouts: rows with `step`, `level`, `tokens` (`r1kit.views.rollouts.load_rollouts`).
        every: steps that are averaged; by default a sixteenth of all.
    """
    figure, (asked, length) = panels(["Levels that were asked", "Length of the answers"], columns=2)
    figure.set_size_inches(10, 3.6)
    every = every or max(1, int(rollouts["step"].max() - rollouts["step"].min()) // 16)
    groups = rollouts.assign(step=rollouts["step"] // every * every)
    shares = groups.groupby("step")["level"].value_counts(normalize=True).unstack(fill_value=0.0)
    tokens = groups.groupby(["step", "level"])["tokens"].mean().unstack()
    levels = sorted(shares.columns)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(levels))]
    asked.stackplot(
        shares.index, *(shares[level] for level in levels), labels=levels, colors=colours, alpha=0.8
    )
    asked.set(ylabel="share of the answers", ylim=(0, 1))
    asked.legend(title="level", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(levels))
    said = []
    for i, level in enumerate(levels):
        values = tokens[level].dropna()
        length.plot(values.index, values, color=colours[i], linestyle=LINES[i % 4], label=level)
        ends = f"{shares[level].iloc[0]:.0%} to {shares[level].iloc[-1]:.0%} of the answers"
        said.append(f"Level {level}: {ends}, {values.iloc[0]:.0f} to {values.iloc[-1]:.0f} tokens.")
    length.plot(
        *zip(*groups.groupby("step")["tokens"].mean().items(), strict=True), color="black", linewidth=2.5
    )
    length.set_ylabel("tokens (black: all)")
    return described(figure, " ".join(said))
