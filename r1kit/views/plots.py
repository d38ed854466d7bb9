"""Figures for the notebooks: training curves (`curves.py`), the machine (`machine_curves.py`), pass@1 with
intervals, lengths, before and after.

Every function returns a `matplotlib.figure.Figure`; `figure_alt(figure)` says in words what it shows. Bars
differ by hatching as well as by colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from r1kit.views.curves import compare_rewards, loss_curve, paid_and_true, training_panel
from r1kit.views.figures import BLUE, COLOURS, GREY, HATCHES, RED, described, figure_alt, panels, png
from r1kit.views.machine_curves import machine_panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = [
    "before_after",
    "compare_rewards",
    "figure_alt",
    "length_histograms",
    "loss_curve",
    "machine_panel",
    "paid_and_true",
    "pass1_bars",
    "pass_rate_histogram",
    "png",
    "training_panel",
]


def pass_rate_histogram(rates: Sequence[float], *, title: str = "How often each prompt was solved") -> Figure:
    """Prompts by the share of their rollouts that were right; the ends, no signal for GRPO, stand apart."""
    figure, (axes,) = panels([title])
    shares = [float(rate) for rate in rates]
    counts = [sum(min(int(share * 10), 9) == i for share in shares if 0 < share < 1) for i in range(10)]
    never, always = (sum(share == end for share in shares) for end in (0.0, 1.0))
    axes.bar(
        [i / 10 + 0.05 for i in range(10)], counts, 0.09, color=BLUE, label="mixed: GRPO learns from these"
    )
    axes.bar(
        [-0.08, 1.08], [never, always], 0.09, color=GREY, hatch="//", edgecolor="white", label="all alike"
    )
    axes.set_xticks([-0.08, 0, 0.25, 0.5, 0.75, 1, 1.08], ["never", "", "25%", "50%", "75%", "", "always"])
    axes.set(xlabel="share of right answers", ylabel="prompts")
    axes.legend()
    mixed = len(shares) - never - always
    return described(
        figure, f"Of {len(shares)} prompts {never} never, {always} always and {mixed} sometimes solved."
    )


def pass1_bars(table: pd.DataFrame, *, metric: str = "pass@1", title: str = "") -> Figure:
    """Bars of a metric per level and checkpoint with 95% whiskers, from `r1kit.evaluation.table`."""
    figure, (axes,) = panels([title or f"{metric} on held-out problems, with 95% intervals"], width=8)
    checkpoints, levels = list(dict.fromkeys(table["checkpoint"])), list(dict.fromkeys(table["level"]))
    width, said = 0.8 / len(checkpoints), []
    for i, checkpoint in enumerate(checkpoints):
        rows = table[table["checkpoint"] == checkpoint].set_index("level").reindex(levels)
        places = [x + (i - (len(checkpoints) - 1) / 2) * width for x in range(len(levels))]
        value = rows[metric]
        below, above = (value - rows[f"{metric} low"]).clip(0), (rows[f"{metric} high"] - value).clip(0)
        axes.bar(
            places, value, width * 0.92, yerr=[below, above], capsize=3, label=checkpoint,
            color=COLOURS[i % len(COLOURS)], hatch=HATCHES[i % len(HATCHES)], edgecolor="white",
            error_kw={"elinewidth": 1.2, "ecolor": "black"},
        )  # fmt: skip
        for x, v, high in zip(places, value, rows[f"{metric} high"], strict=True):
            axes.annotate(f"{v:.2f}", (x, high), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        said += [
            f"{checkpoint}: " + ", ".join(f"{lv} {v:.2f}" for lv, v in zip(levels, value, strict=True)) + "."
        ]
    axes.set_xticks(range(len(levels)), map(place, levels))
    axes.set(ylim=(0, 1.08), ylabel=metric, xlabel="")
    axes.legend(title="checkpoint", ncols=len(checkpoints), loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return described(figure, f"{metric} by level. " + " ".join(said))


def place(level: str) -> str:
    """How a level, a benchmark, or the mean over several of them is called on an axis."""
    if level[0].isdigit():
        return f"level {level}" if level.isdigit() else f"levels {level}\n(mean)"
    return "mean" if ", " in level else level


def length_histograms(
    lengths: Mapping[str, Sequence[float]],
    *,
    limit: float | None = None,
    unit: str = "tokens",
    title: str = "",
) -> Figure:
    """Overlaid histograms of lengths, one per name, on common bins; `limit` marks where they are cut."""
    figure, (axes,) = panels([title or f"Lengths in {unit}"])
    longest = max((max(values, default=0) for values in lengths.values()), default=0)
    edges = [i * max(longest, 1) / 30 for i in range(31)]
    said = []
    for i, (name, values) in enumerate(lengths.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.hist(values, bins=edges, color=colour, alpha=0.25)
        axes.hist(
            values, bins=edges, color=colour, histtype="step", linewidth=1.5, label=f"{name} ({len(values)})"
        )
        ordered = sorted(values)
        if ordered:
            said.append(f"{name}: median {ordered[len(ordered) // 2]:g}, longest {ordered[-1]:g} {unit}.")
    if limit is not None:
        axes.axvline(limit, color=RED, linestyle="--", label=f"limit {limit:g}")
    axes.set(xlabel=unit, ylabel="how many")
    axes.legend()
    return described(figure, "Histograms of lengths. " + " ".join(said))


def before_after(table: pd.DataFrame, before: str, after: str, *, metric: str = "pass@1") -> Figure:
    """A line per level from checkpoint `before` to `after`, with 95% whiskers at both ends."""
    figure, (axes,) = panels([f"{metric}: {before} and {after}"])
    said = []
    chosen = [table[table["checkpoint"] == name].set_index("level") for name in (before, after)]
    levels = [level for level in chosen[0].index if level in chosen[1].index]
    for i, level in enumerate(levels):
        ends = [rows.loc[level] for rows in chosen]
        headline = bool(ends[0].get("headline", False))
        values = [end[metric] for end in ends]
        errors = [[abs(end[metric] - end[f"{metric} {side}"]) for end in ends] for side in ("low", "high")]
        shift = (i - (len(levels) - 1) / 2) * 0.02  # whiskers side by side, not on top of each other
        axes.errorbar(
            [shift, 1 + shift], values, yerr=errors, marker="os^Dv<>"[i % 7], capsize=3,
            color="black" if headline else COLOURS[i % len(COLOURS)], linewidth=3 if headline else 1.5,
            label=place(level),
        )  # fmt: skip
        said.append(f"Level {level}: {values[0]:.2f} to {values[1]:.2f}.")
    axes.set_xticks([0, 1], [before, after])
    axes.set(xlim=(-0.25, 1.25), ylim=(-0.02, 1.02), ylabel=metric, xlabel="")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return described(figure, f"{metric} before and after. " + " ".join(said))
