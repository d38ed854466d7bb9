"""From judged completions to the reported numbers: pass@1, pass@k, greedy, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.estimators import mean_interval, pass_at_k

if TYPE_CHECKING:
    import pandas as pd


def pass1_entry(frame: pd.DataFrame, levels: Sequence[int]) -> dict[str, float | int]:
    """The `pass@1` entry of summary.json: mean over `levels` of the sampled pass@1, with its 95% interval.

    `problems` and `samples` are totals: 210 problems with 4 samples each have 840 samples.

    Raises:
        ValueError: a level without judged completions.
    """
    value, low, high, counts = _estimate(frame[~frame["greedy"]], levels, k=1)
    return {
        "value": round(value, 6), "low": round(low, 6), "high": round(high, 6),
        "problems": len(counts), "samples": int(counts["n"].sum()),
    }  # fmt: skip


def table(
    frames: pd.DataFrame | Mapping[str, pd.DataFrame], levels: Sequence[int], k: Sequence[int] = (1,)
) -> pd.DataFrame:
    """One row per checkpoint and level, and one for the headline: the mean over `levels` if they are several.

    Columns: checkpoint, level ("1", "2", ..., headline as "1-3"; or a benchmark's name), headline (bool),
    problems, samples, then `pass@1`, `pass@1 low`, `pass@1 high` and so on for each k that the samples allow,
    the same for `greedy` (NaN without greedy rows), and of the sampled answers the mean number of tokens and
    the shares that are finished and well formed.
    """
    import pandas as pd

    frames = frames if isinstance(frames, Mapping) else {"": frames}
    rows = []
    for checkpoint, frame in frames.items():
        sampled, best = frame[~frame["greedy"]], frame[frame["greedy"]]
        parts = [((level,), str(level), [level] == list(levels)) for level in sorted(frame["level"].unique())]
        if len(levels) > 1:
            parts.append((tuple(levels), level_range(levels), True))
        for chosen, name, headline in parts:
            of_levels = sampled[sampled["level"].isin(chosen)]
            row: dict[str, Any] = {"checkpoint": checkpoint, "level": name, "headline": headline}
            row |= {"problems": of_levels["problem"].nunique(), "samples": len(of_levels)}
            most = int(of_levels.groupby(["level", "problem"]).size().min())
            for kk in k:
                if kk <= most:
                    _put(row, f"pass@{kk}", _estimate(sampled, chosen, kk)[:3])
            _put(row, "greedy", _estimate(best, chosen, 1)[:3] if len(best) else (float("nan"),) * 3)
            row["tokens"] = of_levels["tokens"].mean()
            row |= {"finished": of_levels["finished"].mean(), "form": of_levels["form"].mean()}
            rows.append(row)
    return pd.DataFrame(rows)


def level_metrics(rows: pd.DataFrame) -> dict[str, float]:
    """A `table` as flat numbers for result.json, where `r1kit run` finds them for its last table.

    `pass@1/sft/level_1`, `pass@1/sft/level_1/low`, `.../high`, the same for pass@k and greedy.
    """
    kinds = [name for name in rows.columns if f"{name} low" in rows.columns]
    return {
        f"{kind}/{row['checkpoint']}/level_{row['level']}{end.replace(' ', '/')}": float(row[f"{kind}{end}"])
        for kind in kinds
        for _, row in rows.iterrows()
        for end in ("", " low", " high")
        if row[f"{kind}{end}"] == row[f"{kind}{end}"]  # not NaN
    }


def level_range(levels: Sequence[int]) -> str:
    """ "1-3" for consecutive levels, else "1, 3"; names of benchmarks in their order."""
    low, high = min(levels), max(levels)
    if isinstance(low, str):
        return ", ".join(levels)
    if len(levels) > 1 and sorted(levels) == list(range(low, high + 1)):
        return f"{low}-{high}"
    return ", ".join(map(str, sorted(levels)))


def _put(row: dict[str, Any], name: str, estimate: tuple[float, float, float]) -> None:
    row[name], row[f"{name} low"], row[f"{name} high"] = estimate


def _estimate(rows: pd.DataFrame, levels: Sequence[int], k: int):
    """(value, low, high, counts) of pass@k over the levels, without completions that could not be judged."""
    judged = rows[rows["level"].isin(levels)].dropna(subset="correct")
    counts = judged.groupby(["level", "problem"], sort=False)["correct"].agg(n="count", c="sum").reset_index()
    missing = set(levels) - set(counts["level"])
    if missing:
        raise ValueError(f"no judged completions of level {', '.join(map(str, sorted(missing)))}")
    values = [pass_at_k(int(n), int(c), k) for n, c in zip(counts["n"], counts["c"], strict=True)]
    return *mean_interval(values, strata=counts["level"].tolist()), counts
