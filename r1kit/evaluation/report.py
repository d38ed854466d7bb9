"""An evaluation as numbers and as text: scores with intervals, what was cut off, and published results beside
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.comparison import Paired, distance
from r1kit.evaluation.estimators import bootstrap_interval, majority_at_k, mean_interval, pass_at_k
from r1kit.evaluation.estimators import sampling_error as error_of
from r1kit.evaluation.expected import published

if TYPE_CHECKING:
    import pandas as pd

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
