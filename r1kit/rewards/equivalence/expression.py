r"""Reading short LaTeX expressions into exact terms.

Most answers are numbers, fractions, surds, multiples of pi or small polynomials. Reading them takes some ten
microseconds here and milliseconds in math-verify. Whatever this reader doesn't know (functions, sums in a
denominator, ambiguous notation such as `1/2x`) raises `Unknown` and is math-verify's to judge.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from r1kit.rewards.equivalence.terms import (
    CONSTANTS,
    Meaningless,
    Terms,
    Unknown,
    add,
    constant,
    inverse,
    multiply,
    power,
    rational,
    root,
)

_DEEPEST_EXPRESSION = 40
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|[A-Za-z](?:_(?:\w|\{\w+\}))?|[-+*/^!(){}])")
_GREEK = "alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi omega pi infty ell"
_LETTERS = frozenset("\\" + name for name in _GREEK.split())


def read_terms(text: str) -> Terms:
    """The terms of a normalised expression (see `text.normalised`).

    Raises:
        Unknown: the expression is not of the kinds known here.
        Meaningless: no value can be told.
        TooLarge: a power in it is beyond the digits of any answer.
    """
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            if text[at:].strip():
                raise Unknown(text)
            break
        tokens.append(found[1])
        at = found.end()
    tokens.append("")
    terms, end = _sum(tokens, 0, 0)
    if tokens[end] != "":
        raise Unknown(text)
    return terms


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    if depth > _DEEPEST_EXPRESSION:
        raise Unknown("nested too deeply")
    total: Terms = {}
    sign = 1
    if tokens[at] in ("+", "-"):
        sign, at = (1 if tokens[at] == "+" else -1), at + 1
    while True:
        term, at = _product(tokens, at, depth)
        total = add(total, term, sign)
        if tokens[at] not in ("+", "-"):
            return total, at
        sign, at = (1 if tokens[at] == "+" else -1), at + 1


def _product(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    first = at
    total, at = _factor(tokens, at, depth)
    divided = False
    while True:
        token = tokens[at]
        if token in ("*", "/"):
            negative = tokens[at + 1] == "-"
            factor, at = _factor(tokens, at + 1 + negative, depth)
            factor = multiply(constant(-1), factor) if negative else factor
            total = multiply(total, inverse(factor) if token == "/" else factor)
            divided = divided or token == "/"
        elif token and (token[0].isalpha() or token[0] in "\\({"):
            if divided:
                raise Unknown("1/2x may mean (1/2)x or 1/(2x)")
            follows_whole = at == first + 1 and tokens[first].isdigit() and token == "\\frac"
            factor, end = _factor(tokens, at, depth)
            if follows_whole and all(t.isdigit() or t in "{}" for t in tokens[at + 1 : end]):
                fraction = rational(factor)
                if fraction is None or not 0 < fraction < 1:
                    raise Unknown("2 3/2 is neither a mixed number nor clearly a product")
                total = add(total, factor)  # a mixed number
            else:
                total = multiply(total, factor)
            at = end
        elif token and (token[0].isdigit() or token[0] == "."):
            raise Meaningless("two numbers with nothing between them")
        else:
            return total, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    base, at = _base(tokens, at, depth)
    if tokens[at] == "!":
        value = rational(base)
        if value is None or value.denominator != 1 or not 0 <= value <= 500 or tokens[at + 1] in ("!", "^"):
            raise Unknown("a factorial of something large or broken")
        return constant(math.factorial(int(value))), at + 1
    if tokens[at] != "^":
        return base, at
    at += 1
    negative = tokens[at] == "-"
    exponent, at = _base(tokens, at + negative, depth)
    if tokens[at] in ("^", "!"):
        raise Unknown("a power of a power without braces")
    return power(base, multiply(constant(-1), exponent) if negative else exponent), at


def _base(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    token = tokens[at]
    if not token:
        raise Unknown("the expression ends early")
    if token[0].isdigit() or token[0] == ".":
        return constant(Fraction(token)), at + 1
    if token in ("(", "{"):
        inside, at = _sum(tokens, at + 1, depth + 1)
        if tokens[at] != {"(": ")", "{": "}"}[token]:
            raise Unknown("a bracket stays open")
        return inside, at + 1
    if token == "\\frac":
        above, at = _argument(tokens, at + 1, depth)
        below, at = _argument(tokens, at, depth)
        return multiply(above, inverse(below)), at
    if token == "\\sqrt":
        inside, at = _argument(tokens, at + 1, depth)
        return root(inside), at
    if token[0].isalpha() or token in _LETTERS:
        name = token if token in CONSTANTS or token == "i" else token.lower()
        return {(1, ((name.replace("{", "").replace("}", ""), 1),)): Fraction(1)}, at + 1
    raise Unknown(token)


def _argument(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    r"""`{...}` or one digit or letter: `\frac12` is one half, so a longer number is split."""
    token = tokens[at]
    if token == "{":
        return _base(tokens, at, depth)
    if token and token[0].isdigit() and token.isdigit() and len(token) > 1:
        tokens[at : at + 1] = list(token)
        token = tokens[at]
    if token and (token.isdigit() or token.isalpha()):
        return _base(tokens, at, depth)
    raise Unknown("an argument is missing")
