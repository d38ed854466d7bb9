"""Rollouts as HTML: completions with tags and reward parts, and one prompt at several steps side by side.

Model text is escaped: it may hold HTML or scripts, which a saved notebook would run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.format import TAGS

if TYPE_CHECKING:
    import pandas as pd

_TAG = re.compile("|".join(re.escape(escape(tag)) for tag in TAGS))
_BOX = re.compile(r"\\boxed\{[^{}]*\}")
# Tinted with transparency and inheriting the text colour, so that both of Jupyter's themes stay readable.
_STYLE = (
    "<style>.r1-rollouts{display:flex;gap:12px;flex-wrap:wrap}"
    ".r1-rollouts>section{flex:1 1 240px;border:1px solid #8886;border-radius:6px;padding:8px}"
    ".r1-rollouts pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0;font-size:12px}"
    ".r1-rollouts .tag{color:#0072B2;font-weight:bold}"
    ".r1-rollouts .box{background:#E69F0055;border-radius:3px;font-weight:bold}"
    ".r1-rollouts .part{display:inline-block;border:1px solid #8886;border-radius:10px;padding:0 8px;"
    "margin:0 4px 2px 0;font-size:11px}"
    ".r1-rollouts article+article{border-top:1px dashed #8886;padding-top:6px}</style>"
)


class Markup(str):
    """HTML that a notebook shows as such; an ordinary string to everything else."""

    def _repr_html_(self) -> str:
        return str(self)


def load_rollouts(folder: str | Path, steps: Sequence[int] | None = None) -> pd.DataFrame:
    """Load all rollouts of a job (or of some steps) from `rollouts/step_*.parquet`, in order of step.

    Raises:
        FileNotFoundError: there are none.
    """
    import pandas as pd

    paths = {int(path.stem.split("_")[1]): path for path in Path(folder).glob("step_*.parquet")}
    chosen = sorted(paths if steps is None else set(steps) & set(paths))
    if not chosen:
        raise FileNotFoundError(f"no rollouts in {folder}" + (f" for steps {list(steps)}" if steps else ""))
    return pd.concat([pd.read_parquet(paths[step]) for step in chosen], ignore_index=True)


def choose_prompt(rollouts: pd.DataFrame) -> tuple[str, list[int]]:
    """Choose a prompt to compare, and the first, middle and last step at which it was rolled out.

    Chosen is the prompt that was sampled over the longest stretch of the training, and among equals the one
    with the largest gain in reward. If every prompt was sampled only once, one step is returned.
    """
    best, key = None, None
    for prompt, rows in rollouts.groupby("prompt", sort=False):
        means = rows.groupby("step")["reward"].mean()
        steps = sorted(means.index)
        rank = (min(len(steps), 3), steps[-1] - steps[0], means[steps[-1]] - means[steps[0]])
        if key is None or rank > key:
            best, key = (prompt, steps), rank
    prompt, steps = best
    return prompt, first_middle_last(steps)


def first_middle_last(steps: Sequence[int]) -> list[int]:
    """Return the ends of a sorted list and the value nearest to halfway between them, without repetition."""
    middle = min(steps, key=lambda step: abs(step - (steps[0] + steps[-1]) / 2))
    return [int(step) for step in sorted({steps[0], middle, steps[-1]})]


def side_by_side(
    rollouts: pd.DataFrame | str | Path,
    prompt: str | None = None,
    steps: Sequence[int] | None = None,
    *,
    completions: int = 2,
) -> Markup:
    """Show the same prompt at the first, middle and last step, with reward parts and marked tags.

    If no prompt was sampled again over at least half of the training, each column shows another prompt of the
    same level, and a line says so: compare the style of the answers then, not the rewards.

    Args:
        rollouts: rows with step, prompt, completion, reward, reward_<name>, advantage; or the folder of
            their parquet files.
        prompt: its text; chosen by `choose_prompt` if left out.
        steps: only these steps; first, middle and last of them are shown.
        completions: how many of the group are shown at each step, in the order they were sampled.

    Raises:
        ValueError: nothing was rolled out for this prompt at these steps.
    """
    frame = load_rollouts(rollouts) if isinstance(rollouts, (str, Path)) else rollouts
    if steps is not None:
        frame = frame[frame["step"].isin(steps)]
    if prompt is not None:
        frame = frame[frame["prompt"] == prompt]
    if frame.empty:
        raise ValueError(f"nothing was rolled out for prompt {prompt!r} at steps {steps}")
    chosen, at = choose_prompt(frame)
    if prompt is None and 2 * (at[-1] - at[0]) < frame["step"].max() - frame["step"].min():
        return _of_one_level(frame, completions)
    groups = [frame[(frame["prompt"] == chosen) & (frame["step"] == step)] for step in at]
    columns = [_column(f"step {step}", group, completions) for step, group in zip(at, groups, strict=True)]
    return _html(_head(groups[0]), columns)


def group_html(rows: pd.DataFrame, *, title: str = "", completions: int = 8) -> Markup:
    """Show one group: each completion of a prompt with its reward parts (as `side_by_side`, no step)."""
    columns = [_column("", rows.iloc[i : i + 1], 1) for i in range(min(len(rows), completions))]
    return _html(f"<p><b>{escape(title)}</b></p>" if title else "", columns)


def completion_html(text: str) -> str:
    r"""Return model text as HTML: escaped, tags and flat `\boxed{...}` marked."""
    marked = _TAG.sub(lambda m: f'<span class="tag">{m[0]}</span>', escape(str(text)))
    return _BOX.sub(lambda m: f'<span class="box">{m[0]}</span>', marked)


def _column(title: str, group: pd.DataFrame, completions: int, prompt: str = "") -> str:
    parts = [name for name in group.columns if name.startswith("reward_")]
    articles = []
    for _, row in group.head(completions).iterrows():
        chips = "".join(_chip(name.removeprefix("reward_"), row[name]) for name in parts)
        chips += "".join(_chip(name, row[name]) for name in ("reward", "advantage") if name in group.columns)
        articles.append(f"<article>{chips}<pre>{completion_html(row['completion'])}</pre></article>")
    mean = (
        f" · mean reward of {len(group)}: {group['reward'].mean():.2f}"
        if len(group) > 1 and "reward" in group
        else ""
    )
    head = f"<b>{escape(title)}</b>{mean}" if title else ""
    return f"<section>{head}{prompt}{''.join(articles)}</section>"


def _chip(name: str, value: Any) -> str:
    shown = "not judged" if value is None or value != value else f"{value:.2f}"
    return f'<span class="part">{escape(name)} <b>{shown}</b></span>'


def _head(group: pd.DataFrame) -> str:
    """Return the prompt of a group, and its solution if the rows have it."""
    row = group.iloc[0]
    gold = f" &nbsp; <b>Solution</b> {escape(str(row['solution']))}" if "solution" in group else ""
    return f"<p><b>Prompt</b> {escape(row['prompt'])}{gold}</p>"


def _of_one_level(frame: pd.DataFrame, completions: int) -> Markup:
    """Return first, middle and last step with a prompt each, all of the last one's level if possible."""
    columns, level = [], None
    for step in reversed(first_middle_last(sorted(frame["step"].unique()))):
        rows = frame[frame["step"] == step]
        if "level" in frame:
            level = rows["level"].iloc[0] if level is None else level
            rows = rows[rows["level"] == level] if (rows["level"] == level).any() else rows
        group = rows[rows["prompt"] == rows["prompt"].iloc[0]]
        columns.insert(0, _column(f"step {step}", group, completions, _head(group)))
    note = "<p>No prompt was sampled again late in training: these are different prompts of one level.</p>"
    return _html(note, columns)


def _html(head: str, sections: list[str]) -> Markup:
    return Markup(f'{_STYLE}{head}<div class="r1-rollouts">{"".join(sections)}</div>')
