"""Figures of a run, each drawn from files: training curves, evaluation, lengths, pipelines, the machine.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so that nothing leaks between
notebook cells and the dashboard can draw in a thread. `figure_alt(figure)` describes the figure in words.
Colours are Okabe and Ito's, which people with any colour vision can tell apart; curves also differ by line
style, bars by hatching. A `source` is the path of a metrics.jsonl (or system.jsonl), or its rows.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from r1kit.runs import jsonl

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#666666",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
HATCHES = ("", "//", "..", "xx", "--", "++")
LINES = ("-", "--", "-.", ":")
MAX_POINTS = 400  # more cannot be seen in 700 pixels, and the dashboard draws again and again

Row = Mapping[str, Any]
Rows = Sequence[Row]
Source = str | Path | Rows


# Shared by all figures


class Picture(Figure):
    """A figure that a notebook shows as a picture when it is a cell's last expression, without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def panels(titles: Sequence[str], *, columns: int = 1, width: float = 7.0) -> tuple[Figure, list[Axes]]:
    """Make a figure with one panel per title, with a grid and room for the labels."""
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
    """Attach the description that `figure_alt` returns, and return the figure."""
    figure.r1kit_alt = alt
    return figure


def figure_alt(figure: Figure) -> str:
    """Return what the figure shows, in words: for alt texts and captions."""
    return getattr(figure, "r1kit_alt", "")


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def rows_of(source: Source) -> list[Row]:
    """Return the rows of a JSON-lines file given by path, or the rows themselves."""
    return jsonl.read(source) if isinstance(source, (str, Path)) else list(source)


def series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Return the steps and values of a metric, thinned to about MAX_POINTS; the last point is kept."""
    points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    if len(points) > MAX_POINTS:
        stride = -(-len(points) // MAX_POINTS)
        points = points[::stride] + ([points[-1]] if (len(points) - 1) % stride else [])
    return [p[0] for p in points], [p[1] for p in points]


def curve(axes: Axes, rows: Rows, key: str, name: str, **style: Any) -> str:
    """Draw a metric against the step; return a sentence with its first and its last value."""
    steps, values = series(rows, key)
    axes.plot(steps, values, **style)
    return course(name, steps, values)


def course(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """Return a sentence with the first and the last value of a curve."""
    if not values:
        return f"{name}: no values yet."
    return f"{name} from {values[0]:.3g} at step {steps[0]} to {values[-1]:.3g} at step {steps[-1]}."


def style_of(index: int) -> dict[str, str]:
    """Return the colour and the line style of the curve at `index`."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}


# Training curves


def loss_curve(source: Source) -> Figure:
    """Draw the loss against the step."""
    rows = rows_of(source)
    figure, (axes,) = panels(["Training loss"])
    alt = curve(axes, rows, "loss", "Loss", color=BLUE, label="loss")
    axes.set_ylabel("loss (nats per token)")
    _, accuracy = series(rows, "mean_token_accuracy")
    if accuracy:
        alt += f" Tokens predicted right at the end: {accuracy[-1]:.0%}."
    return described(figure, alt)


def training_panel(source: Source) -> Figure:
    """Draw a GRPO run: reward, its parts, length, entropy, groups without variance, gradient."""
    rows = rows_of(source)
    names = [
        "Reward",
        "Parts of the reward",
        "Length of completions",
        "Entropy",
        "Groups without signal",
        "Gradient",
    ]
    figure, (reward, parts, length, entropy, groups, gradient) = panels(names, columns=3)
    alt = [curve(reward, rows, "reward", "Mean reward", color=BLUE)]
    (steps, values), (_, spread) = series(rows, "reward"), series(rows, "reward_std")
    if len(spread) == len(values):
        low, high = ([v + sign * s for v, s in zip(values, spread, strict=True)] for sign in (-1, 1))
        reward.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0, label="± one std")
    reward.set_ylabel("weighted sum")
    if series(rows, "heldout/pass@1")[1]:
        style = {"color": RED, "linestyle": "--", "marker": "o", "label": "held-out pass@1"}
        alt.append(curve(reward, rows, "heldout/pass@1", "Held-out pass@1", **style))
    if reward.get_legend_handles_labels()[0]:
        reward.legend()
    keys = dict.fromkeys(key for row in rows for key in row)  # in the order in which they were logged
    means = [key for key in keys if key.startswith("rewards/") and key.endswith("/mean")]
    for i, key in enumerate(means):
        name = key.split("/")[1].removesuffix("_reward")
        alt.append(curve(parts, rows, key, name, label=name, **style_of(i)))
    parts.set_ylabel("mean of the batch")
    if means:
        parts.legend()
    for axes, key, name, unit in (
        (length, "completions/mean_length", "Length", "tokens"),
        (entropy, "entropy", "Entropy", "nats per token"),
        (groups, "frac_reward_zero_std", "Share of groups whose rewards are all equal", "share"),
        (gradient, "grad_norm", "Gradient norm", "norm before clipping"),
    ):
        alt.append(curve(axes, rows, key, name, color=GREY))
        axes.set_ylabel(unit)
    steps, clipped = series(rows, "completions/clipped_ratio")
    if any(clipped):
        twin = length.twinx()
        twin.plot(steps, clipped, color=RED, linestyle=":")
        twin.set(ylim=(0, 1), ylabel="share cut off (dotted)")
    groups.set_ylim(-0.02, 1.02)
    return described(figure, " ".join(alt))


