"""Figures hold the data of the files they are drawn from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from r1kit.evaluation import table
from r1kit.runs import jsonl
from r1kit.views.figures import (
    MAX_POINTS,
    compare_rewards,
    counted,
    courses,
    figure_alt,
    length_histograms,
    levels_asked,
    loss_curve,
    machine_panel,
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


def test_the_training_panel_shows_reward_parts_length_entropy_and_groups_without_signal():
    figure = training_panel(GRPO)
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
    assert len(steps) == len(values) <= MAX_POINTS + 1
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


def test_levels_asked_are_shares_and_lengths_by_level():
    rows = pd.DataFrame({"step": [0, 0, 1, 1], "level": [1, 1, 1, 2], "tokens": [10, 20, 10, 40]})
    alt = figure_alt(levels_asked(rows))
    assert "Level 1: 100% to 50% of the answers, 15 to 10 tokens." in alt


def test_real_problems_are_told_apart_by_their_measured_pass_rate():
    rows = pd.DataFrame(
        {"step": [0, 0, 1, 1], "pass_rate": [0.5, 0.25, 0.5, 0.5], "tokens": [10, 20, 10, 40]}
    )
    alt = figure_alt(levels_asked(rows))
    assert "Pass rate 0.5: 50% to 100% of the answers, 10 to 25 tokens." in alt


def test_rows_without_levels_and_rates_are_counted_together():
    stories = pd.DataFrame({"level": [1, 2, 2], "pass_rate": [0.1, 0.2, 0.3]})
    real = pd.DataFrame({"problem": ["a", "b"], "level": [None, None]})
    counts = counted({"stories": stories, "real": real})
    assert counts["stories"].to_dict() == {1: 1, 2: 2, "all": 0}
    assert counts["real"].to_dict() == {1: 0, 2: 0, "all": 2}


def test_courses_of_no_stage_and_of_two_stages_can_be_drawn():
    rows = [
        {"step": i, "rewards/accuracy_reward/mean": i / 10, "completions/mean_length": 20} for i in (1, 2)
    ]
    assert figure_alt(courses({})) is not None
    assert "one, accuracy of what was asked from 0.1" in figure_alt(courses({"one": rows, "two": rows}))


def machine_curves(figure) -> dict[str, dict[str, list[float]]]:
    """Panel -> curve -> its values."""
    return {
        axes.get_title(loc="left").split(",")[0]: {
            drawn.get_label(): list(drawn.get_ydata())
            for drawn in axes.get_lines()
            if not drawn.get_label().startswith("_")
        }
        for axes in figure.axes
    }


def test_a_cpu_shows_how_busy_it_was_and_whose_memory_it_is(tmp_path: Path) -> None:
    """The first sample has no utilisation: psutil counts from the one before."""
    for row in (
        {"time": 100.0, "job_rss_bytes": 1e9, "memory_used": 2e9, "memory_total": 24e9, "cost": 0.001},
        {"time": 160.0, "job_rss_bytes": 1.5e9, "memory_used": 3e9, "memory_total": 24e9, "cpu": 98.0},
        {"time": 220.0, "job_rss_bytes": 1.2e9, "memory_used": 2.5e9, "memory_total": 24e9, "cpu": 99.0},
    ):
        jsonl.append(tmp_path / "system.jsonl", row)
    figure = machine_panel(tmp_path / "system.jsonl")
    assert machine_curves(figure) == {
        "Utilisation": {"host utilisation": [98.0, 99.0]},
        "Memory": {"host memory": [2.0, 3.0, 2.5], "this job's memory": [1.0, 1.5, 1.2]},
    }
    assert list(figure.axes[1].get_lines()[0].get_xdata()) == [0.0, 1.0, 2.0]
    assert "This job's memory: 1.23 GB on average, at most 1.5." in figure_alt(figure)
    assert png(figure).startswith(b"\x89PNG")


def test_gpus_are_their_mean_and_a_band_and_one_that_says_nothing_is_left_out() -> None:
    rows = [
        {
            "time": 30.0 * i,
            "gpus": [
                {"index": 0, "utilisation": 100, "memory_used": 200e9, "power": 900, "temperature": 70 + i},
                {"index": 1, "utilisation": 60, "memory_used": 100e9, "temperature": 60 + i},
            ],
        }
        for i in range(3)
    ] + [{"time": 100.0, "gpu_error": "amd-smi took too long"}]
    figure = machine_panel(rows)
    found = machine_curves(figure)
    assert found["Utilisation"] == {"GPUs (2), mean": [80.0, 80.0, 80.0]}
    assert found["Memory"] == {"GPUs (2), mean": [150.0, 150.0, 150.0]}
    assert found["Power"] == {"GPUs (1), mean": [900.0, 900.0, 900.0]}
    assert found["Temperature"] == {"GPUs (2), mean": [65.0, 66.0, 67.0]}
    assert "Temperature of the GPUs: 66 degrees Celsius on average, at most 72." in figure_alt(figure)


def test_a_job_without_a_sample_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows yet"):
        machine_panel(tmp_path / "system.jsonl")
