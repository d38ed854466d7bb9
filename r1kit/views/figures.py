"""Figures for the notebooks and the dashboard, drawn from files or tables.

In reading order: what all figures share (colours, panels, thinned series, PNG), curves of a training from
metrics.jsonl, the machine from system.jsonl, scores and lengths, stages of a pipeline.

Every function returns a `matplotlib.figure.Figure`; `figure_alt(figure)` describes it in words for alt texts.
Figures are made without pyplot, so nothing leaks between cells and the dashboard can draw in a thread. The
colours are Okabe and Ito's, which people with any colour vision can tell apart; bars also differ by hatching.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
MOST_POINTS = 400  # more cannot be seen in 700 pixels, and the dashboard draws again and again

Rows = Sequence[Mapping[str, Any]]


class Picture(Figure):
    """A figure that a notebook shows as a picture when it is a cell's last expression, without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def figure_alt(figure: Figure) -> str:
    """Describe the figure in words, for alt texts and captions."""
    return getattr(figure, "r1kit_alt", "")


def png(figure: Figure, *, dpi: int = 90) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def reward_parts(rows: Rows) -> dict[str, str]:
    """Map the metric of each reward's mean to its short name, in the order in which they were logged."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {
        key: key.split("/")[1].removesuffix("_reward")
        for key in keys
        if key.startswith("rewards/") and key.endswith("/mean")
    }


def series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a metric where it was logged, thinned to about MOST_POINTS plus the last."""
    points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    if len(points) > MOST_POINTS:
        stride = -(-len(points) // MOST_POINTS)
        points = points[::stride] + ([points[-1]] if (len(points) - 1) % stride else [])
    return [p[0] for p in points], [p[1] for p in points]


def rows_of(source: str | Path | Rows) -> list[Mapping[str, Any]]:
    """Read the rows of a metrics.jsonl given by its path; rows are returned as they are."""
    return jsonl.read(Path(source)) if isinstance(source, (str, Path)) else list(source)


def last(rows: Rows, key: str) -> float | None:
    """Return the newest value of a metric."""
    return next((row[key] for row in reversed(rows) if isinstance(row.get(key), (int, float))), None)


def running_mean(values: Sequence[float], smooth: float) -> list[float]:
    """Compute an exponential running mean, corrected for its start as Adam's is."""
    out, mean = [], 0.0
    for i, value in enumerate(values, start=1):
        mean = smooth * mean + (1 - smooth) * value
        out.append(mean / (1 - smooth**i))
    return out


def course(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """Describe the course of a curve in one sentence."""
    if not values:
        return f"{name}: no values yet."
    return f"{name} from {values[0]:.3g} at step {steps[0]} to {values[-1]:.3g} at step {steps[-1]}."


def panels(titles: Sequence[str], *, columns: int = 1, width: float = 7.0) -> tuple[Figure, list[Axes]]:
    """Make a figure with one titled panel per title, a grid, and room for the labels."""
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
    """Attach a description in words for `figure_alt` and return the figure."""
    figure.r1kit_alt = alt
    return figure


LINES = ("-", "--", "-.", ":")


def loss_curve(source: str | Path | Rows, *, smooth: float = 0.0, title: str = "Training loss") -> Figure:
    """Draw loss against step from metrics.jsonl (path or rows); `smooth` in [0, 1) adds a running mean."""
    rows = rows_of(source)
    figure, (axes,) = panels([title])
    steps, losses = series(rows, "loss")
    axes.plot(steps, losses, color=BLUE, alpha=0.35 if smooth else 1.0, label="loss")
    if smooth:
        axes.plot(steps, running_mean(losses, smooth), color=BLUE, label="running mean")
        axes.legend()
    axes.set_ylabel("loss (nats a token)")
    accuracy = last(rows, "mean_token_accuracy")
    tail = f" Tokens predicted right at the end: {accuracy:.0%}." if accuracy is not None else ""
    return described(figure, f"{course('Loss', steps, losses)}{tail}")


def training_panel(source: str | Path | Rows, *, title: str = "") -> Figure:
    """Draw GRPO in six panels: reward, its parts, length, entropy, groups without variance, gradient."""
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
    steps, values = series(rows, "reward")
    reward.plot(steps, values, color=BLUE)
    _, spread = series(rows, "reward_std")
    if len(spread) == len(values):
        low, high = ([v + sign * s for v, s in zip(values, spread, strict=True)] for sign in (-1, 1))
        reward.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0, label="± one std")
    reward.set_ylabel("weighted sum")
    said = [course("Mean reward", steps, values)]
    at, solved = series(rows, "heldout/pass@1")
    if solved:
        reward.plot(at, solved, color=RED, linestyle="--", marker="o", label="held-out pass@1")
        said.append(course("Held-out pass@1", at, solved))
    if reward.get_legend_handles_labels()[0]:
        reward.legend()
    for i, (key, name) in enumerate(reward_parts(rows).items()):
        at, part = series(rows, key)
        parts.plot(at, part, color=COLOURS[i % len(COLOURS)], linestyle=LINES[i % 4], label=name)
        said.append(course(name, at, part))
    parts.set_ylabel("mean of the batch")
    if parts.lines:
        parts.legend()
    for axes, key, name, unit in (
        (length, "completions/mean_length", "Length", "tokens"),
        (entropy, "entropy", "Entropy", "nats a token"),
        (groups, "frac_reward_zero_std", "Share of groups whose rewards are all equal", "share"),
        (gradient, "grad_norm", "Gradient norm", "norm before clipping"),
    ):
        at, part = series(rows, key)
        axes.plot(at, part, color=GREY)
        axes.set_ylabel(unit)
        said.append(course(name, at, part))
    at, clipped = series(rows, "completions/clipped_ratio")
    if any(clipped):
        twin = length.twinx()
        twin.plot(at, clipped, color=RED, linestyle=":")
        twin.set(ylim=(0, 1), ylabel="share cut off (dotted)")
    groups.set_ylim(-0.02, 1.02)
    if title:
        figure.suptitle(title)
    return described(figure, " ".join(said))


def compare_rewards(
    sources: Mapping[str, str | Path | Rows],
    *,
    metric: str = "rewards/accuracy_reward/mean",
    title: str = "Accuracy reward of two runs",
) -> Figure:
    """Draw one metric of several runs in one panel. Name -> metrics file."""
    figure, (axes,) = panels([title])
    said = []
    for i, (name, source) in enumerate(sources.items()):
        steps, values = series(rows_of(source), metric)
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % 4]}
        axes.plot(steps, values, label=name, **style)
        said.append(course(name, steps, values))
    axes.set(ylabel="mean of the batch", ylim=(-0.02, 1.02))
    axes.legend()
    return described(figure, f"{title}. " + " ".join(said))


