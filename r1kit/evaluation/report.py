"""An evaluation as numbers and as text: scores with intervals, what was cut off, and published results beside
it.

From judged completions to the reported numbers: pass@1, pass@k, greedy, each with its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.benchmarks import published
from r1kit.evaluation.statistics import (
    Paired,
    bootstrap_interval,
    distance,
    majority_at_k,
    mean_interval,
    pass_at_k,
)
from r1kit.evaluation.statistics import sampling_error as error_of

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


Numbers = dict[str, Any]


def scores(frame: pd.DataFrame, k: Sequence[int] = (1,), model: str = "") -> dict[str, Numbers]:
    """For each level or benchmark all that is known of its sampled answers.

    Keys: problems, samples, unjudged, `pass@k` for each k that the samples allow and `maj@n`, each as
    {value, low, high} with a 95% interval over problems; sampling_error (of pass@1, on these problems);
    tokens {mean, low, high}; truncated (share of answers that were cut off); published: `comparison.distance`
    of the scores that are known of `model`, or of the usual targets.
    """
    sampled = frame[~frame["greedy"]]
    return {
        str(level): _of_level(rows, str(level), k, model)
        for level, rows in sampled.groupby("level", sort=False)
    }


def _of_level(rows: pd.DataFrame, level: str, k: Sequence[int], model: str) -> Numbers:
    judged = rows.dropna(subset="correct")
    found: Numbers = {
        "problems": int(rows["problem"].nunique()),
        "samples": len(rows),
        "unjudged": len(rows) - len(judged),
        "truncated": float(1 - rows["finished"].mean()),
    }
    lengths = rows.groupby("problem", sort=False)["tokens"].mean().dropna()
    if len(lengths):
        low, high = bootstrap_interval(lengths)
        found["tokens"] = {"mean": float(lengths.mean()), "low": low, "high": high}
    problems = [group for _, group in judged.groupby("problem", sort=False)]
    if not problems:
        return found
    n, right = [len(group) for group in problems], [int(group["correct"].sum()) for group in problems]
    for kk in k:
        if kk <= min(n):
            found[f"pass@{kk}"] = _interval([pass_at_k(a, c, kk) for a, c in zip(n, right, strict=True)])
    if min(n) > 1 and judged["answer"].notna().any():
        votes = [
            majority_at_k(group["answer"].tolist(), group["correct"].tolist(), min(n)) for group in problems
        ]
        found[f"maj@{min(n)}"] = _interval(votes)
    shares = [c / a for a, c in zip(n, right, strict=True)]
    found["sampling_error"] = error_of(shares, n)
    known = published(level, model)
    if known and "pass@1" in found:
        found["published"] = distance(found["pass@1"]["value"], found["sampling_error"], known)
    return found


def _interval(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), mean_interval(values), strict=True))


def render(result: Mapping[str, Any]) -> str:
    """`r1kit eval`'s table: a line a benchmark, and a line for each published score beside it."""
    lines = [f"{result['model']}: {result['sampling']}"]
    named = max((len(name) for name in result["scores"]), default=5)
    for name, numbers in result["scores"].items():
        estimates = "  ".join(
            f"{key} {shown(value)}" for key, value in numbers.items() if key.startswith(("pass@", "maj@"))
        )
        each = numbers["samples"] / max(numbers["problems"], 1)
        lines.append(f"  {name:{named}}  {estimates}  ({numbers['problems']} problems x {each:g})")
        told = [f"{numbers['truncated']:.1%} cut off"]
        if "tokens" in numbers:
            told.append(f"{numbers['tokens']['mean']:,.0f} tokens on average")
        if "sampling_error" in numbers:
            told.append(f"standard error of the sampling {100 * numbers['sampling_error']:.2f} points")
        if numbers["unjudged"]:
            told.append(f"{numbers['unjudged']} answers could not be judged")
        lines.append(f"  {'':{named}}  {', '.join(told)}")
        other = result.get("second_opinion", {})
        if name in other.get("scores", {}):
            seen = other["scores"][name]
            lines.append(
                f"  {'':{named}}  {other['harness']} on {other['answers']}: {100 * seen['value']:.1f} "
                f"(standard error over problems {100 * seen['standard_error']:.1f})"
            )
        for row in numbers.get("published", ()):
            lines.append(
                f"  {'':{named}}  {row['against']} {100 * row['published']:.1f}: "
                f"{row['standard_errors']:+.1f} standard errors, {row['verdict']}"
            )
    return "\n".join(lines)


def shown(interval: Mapping[str, float]) -> str:
    """52.7 [44.1, 61.2], in percent."""
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def render_comparison(first: str, second: str, compared: Mapping[str, Paired]) -> str:
    """`r1kit compare`'s table."""
    lines = [f"{second} beside {first}, on the same problems (difference in points, 95% interval, p):"]
    named = max(map(len, compared), default=5)
    for name, pair in compared.items():
        lines.append(
            f"  {name:{named}}  {100 * pair.first:5.1f} -> {100 * pair.second:5.1f}  "
            f"{100 * pair.difference:+5.1f} [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]  "
            f"p {pair.p:.3f}  {pair.verdict} ({pair.problems} problems)"
        )
    return "\n".join(lines)
