"""Completions judged per second: the accuracy reward beside math-verify, called as its users call it.

The pairs of gold and answer are made by seed. Their mix follows the answers of competition problems: half are
plain numbers, 3% need a computer algebra system (logarithms, roots, functions), the rest are the forms in
between. Two lists are judged: one as GRPO sees them (groups of eight completions per gold, so answers
repeat), and one with only different pairs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

GROUP = 8


COMPLETIONS = 2000
SEED = 3


def bench(completions: int = COMPLETIONS, seed: int = SEED) -> dict:
    """Measure both verifiers on both lists.

    Returns:
        For each list ("grouped", "distinct"): completions and distinct pairs, seconds to start the verifier's
        processes, completions per second of math-verify and of r1kit (processes running), their ratio, and
        the pairs on which they differ as (gold, answer, math-verify's verdict, r1kit's verdict).
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
    """Format the numbers as text, with every pair on which the two differ."""
    return "\n".join(line for name, row in results.items() for line in _lines(name, row))


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


def grouped(completions: int, seed: int) -> list[tuple[str, str]]:
    """Return (gold, answer) pairs in groups of eight: right in several spellings, or wrong and repeated."""
    rng = random.Random(seed)
    pairs = []
    while len(pairs) < completions:
        gold, others, wrong = _problem(rng)
        mistakes = [wrong() for _ in range(2)]
        weights = [8, 2, 2, 2, 2]
        choices = [gold, others, others, *mistakes]
        for _ in range(GROUP):
            choice = rng.choices(choices, weights)[0]
            pairs.append((gold, rng.choice(choice) if isinstance(choice, list) else choice))
    return pairs[:completions]


def distinct(completions: int, seed: int) -> list[tuple[str, str]]:
    """Return (gold, answer) pairs that are all different, a third of them right."""
    rng = random.Random(seed)
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < completions:
        gold, others, wrong = _problem(rng)
        pairs[gold, rng.choice([rng.choice(others), gold, wrong(), wrong()])] = None
    return list(pairs)


def _problem(rng: random.Random) -> tuple[str, list[str], Callable[[], str]]:
    """Return a gold, other spellings of it, and a function that writes wrong answers of its form."""
    if rng.random() < 0.5:
        value = rng.randint(-99, 9999)
        others = [f"{value:,}", f"{value}.0", str(value)]
        return str(value), others, lambda: str(value + rng.choice([-10, -2, -1, 1, 2, 7, 100]))
    kind = rng.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    return _KINDS[kind][1](rng)


def _fraction(rng: random.Random) -> tuple:
    a, b = rng.randint(1, 60), rng.randint(2, 40)
    value = Fraction(a, b)
    others = [f"{a}/{b}", rf"\dfrac{{{a}}}{{{b}}}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"]
    return rf"\frac{{{a}}}{{{b}}}", others, lambda: rf"\frac{{{a + rng.randint(1, 9)}}}{{{b}}}"


def _percent(rng: random.Random) -> tuple:
    a = rng.randint(1, 99)
    return rf"{a}\%", [f"{a}%", f"{a}"], lambda: rf"{a + rng.randint(1, 30)}\%"


def _unit(rng: random.Random) -> tuple:
    a, unit = rng.randint(2, 400), rng.choice(["cm", "miles", "hours", "kg", "km/h", "square feet"])
    return rf"{a} \text{{ {unit}}}", [f"{a}", rf"{a}\text{{ {unit}}}"], lambda: f"{a + rng.randint(1, 50)}"


def _surd(rng: random.Random) -> tuple:
    a, b = rng.randint(2, 12), rng.choice([2, 3, 5, 6, 7])
    others = [rf"\sqrt{{{a * a * b}}}", rf"{a} \sqrt{{{b}}}"]
    return rf"{a}\sqrt{{{b}}}", others, lambda: rf"{a + rng.randint(1, 4)}\sqrt{{{b}}}"


def _pi(rng: random.Random) -> tuple:
    a, b = rng.randint(1, 30), rng.randint(2, 9)
    others = [rf"\frac{{{a}}}{{{b}}}\pi", rf"{a}\pi/{b}"]
    return rf"\frac{{{a}\pi}}{{{b}}}", others, lambda: rf"\frac{{{a + rng.randint(1, 9)}\pi}}{{{b}}}"


def _set(rng: random.Random) -> tuple:
    a, b, c = rng.sample(range(-30, 60), 3)
    others = [rf"\{{{c}, {a}, {b}\}}", f"{a}, {b}, {c}", rf"\left\{{{b},{a},{c}\right\}}"]
    return rf"\{{{a}, {b}, {c}\}}", others, lambda: rf"\{{{a}, {b + rng.randint(100, 200)}, {c}\}}"