def paid_and_true(
    sources: Mapping[str, str | Path | Rows],
    paid: Mapping[str, str],
    truth: str,
    *,
    truth_name: str = "truth",
) -> Figure:
    """Draw a panel per run: the reward that it was trained on, and the reward that cannot be fooled.

    Args:
        sources: name of the run -> its metrics.jsonl.
        paid: name of the run -> the reward it was trained on, by its name in the settings.
        truth: the reward that tells the truth, by its name in the settings; logged in every run, if need be
            with weight 0.
        truth_name: what the curve of the truth is called.
    """
    figure, axes_list = panels(list(sources), columns=len(sources))
    figure.set_size_inches(max(7.0, 4.5 * len(sources)), 3.8)  # the legends stand below
    said = []
    for axes, (name, source) in zip(axes_list, sources.items(), strict=True):
        rows = rows_of(source)
        curves = [(f"{truth_name}, not paid ({truth})", truth, GREEN, "-")]
        if paid[name] == truth:
            curves = [(f"reward and {truth_name} ({truth})", truth, GREEN, "-")]
        else:
            curves.insert(0, (f"reward ({paid[name]})", paid[name], RED, "--"))
        for label, reward, colour, line in curves:
            steps, values = series(rows, f"rewards/{reward}_reward/mean")
            axes.plot(steps, values, color=colour, linestyle=line, marker=".", label=label)
            said.append(course(f"{name}, {label}", steps, values))
        axes.set(ylim=(-0.02, 1.02), ylabel="mean of the batch")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24))
    return described(figure, " ".join(said))


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
    """Draw a panel per recorded quantity against the minutes since the job's first sample.

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
    """List (time, value) of the rows that have the value."""
    return [(row["time"], found) for row in rows if (found := value(row)) is not None]


def on_host(rows: Sequence[Row], key: str) -> Points:
    """List the recorded values of processor and main memory."""
    return points(rows, lambda row: row.get(OF_THE_HOST[key])) if key in OF_THE_HOST else []


def on_gpus(rows: Sequence[Row], key: str) -> Points:
    """List the values of all GPUs that report it, per sample."""

    def each(row: Row) -> list[float] | None:
        return [gpu[key] for gpu in row.get("gpus", []) if gpu.get(key) is not None] or None

    return points(rows, each)


def line(
    axes: Axes, found: Points, start: float, name: str, unit: str, scale: float, colour: str
) -> list[str]:
    """Draw one curve, if there is one; return a sentence about it."""
    if not found:
        return []
    values = [value / scale for _, value in found]
    axes.plot([(time - start) / 60 for time, _ in found], values, color=colour, lw=1.4, label=name)
    return [summary(name, values, max(values), unit)]


def gpu_band(axes: Axes, found: Points, start: float, name: str, unit: str, scale: float) -> list[str]:
    """Draw mean, least and most of the GPUs, if there are any; return a sentence about them."""
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
    """Describe a curve in one sentence."""
    return (
        f"{name[0].upper()}{name[1:]}: {sum(values) / len(values):.3g} {unit} on average, at most {most:.3g}."
    )


def pass_rate_histogram(rates: Sequence[float], *, title: str = "How often each prompt was solved") -> Figure:
    """Draw prompts by their share of right rollouts; the two ends, without signal for GRPO, stand apart."""
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
    """Draw bars of a metric per level and checkpoint with 95% whiskers, from `r1kit.evaluation.table`."""
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
    """Name a level, a benchmark, or a mean over several of them, for an axis."""
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
    """Draw overlaid histograms of lengths, one per name, on common bins; `limit` marks the truncation."""
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
    """Draw a line per level from checkpoint `before` to `after`, with 95% whiskers at both ends."""
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


COURSES = {
    "rewards/accuracy_reward/mean": ("Accuracy of what was asked", "mean of the batch"),
    "completions/mean_length": ("Length of completions", "tokens"),
    "frac_reward_zero_std": ("Groups without signal", "share of the trained ones"),
}
SMOOTH = 0.7  # of a running mean: one batch of eight prompts is noise


def courses(sources: Mapping[str, str | Path | Rows]) -> Figure:
    """Draw accuracy, length and groups without signal of several GRPO stages. Name -> metrics.jsonl."""
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
    """Return the group of each row: its level, else its pass rate in tenths, else `all`.

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
    """Count the rows of several datasets by pool: one row per pool, one column per dataset."""
    import pandas as pd

    counts = {name: pools(rows).value_counts() for name, rows in sets.items()}
    order = sorted(
        {pool for found in counts.values() for pool in found.index}, key=lambda pool: (str(type(pool)), pool)
    )
    aligned = {name: found.reindex(order, fill_value=0) for name, found in counts.items()}
    return pd.DataFrame(aligned, index=order)


def levels_asked(rollouts: pd.DataFrame, *, every: int | None = None) -> Figure:
    """Draw which levels (or pass rates) GRPO trained on, and the length of the answers, step by step.

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