def compare_rewards(sources: Mapping[str, Source]) -> Figure:
    """Draw the accuracy reward of several runs in one panel, such as a run and one that collapses.

    Args:
        sources: name of the run -> its metrics.jsonl.
    """
    title = "Accuracy reward of two runs"
    figure, (axes,) = panels([title])
    alt = [
        curve(axes, rows_of(source), "rewards/accuracy_reward/mean", name, label=name, **style_of(i))
        for i, (name, source) in enumerate(sources.items())
    ]
    axes.set(ylabel="mean of the batch", ylim=(-0.02, 1.02))
    axes.legend()
    return described(figure, f"{title}. {' '.join(alt)}")


def paid_and_true(sources: Mapping[str, Source], paid: Mapping[str, str], truth: str) -> Figure:
    """Draw, in one panel per run, the reward it was trained on beside a reward that cannot be hacked.

    Args:
        sources: name of the run -> its metrics.jsonl.
        paid: name of the run -> the reward it was trained on, by its name in the settings.
        truth: the reward that cannot be hacked, by its name in the settings; every run logs it, with weight 0
            where it does not train on it.
    """
    figure, axes_list = panels(list(sources), columns=len(sources))
    figure.set_size_inches(max(7.0, 4.5 * len(sources)), 3.8)  # the legends are below the panels
    alt = []
    for axes, (name, source) in zip(axes_list, sources.items(), strict=True):
        rows = rows_of(source)
        curves = [(f"truth, not paid ({truth})", truth, GREEN, "-")]
        if paid[name] == truth:
            curves = [(f"reward and truth ({truth})", truth, GREEN, "-")]
        else:
            curves.insert(0, (f"reward ({paid[name]})", paid[name], RED, "--"))
        for label, reward, colour, line in curves:
            style = {"color": colour, "linestyle": line, "marker": ".", "label": label}
            alt.append(curve(axes, rows, f"rewards/{reward}_reward/mean", f"{name}, {label}", **style))
        axes.set(ylim=(-0.02, 1.02), ylabel="mean of the batch")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24))
    return described(figure, " ".join(alt))


# Evaluation


def pass_rate_histogram(rates: Sequence[float]) -> Figure:
    """Draw prompts by their share of right rollouts; the ends, which teach GRPO nothing, are apart."""
    figure, (axes,) = panels(["How often each prompt was solved"])
    shares = [float(rate) for rate in rates]
    counts = [sum(min(int(share * 10), 9) == i for share in shares if 0 < share < 1) for i in range(10)]
    never, always = shares.count(0.0), shares.count(1.0)
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