def _roots(rng: random.Random) -> tuple:
    a, b = rng.sample(range(-30, 60), 2)
    others = [f"{b},{a}", rf"{a} \text{{ and }} {b}", f"x={a}, x={b}"]
    return f"{a}, {b}", others, lambda: f"{a}, {b + rng.randint(100, 200)}"


def _interval(rng: random.Random) -> tuple:
    a, b = rng.randint(-20, 5), rng.randint(6, 40)
    others = [rf"\left[{a},{b}\right)", f"[{a},{b})"]
    return f"[{a}, {b})", others, lambda: rng.choice([f"[{a}, {b}]", f"({a}, {b + rng.randint(1, 9)})"])


def _point(rng: random.Random) -> tuple:
    a, b, c = (rng.randint(-20, 40) for _ in range(3))
    return f"({a}, {b}, {c})", [f"({a},{b},{c})"], lambda: f"({a}, {b + rng.randint(1, 30)}, {c})"


def _equation(rng: random.Random) -> tuple:
    a, b = rng.randint(2, 9), rng.randint(1, 30)
    return f"y = {a}x + {b}", [f"y={b}+{a}x", f"{a}x + {b}"], lambda: f"y = {a}x + {b + rng.randint(1, 30)}"


def _value(rng: random.Random) -> tuple:
    a = rng.randint(-50, 400)
    return f"x = {a}", [f"{a}", f"x={a}"], lambda: f"x = {a + rng.randint(1, 50)}"


def _polynomial(rng: random.Random) -> tuple:
    a, b = rng.randint(1, 15), rng.randint(1, 15)
    others = [f"x^2 + {a + b}x + {a * b}", f"(x+{b})(x+{a})"]
    return f"(x+{a})(x+{b})", others, lambda: f"x^2 + {a + b + rng.randint(1, 9)}x + {a * b}"


def _matrix(rng: random.Random) -> tuple:
    a, b, c, d = (rng.randint(-9, 20) for _ in range(4))
    others = [rf"\begin{{bmatrix}}{a}&{b}\\{c}&{d}\end{{bmatrix}}"]
    write = r"\begin{{pmatrix}} {} & {} \\ {} & {} \end{{pmatrix}}".format
    return write(a, b, c, d), others, lambda: write(a, b, c, d + rng.randint(1, 9))


def _scientific(rng: random.Random) -> tuple:
    a, b = rng.randint(11, 99), rng.randint(2, 9)
    others = [str(a * 10 ** (b - 1)), rf"{a / 10} \cdot 10^{{{b}}}"]
    return rf"{a / 10} \times 10^{{{b}}}", others, lambda: rf"{a / 10} \times 10^{{{b + 1}}}"


def _choice(rng: random.Random) -> tuple:
    letter = rng.choice("ABCDE")
    others = [rf"\text{{{letter}}}", f"({letter})", rf"\textbf{{({letter})}}"]
    return letter, others, lambda: rng.choice([x for x in "ABCDE" if x != letter])


def _word(rng: random.Random) -> tuple:
    words = ["yes", "no", "even", "odd", "Monday", "Tuesday", "north", "Evelyn"]
    word = rng.choice(words)
    return rf"\text{{{word}}}", [rf"\text{{{word.lower()}}}"], lambda: rf"\text{{{rng.choice(words)}x}}"


def _hard(rng: random.Random) -> tuple:
    a, b = rng.randint(2, 30), rng.randint(2, 9)
    return rng.choice(
        [
            (rf"\log_{{{b}}} {a}", [rf"\frac{{\ln {a}}}{{\ln {b}}}"], lambda: rf"\log_{{{b}}} {a + 1}"),
            (rf"\sqrt[3]{{{a}}}", [rf"{a}^{{1/3}}"], lambda: rf"\sqrt[3]{{{a + rng.randint(1, 9)}}}"),
            (rf"{a}\sin {b}x", [rf"{a} \sin({b}x)"], lambda: rf"{a}\cos {b}x"),
            (rf"\frac{{x+{a}}}{{x-{b}}}", [rf"\frac{{{a}+x}}{{x-{b}}}"], lambda: rf"\frac{{x}}{{x-{b}}}"),
        ]
    )


_KINDS = {
    "fraction": (20, _fraction), "percent": (5, _percent), "unit": (8, _unit), "surd": (9, _surd),
    "pi": (6, _pi), "set": (3, _set), "roots": (6, _roots), "interval": (5, _interval), "point": (5, _point),
    "equation": (3, _equation), "value": (5, _value), "polynomial": (6, _polynomial), "matrix": (2, _matrix),
    "scientific": (2, _scientific), "choice": (7, _choice), "word": (2, _word), "hard": (6, _hard),
}  # fmt: skip
