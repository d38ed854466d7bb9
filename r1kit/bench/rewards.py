r"""Completions judged per second: the accuracy reward beside math-verify, called as its users call it.

The mix follows the answers of competition problems: half are plain numbers, 3% need a computer algebra system
(logarithms, roots, functions), the rest are the forms between. Two lists are judged: as GRPO sees them
(groups of eight completions to a gold, so that answers repeat) and with every pair different.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from r1kit.bench.answer_pairs import distinct, grouped

COMPLETIONS = 2000
SEED = 3


def bench(completions: int = COMPLETIONS, seed: int = SEED) -> dict:
    """The speed of both ways on both lists, side by side.

    Returns:
        For each list ("grouped", "distinct"): completions and distinct pairs, seconds of starting the
        verifier's processes, completions per second of math-verify and of ours (processes running), their
        ratio, and the pairs on which the two differ as (gold, answer, math-verify's verdict, ours).
    """
    from r1kit.rewards import verifier
    from r1kit.rewards.verifier_process import FAMILIAR

    results = {}
    for name, pairs in (("grouped", grouped(completions, seed)), ("distinct", distinct(completions, seed))):
        verifier.stop()
        start = time.perf_counter()
        verifier.warm_up()
        starting = time.perf_counter() - start
        _math_verify([(text, text) for text in FAMILIAR])  # as the processes do when they start
        ours, ours_seconds = _timed(_ours, pairs)
        theirs, their_seconds = _timed(_math_verify, pairs)
        differing = {
            (gold, answer, one, other)
            for (gold, answer), one, other in zip(pairs, theirs, ours, strict=True)
            if one != other
        }
        results[name] = {
            "completions": len(pairs),
            "distinct": len(set(pairs)),
            "processes": len(verifier.children()),
            "starting_seconds": starting,
            "math_verify_per_second": len(pairs) / their_seconds,
            "ours_per_second": len(pairs) / ours_seconds,
            "ratio": their_seconds / ours_seconds,
            "right": sum(verdict == 1.0 for verdict in ours),
            "differing": sorted(differing),
        }
    verifier.stop()
    return results


def table(results: dict) -> str:
    """The numbers as text, with every pair on which the two differ."""
    return "\n".join(line for name, row in results.items() for line in _lines(name, row))


def _ours(pairs: list[tuple[str, str]]) -> list[float | None]:
    from r1kit.rewards import accuracy_reward

    completions = [f"<think>\nhm\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>" for _, answer in pairs]
    return accuracy_reward(completions, [gold for gold, _ in pairs])


def _math_verify(pairs: list[tuple[str, str]]) -> list[float]:
    from math_verify import parse, verify

    return [
        float(verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{answer}}}"))) for gold, answer in pairs
    ]


def _timed(judge: Callable, pairs: list[tuple[str, str]]) -> tuple[list, float]:
    start = time.perf_counter()
    verdicts = judge(pairs)
    return verdicts, time.perf_counter() - start


def _lines(name: str, row: dict) -> Iterator[str]:
    count = row["completions"]
    shares = f"{row['distinct'] / count:.0%} distinct, {row['right'] / count:.0%} right"
    yield f"{name}: {count} completions, {shares}"
    yield f"  math-verify, serial      {row['math_verify_per_second']:8,.0f} completions/s"
    started = f"(the processes started in {row['starting_seconds']:.1f} s)"
    yield f"  r1kit, {row['processes']} processes      {row['ours_per_second']:8,.0f} completions/s {started}"
    yield f"  ratio {row['ratio']:.1f}, {len(row['differing'])} verdicts differ"
    for gold, answer, theirs, ours in row["differing"]:
        yield f"    gold {gold!r}, answer {answer!r}: math-verify {theirs}, r1kit {ours}"
