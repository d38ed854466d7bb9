"""Curves of a training, from its metrics.jsonl. Every function returns a `matplotlib.figure.Figure`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from r1kit.views.figures import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    RED,
    Rows,
    course,
    described,
    last,
    panels,
    reward_parts,
    rows_of,
    running_mean,
    series,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":")


def loss_curve(source: str | Path | Rows, *, smooth: float = 0.0, title: str = "Training loss") -> Figure:
    """Loss against step, from metrics.jsonl (a path or its rows). `smooth` in [0, 1) adds a running mean."""
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
    """The GRPO run in six panels: reward, its parts, length, entropy, groups without variance, gradient."""
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
    """One metric of several runs in one panel: a run beside the one that collapses. Name -> metrics file."""
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
    """A panel for each run: the reward that it was paid for beside the one that nobody can fool.

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
