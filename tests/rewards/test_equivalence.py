r"""When two answers are equal: the rules of `r1kit.rewards.equivalence`, one by one."""

from __future__ import annotations

from fractions import Fraction

import pytest

from r1kit.rewards.equivalence import Refused, Undecided, Unread, equal, parts, read
from r1kit.rewards.equivalence.expression import Meaningless, TooLarge, Unknown, rational, read_terms
from r1kit.rewards.equivalence.reading import form_as_latex


def same(gold: str, answer: str) -> bool:
    return equal(read(gold), read(answer))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-2.50", Fraction(-5, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"\frac34", Fraction(3, 4)),
        (r"-1\frac{1}{2}", Fraction(-3, 2)),
        ("2^{10}", 1024),
        ("10^-3", Fraction(1, 1000)),
        ("2(3+4)", 14),
        ("3*-2", -6),
        ("8/2/2", 2),
        ("5!", 120),
        (r"\sqrt{2}\sqrt{8}", 4),
        ("(1+i)(1-i)", 2),
    ],
)
def test_an_expression_is_computed_exactly(text, value):
    assert rational(read_terms(text)) == value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\sqrt{12}", r"2\sqrt{3}"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        ("(x+y)^2", "x^2 + 2yx + y^2"),
        (r"\frac{2\pi}{6}", r"\pi/3"),
        ("x_{1}", "x_1"),
        (r"\frac{6x}{3}", "2x"),
    ],
)
def test_equal_expressions_have_equal_terms(one, other):
    assert read_terms(one) == read_terms(other)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1/2x", Unknown),  # (1/2)x or 1/(2x)
        (r"2\frac{3}{2}", Unknown),  # no mixed number, and hardly a product
        (r"\sin x", Unknown),
        ("2^x", Unknown),
        (r"\frac{1}{x+1}", Unknown),
        ("2^3^2", Unknown),
        ("(" * 60 + "1" + ")" * 60, Unknown),
        ("5 6", Meaningless),
        ("1/0", Meaningless),
        ("10^{10^{10}}", TooLarge),
    ],
)
def test_what_is_not_clearly_one_value_is_left_to_others(text, error):
    with pytest.raises(error):
        read_terms(text)


@pytest.mark.parametrize(
    "text", ["", "}{", "{", "\x00", "\ud800", "5\x07", "1" * 2001, ",", "x =", "5 6", "6=5"]
)
def test_what_nobody_can_judge_is_refused(text):
    assert isinstance(read(text), Refused)
    assert not same(text, text)


def test_a_part_that_was_not_read_is_asked_and_nothing_else():
    with pytest.raises(Undecided):
        same(r"\{\sin 1, 2\}", r"\{2, \cos 1\}")
    asked = []
    assert equal(read(r"(2, \sin 1)"), read(r"(2, \cos 1)"), lambda *pair: asked.append(pair) or True)
    assert asked == [(r"\sin 1", r"\cos 1")]
    assert not equal(read(r"(2, \sin 1)"), read(r"(3, \cos 1)"))  # decided before it


def test_shapes_that_cannot_be_equal_are_not_asked():
    assert not same(r"\{\sin 1, 2\}", r"\{\sin 1, 2, 3\}")
    assert not same("yes", r"\sin x")
    assert not same("5", r"\sin x = 5")


def test_sets_are_matched_whatever_the_order_even_if_every_element_has_to_be_asked():
    """math-verify sorts both sides and compares in pairs."""
    table = {("\\sin 1", "\\cos 2"), ("\\sin 2", "\\cos 1")}
    forms = read(r"\{\sin 1, \sin 2\}"), read(r"\{\cos 1, \cos 2\}")
    assert equal(*forms, lambda *pair: pair in table)
    assert not equal(*forms, lambda gold, answer: answer == "\\cos 1")  # one answer cannot stand for both


def test_a_percent_sign_is_read_both_ways_but_not_mixed_up():
    assert same("50\\%", "0.5")
    assert same("50", "50\\%")
    assert same("12.5\\%", "12.5")
    assert not same("0.5", "50")


def test_a_letter_after_a_number_is_a_unit_only_after_a_space():
    assert same("5", "5 m")
    assert same("5m", "5 m")  # the product, if that is what gold means
    assert not same("5", "5m")
    assert not same("5 m", "5 s")


def test_units_count_only_when_both_sides_name_one():
    assert same("5", r"5 \text{ cm}")
    assert same("5 cm", r"5 \text{ centimetres}")
    assert not same("5 cm", "5 m")
    assert not same(r"60 \text{ km}", r"60 \text{ km/h}")


def test_six_decimals_are_enough_for_a_value_that_has_no_end():
    assert same("1/3", "0.333333")
    assert same(r"\pi", "3.141593")
    assert not same("1/3", "0.33333")
    assert not same("13", "13.0000004")
    assert not same("0.000012", "0.0000125")


def test_what_is_sent_to_math_verify_ends_in_no_letter():
    """math-verify takes a last letter for a unit: 5t was 5."""
    assert form_as_latex(read("5t")) == r"(5 \cdot t)"
    assert form_as_latex(read(r"\{1, \frac{1}{2}\}")) == r"\{1,\frac{1}{2}\}"
    assert form_as_latex(read(r"x \ge 3")) == r"[3,\infty)"


def test_unread_text_keeps_its_normal_spelling():
    assert read(r"\dfrac{\sin x}{2}") == read(r"\frac{\sin x}{2}") == Unread(r"\frac{\sin x}{2}")


def test_numbers_of_two_thousand_digits_are_compared_and_larger_powers_only_as_written():
    assert same("9" * 1999, "9" * 1999)
    assert not same("9" * 1999, "9" * 1998 + "8")
    assert same("10^{10^{10}}", "10^{10^{10}}")
    assert not same("10^{10^{10}}", "9^{10^{10}}")


@pytest.mark.parametrize(
    "text",
    [r"6 \to 5", r"5 \to 6", r"\cancel{6} 5", "5 ? 6", r"5 \mid 6", r"5 \text{ or 6}",
     r"5 \text{ cm } 6 \text{ cm}", r"\begin{cases}5\\6\end{cases}", r"\fbox{5} 6", "5 * * 6", r"5 \vee 6"],
)  # fmt: skip
def test_notation_that_math_verify_would_skip_is_refused(text):
    """It skips what it doesn't know: one of two candidates counted, the last one mostly."""
    assert isinstance(read(text), Refused)


@pytest.mark.parametrize(
    "text", [r"\lim_{x \to 0} \frac{\sin x}{x}", "|x+1|", r"\cot x \text{ cm}", r"x \in \mathbb{R}", "n!"]
)
def test_notation_that_math_verify_knows_may_be_asked(text):
    assert any(isinstance(part, Unread) for part in parts(read(text)))


def test_infinity_is_a_value_but_has_no_arithmetic():
    assert same("(3, \\infty)", "x > 3")
    assert not same(r"\infty", r"-\infty")
    assert isinstance(read(r"\infty - \infty"), Unread)
    assert isinstance(read(r"2\infty"), Unread)
