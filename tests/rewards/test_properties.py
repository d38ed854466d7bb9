r"""Properties of the accuracy reward: whatever the text, whatever the order, and beside math-verify."""

from __future__ import annotations

import logging
import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r1kit.rewards.accuracy import accuracy_reward, answer_after_reasoning, judge, judge_all
from r1kit.rewards.equivalence import Undecided, equal, read
from r1kit.rewards.equivalence.expression import terms_as_latex

PIECES = r"""
    5 6 0 12 1,000 . , ; - + * / ^ _ = < ( ) [ ] { } \{ \} \frac \sqrt \pi \infty \le \cup \pm \in \text{cm}
    \text{or} or % \% $ ^\circ x y a e i : ! & \\ \begin{pmatrix} \end{pmatrix} \left \right \overline{3}
    \boxed{ \boxed{5} <answer> </answer> </think> yes 1e5 10^{99} | ~ \, −
"""
LATEX = st.lists(st.sampled_from(PIECES.split()), max_size=12).map("".join)
ANY_TEXT = st.one_of(st.text(max_size=60), LATEX)


@pytest.fixture(autouse=True)
def math_verify_is_not_asked(monkeypatch):
    """These properties are of the exact rules; what is asked counts as wrong."""
    from r1kit.rewards import verifier

    monkeypatch.setattr(verifier, "verify_all", lambda pairs: [0.0] * len(pairs))


def completion(answer: str) -> str:
    return f"<think>\nhm\n</think>\n<answer>\n{answer}\n</answer>"


EXAMPLES = settings(deadline=None, max_examples=150)


@EXAMPLES
@given(ANY_TEXT, ANY_TEXT)
def test_no_text_crashes_the_reward(text, gold):
    texts = [text, completion(text), f"</think>{text}", [{"role": "assistant", "content": text}]]
    for verdict in accuracy_reward(texts, [gold] * 4):
        assert verdict in (None, 0.0, 1.0)


@EXAMPLES
@given(ANY_TEXT, ANY_TEXT)
def test_an_unjudgeable_gold_is_so_for_every_completion(text, gold):
    verdicts = accuracy_reward([completion(text), completion("5"), "", completion(gold)], [gold] * 4)
    assert len({verdict is None for verdict in verdicts}) == 1


@EXAMPLES
@given(
    st.lists(st.tuples(ANY_TEXT, st.sampled_from(["5", "1, 2", "x=5", "(1,2)"])), max_size=8), st.randoms()
)
def test_the_order_of_completions_does_not_matter(rows, rng):
    shuffled = rng.sample(rows, len(rows))
    one = dict(
        zip(rows, accuracy_reward([completion(t) for t, _ in rows], [g for _, g in rows]), strict=True)
    )
    other = accuracy_reward([completion(t) for t, _ in shuffled], [g for _, g in shuffled])
    assert [one[row] for row in shuffled] == other


@EXAMPLES
@given(st.sampled_from(["6", r"\boxed{6}", "4", r"\frac{1}{2}", "5, 6", r"\boxed{4} \boxed{4}"]), ANY_TEXT)
@example("6", "<answer>5</answer>")
@example(r"\boxed{6}", r"\boxed{5}")
def test_appending_text_never_raises_the_reward_of_a_wrong_answer(wrong, tail):
    for text in (completion(wrong), f"<think>\nhm\n</think>\nso {wrong}."):
        if answer_after_reasoning(text) is not None:
            assert accuracy_reward([text + tail], ["5"]) == [0.0]


@EXAMPLES
@given(ANY_TEXT)
def test_equality_is_reflexive_where_it_is_decided_and_symmetric(text):
    form = read(text)
    for other in (read("5"), read("1, 2"), read(r"\frac{1}{2}"), read("[1,2)")):
        try:
            assert equal(form, other) == equal(other, form)
        except Undecided:
            continue


def number(rng: random.Random) -> Fraction:
    kind = rng.random()
    if kind < 0.4:
        return Fraction(rng.randint(-(10 ** rng.randint(1, 9)), 10 ** rng.randint(1, 9)))
    if kind < 0.7:
        return Fraction(rng.randint(-99_999, 99_999), 10 ** rng.randint(1, 5))
    return Fraction(rng.randint(-60, 60), rng.randint(2, 40))


def spelled(value: Fraction, rng: random.Random) -> str:
    """The value as an integer, a decimal, a fraction, a mixed number or a percentage."""
    sign, size = "-" if value < 0 else "", abs(value)
    above, below = size.numerator, size.denominator
    times = rng.randint(1, 4)
    spellings = [rf"\frac{{{value.numerator}}}{{{below}}}", f"{sign}{above * times}/{below * times}"]
    spellings += [rf"{sign}\dfrac{{{above}}}{{{below}}}"]
    if below > 1 and above > below:
        spellings.append(rf"{sign}{above // below}\frac{{{above % below}}}{{{below}}}")
    if 10**6 % below == 0:
        decimal = Decimal(value.numerator) / Decimal(below)
        spellings = [f"{decimal:f}", f"{decimal:f}", f"{decimal:,f}", *spellings[:1]]
        if (value * 100).denominator == 1:
            spellings.append(rf"{value * 100}\%")
    return rng.choice(spellings)


def pair(rng: random.Random) -> tuple[str, str]:
    value = number(rng)
    near = rng.choice(
        [value, value, value, -value, value + 1, value * 10, value / 100, value + Fraction(1, 7)]
    )
    near = near if near.denominator <= 10**6 else value
    return spelled(value, rng), spelled(near, rng)


def named_difference(gold: str, answer: str) -> str | None:
    """The name of a difference from math-verify that `r1kit.rewards.equivalence` documents, if it applies."""
    percents = [text for text in (gold, answer) if text.endswith("%")]
    if len(percents) == 1 and ("." in gold + answer or "-" in gold):
        return "12.5% and 12.5, -5% and -5 are equal"
    return None


@pytest.mark.parametrize("wanted", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_exact_rules_agree_with_math_verify_on_generated_numbers(wanted):
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we switch its timeouts off
    rng = random.Random(wanted)
    pairs = [pair(rng) for _ in range(wanted)]
    named, right = 0, 0
    for (gold, answer), ours in zip(
        pairs, judge_all([(answer, gold) for gold, answer in pairs]), strict=True
    ):
        theirs = verify(
            parse(rf"\boxed{{{gold}}}", parsing_timeout=None),
            parse(rf"\boxed{{{answer}}}", parsing_timeout=None),
            timeout_seconds=None,
        )
        right += ours
        if ours != theirs:
            assert named_difference(gold, answer), (gold, answer, ours, theirs)
            named += 1
    assert 0.3 < right / wanted < 0.8  # both verdicts are well represented
    assert named < wanted / 50


@settings(deadline=None, max_examples=100)
@given(
    st.integers(-999, 999), st.integers(1, 60), st.sampled_from(["", "x", r"\pi", "xy"]), st.integers(1, 60)
)
def test_what_is_written_for_math_verify_reads_as_the_same_value(above, below, letters, radicand):
    form = read(rf"\frac{{{above}}}{{{below}}}{letters}\sqrt{{{radicand}}}")
    assert read(terms_as_latex(dict(form.terms))) == form
    assert judge(rf"\frac{{{above}}}{{{below}}}", f"{above}/{below}") == 1.0
