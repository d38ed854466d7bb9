"""An evaluation as numbers and as text, from its rows (one per completion, see `checkpoints`).

Lessons and pipelines compare checkpoints in one `table`, level by level, with the headline over several
levels. `r1kit eval` reports one model per benchmark (`scores`, `render`): also majority votes, lengths,
cut-off answers, and published results. Both take pass@k with its interval from `_estimate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r1kit.evaluation.benchmarks import published
from r1kit.evaluation.statistics import (
    Paired,
    bootstrap_interval,
    distance,
    majority_at_k,
    mean_interval,
    pass_at_k,
    sampling_error,
)

if TYPE_CHECKING:
    import pandas as pd

Numbers = dict[str, Any]


def pass1_entry(frame: pd.DataFrame, levels: Sequence[int]) -> dict[str, float | int]:
    """Return the `pass@1` entry of summary.json: the mean over `levels` of the sampled pass@1, with interval.

    `problems` and `samples` are totals: 210 problems with 4 samples each have 840 samples.

    Raises:
        ValueError: a level without judged completions.
    """
    interval, counts = _estimate(frame[~frame["greedy"]], levels, k=1)
    rounded = {name: round(value, 6) for name, value in interval.items()}
    return rounded | {"problems": len(counts), "samples": int(counts["n"].sum())}


def table(
    frames: pd.DataFrame | Mapping[str, pd.DataFrame], levels: Sequence[int], k: Sequence[int] = (1,)
) -> pd.DataFrame:
    """Return one row per checkpoint and level, and one for the headline: the mean over several `levels`.

    Columns: checkpoint, level ("1", "2", ..., headline as "1-3"; or a benchmark's name), headline (bool),
    problems, samples, then `pass@1`, `pass@1 low`, `pass@1 high` and so on for each k that the samples allow,
    the same for `greedy` (NaN without greedy rows), and of the sampled answers the mean number of tokens and
    the shares that are finished and well formed.
    """
    import pandas as pd

    frames = frames if isinstance(frames, Mapping) else {"": frames}
    rows = []
    for checkpoint, frame in frames.items():
        sampled, greedy = frame[~frame["greedy"]], frame[frame["greedy"]]
        parts = [((level,), str(level), [level] == list(levels)) for level in sorted(frame["level"].unique())]
        if len(levels) > 1:
            parts.append((tuple(levels), level_range(levels), True))
        for chosen, name, headline in parts:
            answers = sampled[sampled["level"].isin(chosen)]
            row: Numbers = {"checkpoint": checkpoint, "level": name, "headline": headline}
            row |= {"problems": answers["problem"].nunique(), "samples": len(answers)}
            fewest = answers.groupby(["level", "problem"])["correct"].count().replace(0, np.nan).min()
            # fewest is NaN without any judged answer, which `_estimate` refuses.
            estimates = {f"pass@{kk}": _estimate(sampled, chosen, kk)[0] for kk in k if not kk > fewest}
            nothing = dict.fromkeys(("value", "low", "high"), float("nan"))
            estimates["greedy"] = _estimate(greedy, chosen, 1)[0] if len(greedy) else nothing
            for kind, interval in estimates.items():
                row |= {
                    kind: interval["value"],
                    f"{kind} low": interval["low"],
                    f"{kind} high": interval["high"],
                }
            row |= {part: answers[part].mean() for part in ("tokens", "finished", "form")}
            rows.append(row)
    return pd.DataFrame(rows)


def level_metrics(rows: pd.DataFrame) -> dict[str, float]:
    """Flatten a `table` for result.json, where `r1kit run` finds the numbers of its last table.

    `pass@1/sft/level_1`, `pass@1/sft/level_1/low`, `.../high`, the same for pass@k and greedy; without NaN.
    """
    kinds = [name for name in rows.columns if f"{name} low" in rows.columns]
    return {
        f"{kind}/{row['checkpoint']}/level_{row['level']}{end.replace(' ', '/')}": float(row[f"{kind}{end}"])
        for kind in kinds
        for _, row in rows.iterrows()
        for end in ("", " low", " high")
        if row[f"{kind}{end}"] == row[f"{kind}{end}"]
    }


def level_range(levels: Sequence[int]) -> str:
    """Return "1-3" for consecutive levels, else "1, 3"; names of benchmarks in their order."""
    low, high = min(levels), max(levels)
    if isinstance(low, str):
        return ", ".join(levels)
    if len(levels) > 1 and sorted(levels) == list(range(low, high + 1)):
        return f"{low}-{high}"
    return ", ".join(map(str, sorted(levels)))


def scores(frame: pd.DataFrame, k: Sequence[int] = (1,), model: str = "") -> dict[str, Numbers]:
    """Return the numbers of the sampled answers for each level or benchmark.

    Keys: problems, samples, unjudged, `pass@k` for each k that the samples allow and `maj@n`, each as
    {value, low, high} with a 95% interval over problems; sampling_error (of pass@1, on these problems);
    tokens {mean, low, high}; truncated (share of answers that were cut off); published: `distance` to the
    published scores of `model`, or of the usual targets.
    """
    sampled = frame[~frame["greedy"]]
    return {
        str(level): _of_level(rows, level, k, model) for level, rows in sampled.groupby("level", sort=False)
    }


def _of_level(rows: pd.DataFrame, level: int | str, k: Sequence[int], model: str) -> Numbers:
    judged = rows.dropna(subset="correct")
    numbers: Numbers = {
        "problems": int(rows["problem"].nunique()),
        "samples": len(rows),
        "unjudged": len(rows) - len(judged),
        "truncated": float(1 - rows["finished"].mean()),
    }
    lengths = rows.groupby("problem", sort=False)["tokens"].mean().dropna()
    if len(lengths):
        low, high = bootstrap_interval(lengths)
        numbers["tokens"] = {"mean": float(lengths.mean()), "low": low, "high": high}
    if judged.empty:
        return numbers
    groups = [group for _, group in judged.groupby("problem", sort=False)]
    fewest = min(map(len, groups))
    numbers |= {f"pass@{kk}": _estimate(rows, [level], kk)[0] for kk in k if kk <= fewest}
    if fewest > 1 and judged["answer"].notna().any():
        votes = [majority_at_k(one["answer"].tolist(), one["correct"].tolist(), fewest) for one in groups]
        numbers[f"maj@{fewest}"] = _interval(mean_interval(votes))
    numbers["sampling_error"] = sampling_error(
        [one["correct"].mean() for one in groups], list(map(len, groups))
    )
    known = published(str(level), model)
    if known and "pass@1" in numbers:
        numbers["published"] = distance(numbers["pass@1"]["value"], numbers["sampling_error"], known)
    return numbers


def _estimate(rows: pd.DataFrame, levels: Sequence[Any], k: int) -> tuple[dict[str, float], pd.DataFrame]:
    """Return pass@k over the levels as {value, low, high}, and n samples, c right ones per problem.

    Completions that could not be judged are left out.
    """
    judged = rows[rows["level"].isin(levels)].dropna(subset="correct")
    counts = judged.groupby(["level", "problem"], sort=False)["correct"].agg(n="count", c="sum").reset_index()
    missing = set(levels) - set(counts["level"])
    if missing:
        raise ValueError(f"no judged completions of level {', '.join(map(str, sorted(missing)))}")
    values = [pass_at_k(int(n), int(c), k) for n, c in zip(counts["n"], counts["c"], strict=True)]
    return _interval(mean_interval(values, strata=counts["level"].tolist())), counts


def _interval(estimate: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), estimate, strict=True))


def render(result: Mapping[str, Any]) -> str:
    """Return `r1kit eval`'s table: two lines per benchmark, and one for each score to compare with."""
    lines = [f"{result['model']}: {result['sampling']}"]
    width = max(map(len, result["scores"]), default=5)
    opinion = result.get("second_opinion", {})
    for name, numbers in result["scores"].items():
        estimates = "  ".join(
            f"{key} {_shown(value)}" for key, value in numbers.items() if key.startswith(("pass@", "maj@"))
        )
        each = numbers["samples"] / max(numbers["problems"], 1)
        details = [f"{numbers['truncated']:.1%} cut off"]
        if "tokens" in numbers:
            details.append(f"{numbers['tokens']['mean']:,.0f} tokens on average")
        if "sampling_error" in numbers:
            details.append(f"standard error of the sampling {100 * numbers['sampling_error']:.2f} points")
        if numbers["unjudged"]:
            details.append(f"{numbers['unjudged']} answers could not be judged")
        below = [", ".join(details)]
        if score := opinion.get("scores", {}).get(name):
            below.append(
                f"{opinion['harness']} on {opinion['answers']}: {100 * score['value']:.1f} "
                f"(standard error over problems {100 * score['standard_error']:.1f})"
            )
        below += [
            f"{row['against']} {100 * row['published']:.1f}: {row['standard_errors']:+.1f} standard errors, "
            f"{row['verdict']}"
            for row in numbers.get("published", ())
        ]
        lines.append(f"  {name:{width}}  {estimates}  ({numbers['problems']} problems x {each:g})")
        lines += [f"  {'':{width}}  {line}" for line in below]
    return "\n".join(lines)


def _shown(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def render_comparison(first: str, second: str, compared: Mapping[str, Paired]) -> str:
    """Return `r1kit compare`'s table."""
    lines = [f"{second} beside {first}, on the same problems (difference in points, 95% interval, p):"]
    width = max(map(len, compared), default=5)
    for name, pair in compared.items():
        lines.append(
            f"  {name:{width}}  {100 * pair.first:5.1f} -> {100 * pair.second:5.1f}  "
            f"{100 * pair.difference:+5.1f} [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]  "
            f"p {pair.p:.3f}  {pair.verdict} ({pair.problems} problems)"
        )
    return "\n".join(lines)
