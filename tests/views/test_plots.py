"""Figures hold the data of the files they are drawn from."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from r1kit.evaluation import table
from r1kit.runs import jsonl
from r1kit.views.figures import (
    MOST_POINTS,
    before_after,
    compare_rewards,
    figure_alt,
    length_histograms,
    loss_curve,
    paid_and_true,
    pass1_bars,
    pass_rate_histogram,
    png,
    series,
    training_panel,
)

GRPO = [
    {
        "step": step,
        "total_steps": 20,
        "loss": 0.0,
        "reward": 0.5 + step / 50,
        "reward_std": 0.1,
        "rewards/accuracy_reward/mean": 0.3 + step / 50,
        "rewards/accuracy_reward/std": 0.4,
        "rewards/format_reward/mean": 1.0,
        "completions/mean_length": 50 - step,
        "completions/clipped_ratio": 0.1,
        "entropy": 0.4 - step / 100,
        "grad_norm": 1.0 / step,
        "frac_reward_zero_std": step / 20,
    }
    for step in range(1, 21)
]
TABLE = pd.DataFrame(
    {
        "checkpoint": ["base"] * 2 + ["grpo"] * 2,
        "level": ["1", "1-3"] * 2,
        "headline": [False, True] * 2,
        "pass@1": [0.1, 0.05, 0.9, 0.8],
        "pass@1 low": [0.06, 0.03, 0.85, 0.75],
        "pass@1 high": [0.15, 0.09, 0.94, 0.84],
    }
)


def test_the_loss_curve_shows_every_logged_loss_of_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(5, 30, 5):
        jsonl.append(path, {"step": step, "total_steps": 25, "loss": 2 / step})
    jsonl.append(path, {"step": 30, "eval_loss": 1.0})
    figure = loss_curve(path)
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [5, 10, 15, 20, 25]
    assert line.get_ydata().tolist() == [2 / step for step in range(5, 30, 5)]
    assert axes.get_xlabel() == "step"
    assert figure_alt(figure) == "Loss from 0.4 at step 5 to 0.08 at step 25."
    assert len(loss_curve(path, smooth=0.9).axes[0].lines) == 2


def test_the_training_panel_shows_reward_parts_length_entropy_and_groups_without_signal():
    figure = training_panel(GRPO, title="04_grpo")
    reward, parts, length, entropy, groups = figure.axes[:5]
    assert reward.lines[0].get_ydata().tolist() == [row["reward"] for row in GRPO]
    assert [line.get_label() for line in parts.lines] == ["accuracy", "format"]
    assert length.lines[0].get_ydata()[-1] == 30
    assert entropy.lines[0].get_ydata()[0] == pytest.approx(0.39)
    assert figure.axes[5].lines[0].get_ydata()[-1] == 0.05
    assert groups.lines[0].get_ydata()[-1] == 1.0
    assert "Mean reward from 0.52 at step 1 to 0.9 at step 20" in figure_alt(figure)
    assert png(figure).startswith(b"\x89PNG")


def test_held_out_pass_at_1_stands_on_the_same_plot_as_the_reward():
    rows = [*GRPO, {"step": GRPO[-1]["step"], "heldout/pass@1": 0.25}]
    figure = training_panel(rows)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "held-out pass@1" in labels
    assert "Held-out pass@1 from 0.25" in figure_alt(figure)


def test_figures_can_be_drawn_before_anything_was_logged(tmp_path):
    assert "no values yet" in figure_alt(loss_curve(tmp_path / "metrics.jsonl"))
    assert png(training_panel([])).startswith(b"\x89PNG")


def test_long_runs_are_thinned_but_keep_their_first_and_last_point():
    rows = [{"step": i, "loss": 1.0} for i in range(10_001)]
    steps, values = series(rows, "loss")
    assert len(steps) == len(values) <= MOST_POINTS + 1
    assert (steps[0], steps[-1]) == (0, 10_000)


def test_pass1_bars_have_a_bar_and_whiskers_for_each_checkpoint_and_level():
    figure = pass1_bars(TABLE)
    (axes,) = figure.axes
    heights = [round(patch.get_height(), 3) for patch in axes.patches]
    assert heights == [0.1, 0.05, 0.9, 0.8]
    assert len({patch.get_hatch() for patch in axes.patches}) == 2  # told apart without colour
    whiskers = axes.containers[0].lines[2][0].get_segments()
    assert [y for (_, low), (_, high) in whiskers for y in (low, high)] == pytest.approx(
        [0.06, 0.15, 0.03, 0.09]
    )
    assert [label.get_text() for label in axes.get_xticklabels()] == ["level 1", "levels 1-3\n(mean)"]
    assert "grpo: 1 0.90, 1-3 0.80." in figure_alt(figure)


@pytest.mark.parametrize("names", [["math_500"], ["aime24", "math_500"]])
def test_the_mean_of_benchmarks_is_a_bar_where_there_are_several(names):
    rows = [
        {"problem": str(n), "level": name, "greedy": False, "correct": float(n % 2), "tokens": 5,
         "finished": True, "form": 1.0}
        for name in names
        for n in range(6)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    (axes,) = pass1_bars(table({"sft": frame, "grpo": frame}, names)).axes
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == (names if len(names) == 1 else [*names, "mean"])
    assert len(axes.patches) == 2 * len(shown)


def test_histograms_share_their_bins_and_mark_the_limit():
    figure = length_histograms({"right": [10, 20, 20], "wrong": [40] * 5}, limit=48)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "right (3)",
        "wrong (5)",
        "limit 48",
    ]
    assert "wrong: median 40, longest 40 tokens" in figure_alt(figure)


def test_runs_are_compared_in_one_panel():
    sinking = [row | {"rewards/accuracy_reward/mean": 0.3 / row["step"]} for row in GRPO]
    figure = compare_rewards({"as in grpo.yaml": GRPO, "too fast": sinking})
    first, second = figure.axes[0].lines
    assert (first.get_ydata()[-1], second.get_ydata()[-1]) == pytest.approx((0.7, 0.015))
    assert first.get_linestyle() != second.get_linestyle()
    assert "too fast from 0.3 at step 1 to 0.015 at step 20." in figure_alt(figure)


def test_prompts_that_are_always_or_never_solved_stand_apart():
    figure = pass_rate_histogram(pd.Series([0, 0, 1, 0.5, 0.5, 0.125, 0.875]))
    mixed, ends = figure.axes[0].containers
    assert [patch.get_height() for patch in ends] == [2, 1]
    assert sum(patch.get_height() for patch in mixed) == 4
    assert figure_alt(figure) == "Of 7 prompts 2 never, 1 always and 4 sometimes solved."


def test_before_and_after_has_a_line_per_level():
    figure = before_after(TABLE, "base", "grpo")
    lines = [container.lines[0] for container in figure.axes[0].containers]
    assert [line.get_ydata().tolist() for line in lines] == [[0.1, 0.9], [0.05, 0.8]]
    assert "Level 1: 0.10 to 0.90." in figure_alt(figure)


def test_no_figure_needs_pyplot():
    code = (
        "import sys; from r1kit.views import figures;"
        "figures.png(figures.loss_curve([{'step': 1, 'loss': 2.0}]));"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_notebook_shows_a_figure_as_a_picture_without_pyplot():
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(loss_curve([{"step": 1, "loss": 2.0}]))
    assert data["image/png"].startswith(b"\x89PNG")


def test_the_paid_reward_stands_beside_the_truth_and_alone_where_it_is_the_truth():
    rows = [
        {"step": s, "rewards/naive_code_reward/mean": s / 4, "rewards/binary_code_reward/mean": 1 - s / 4}
        for s in range(1, 4)
    ]
    figure = paid_and_true(
        {"naive": rows, "repaired": rows}, {"naive": "naive_code", "repaired": "binary_code"}, "binary_code"
    )
    naive, repaired = figure.axes
    assert [list(line.get_ydata()) for line in naive.lines] == [[0.25, 0.5, 0.75], [0.75, 0.5, 0.25]]
    assert [list(line.get_ydata()) for line in repaired.lines] == [[0.75, 0.5, 0.25]]
    assert "naive, reward (naive_code) from 0.25 at step 1 to 0.75 at step 3" in figure_alt(figure)