def pass1_bars(table: pd.DataFrame) -> Figure:
    """Draw pass@1 per level and checkpoint with 95% whiskers, from `r1kit.evaluation.table`."""
    figure, (axes,) = panels(["pass@1 on held-out problems, with 95% intervals"], width=8)
    checkpoints, levels = list(dict.fromkeys(table["checkpoint"])), list(dict.fromkeys(table["level"]))
    width, alt = 0.8 / len(checkpoints), []
    for i, checkpoint in enumerate(checkpoints):
        rows = table[table["checkpoint"] == checkpoint].set_index("level").reindex(levels)
        places = [x + (i - (len(checkpoints) - 1) / 2) * width for x in range(len(levels))]
        value, low, high = rows["pass@1"], rows["pass@1 low"], rows["pass@1 high"]
        axes.bar(
            places, value, width * 0.92, yerr=[(value - low).clip(0), (high - value).clip(0)], capsize=3,
            label=checkpoint, color=COLOURS[i % len(COLOURS)], hatch=HATCHES[i % len(HATCHES)],
            edgecolor="white", error_kw={"elinewidth": 1.2, "ecolor": "black"},
        )  # fmt: skip
        for x, v, top in zip(places, value, high, strict=True):
            axes.annotate(f"{v:.2f}", (x, top), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        scores = ", ".join(f"{level} {v:.2f}" for level, v in zip(levels, value, strict=True))
        alt.append(f"{checkpoint}: {scores}.")
    axes.set_xticks(range(len(levels)), map(_level_label, levels))
    axes.set(ylim=(0, 1.08), ylabel="pass@1", xlabel="")
    axes.legend(title="checkpoint", ncols=len(checkpoints), loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return described(figure, f"pass@1 by level. {' '.join(alt)}")


def _level_label(level: str) -> str:
    """Return the axis label of a level, of a benchmark, or of the mean over several of them."""
    if level[0].isdigit():
        return f"level {level}" if level.isdigit() else f"levels {level}\n(mean)"
    return "mean" if ", " in level else level


# Lengths


def length_histograms(
    lengths: Mapping[str, Sequence[float]], *, limit: float | None = None, title: str = "Lengths in tokens"
) -> Figure:
    """Draw overlaid histograms of lengths in tokens on common bins; `limit` marks where texts are cut."""
    figure, (axes,) = panels([title])
    longest = max((max(values, default=0) for values in lengths.values()), default=0)
    edges = [i * max(longest, 1) / 30 for i in range(31)]
    alt = ["Histograms of lengths."]
    for i, (name, values) in enumerate(lengths.items()):
        colour, label = COLOURS[i % len(COLOURS)], f"{name} ({len(values)})"
        axes.hist(values, bins=edges, color=colour, alpha=0.25)
        axes.hist(values, bins=edges, color=colour, histtype="step", linewidth=1.5, label=label)
        ordered = sorted(values)
        if ordered:
            alt.append(f"{name}: median {ordered[len(ordered) // 2]:g}, longest {ordered[-1]:g} tokens.")
    if limit is not None:
        axes.axvline(limit, color=RED, linestyle="--", label=f"limit {limit:g}")
    axes.set(xlabel="tokens", ylabel="how many")
    axes.legend()
    return described(figure, " ".join(alt))


# Pipelines: several stages side by side. Problems are told apart by level or, without one, by pass rate.

STAGE_METRICS = {
    "rewards/accuracy_reward/mean": ("Accuracy of what was asked", "mean of the batch"),
    "completions/mean_length": ("Length of completions", "tokens"),
    "frac_reward_zero_std": ("Groups without signal", "share of the trained ones"),
}
SMOOTHING = 0.7  # of the running mean: one batch of eight prompts is noise


def courses(sources: Mapping[str, Source]) -> Figure:
    """Draw accuracy, length and groups without signal of several GRPO stages.

    Args:
        sources: name of the stage -> its metrics.jsonl.
    """
    import pandas as pd

    figure, axes_list = panels([title for title, _ in STAGE_METRICS.values()], columns=3)
    alt = []
    for axes, (key, (title, unit)) in zip(axes_list, STAGE_METRICS.items(), strict=True):
        for i, (name, source) in enumerate(sources.items()):
            steps, values = series(rows_of(source), key)
            smooth = pd.Series(values, dtype=float).ewm(alpha=1 - SMOOTHING).mean()
            axes.plot(steps, smooth, label=name, **style_of(i))
            alt.append(course(f"{name}, {title.lower()}", steps, values))
        axes.set_ylabel(unit)
    figure.set_size_inches(12, 3.6)
    if sources:
        axes_list[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return described(figure, " ".join(alt))


def problem_groups(rows: Mapping[str, Sequence[Any]] | pd.DataFrame | Any) -> pd.Series:
    """Return the level of each row, else its pass rate rounded to tenths, else `all`.

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
    """Count the rows of several datasets: one line per level (or pass rate), one column per dataset."""
    import pandas as pd

    counts = {name: problem_groups(rows).value_counts() for name, rows in sets.items()}
    groups = {group for found in counts.values() for group in found.index}
    order = sorted(groups, key=lambda group: (str(type(group)), group))
    aligned = {name: found.reindex(order, fill_value=0) for name, found in counts.items()}
    return pd.DataFrame(aligned, index=order)


def levels_asked(rollouts: pd.DataFrame) -> Figure:
    """Draw which levels (or pass rates) GRPO sampled, and the length of the answers, step by step.

    Args:
        rollouts: rows with `step`, `tokens`, and `level` or `pass_rate` (`views.rollouts.load_rollouts`).
            About a sixteenth of the steps is averaged to one point.
    """
    kinds = problem_groups(rollouts)
    titles = {"level": "Levels that were asked", "pass rate": "Pass rates that were asked"}
    title = titles.get(kinds.name, "Problems that were asked")
    figure, (mix, length) = panels([title, "Length of the answers"], columns=2)
    figure.set_size_inches(10, 3.6)
    every = max(1, int(rollouts["step"].max() - rollouts["step"].min()) // 16)
    rows = rollouts.assign(step=rollouts["step"] // every * every, level=kinds.to_numpy())
    shares = rows.groupby("step")["level"].value_counts(normalize=True).unstack(fill_value=0.0)
    tokens = rows.groupby(["step", "level"])["tokens"].mean().unstack()
    levels = sorted(shares.columns)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(levels))]
    mix.stackplot(
        shares.index, *(shares[level] for level in levels), labels=levels, colors=colours, alpha=0.8
    )
    mix.set(ylabel="share of the answers", ylim=(0, 1))
    mix.legend(title=kinds.name, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(levels))
    alt = []
    for i, level in enumerate(levels):
        values = tokens[level].dropna()
        length.plot(values.index, values, label=level, **style_of(i))
        share = f"{shares[level].iloc[0]:.0%} to {shares[level].iloc[-1]:.0%} of the answers"
        ends = f"{values.iloc[0]:.0f} to {values.iloc[-1]:.0f} tokens"
        alt.append(f"{kinds.name.capitalize()} {level}: {share}, {ends}.")
    mean = rows.groupby("step")["tokens"].mean()
    length.plot(mean.index, mean, color="black", linewidth=2.5)
    length.set_ylabel("tokens (black: all)")
    return described(figure, " ".join(alt))


# The machine while a job ran, from its system.jsonl

MACHINE_QUANTITIES = (  # the key of a GPU, the key of the host, the name, the unit, what to divide by
    ("utilisation", "cpu", "utilisation", "% busy", 1),
    ("memory_used", "memory_used", "memory", "GB", 1e9),
    ("power", None, "power", "watts", 1),
    ("temperature", "cpu_temperature", "temperature", "degrees Celsius", 1),
)


def machine_panel(source: Source) -> Figure:
    """Draw a panel for each quantity that was recorded, against minutes since the job's first sample.

    GPUs are their mean and a band from the lowest to the highest of them; the host is one line. A panel
    without data is left out, as temperature is in most virtual machines.

    Raises:
        ValueError: there is no sample yet.
    """
    rows = [row | _gpu_values(row) for row in rows_of(source) if "time" in row]
    if not rows:
        raise ValueError("system.jsonl has no rows yet: the first comes with the job's first second")
    drawn = []
    for key, host_key, name, unit, scale in MACHINE_QUANTITIES:
        lines = [(f"host {name}", ORANGE, _samples(rows, host_key, scale))]
        if key == "memory_used":
            lines.append(("this job's memory", GREEN, _samples(rows, "job_rss_bytes", scale)))
        gpus = _samples(rows, f"gpus/{key}", scale)
        if gpus or lines[0][-1]:
            drawn.append((name, unit, gpus, lines))
    figure, axes_list = panels([f"{name.capitalize()}, {unit}" for name, unit, *_ in drawn], columns=2)
    alt = []
    for axes, (name, unit, gpus, lines) in zip(axes_list, drawn, strict=True):
        if gpus:
            alt.append(_gpu_band(axes, gpus, name, unit))
        for label, colour, samples in lines:
            if samples:
                minutes, values = zip(*samples, strict=True)
                axes.plot(minutes, values, color=colour, lw=1.4, label=label)
                alt.append(_average(label, values, max(values), unit))
        axes.set(xlabel="minutes", ylim=(0, 105) if name == "utilisation" else (0, None))
        axes.legend(fontsize=8)
    return described(figure, " ".join(alt))


def _gpu_values(row: Row) -> dict[str, list[float]]:
    keys = [key for key, *_ in MACHINE_QUANTITIES]
    gpus = row.get("gpus", [])
    return {f"gpus/{key}": [gpu[key] for gpu in gpus if gpu.get(key) is not None] for key in keys}


def _samples(rows: Rows, key: str | None, scale: float) -> list[tuple[float, Any]]:
    """Return (minutes since the first row, scaled value or list of values) where `key` was recorded."""
    found = [(row["time"] - rows[0]["time"], row[key]) for row in rows if row.get(key) not in (None, [])]
    return [
        (seconds / 60, [one / scale for one in value] if isinstance(value, list) else value / scale)
        for seconds, value in found
    ]


def _gpu_band(axes: Axes, samples: list[tuple[float, list[float]]], name: str, unit: str) -> str:
    minutes, values = zip(*samples, strict=True)
    low, high, mean = ([edge(each) for each in values] for edge in (min, max, fmean))
    axes.fill_between(minutes, low, high, color=BLUE, alpha=0.2, lw=0)
    axes.plot(minutes, mean, color=BLUE, lw=1.6, label=f"GPUs ({len(values[-1])}), mean")
    axes.axhline(max(high), color=GREY, lw=0.8, ls=":")
    return _average(f"{name} of the GPUs", mean, max(high), unit)


def _average(name: str, values: Sequence[float], highest: float, unit: str) -> str:
    return f"{name[0].upper()}{name[1:]}: {fmean(values):.3g} {unit} on average, at most {highest:.3g}."
