r"""Exact values: sums of products of rationals, square roots, constants and letters, in normal form.

A value is a dict from a monomial to its rational coefficient. A monomial is a square-free radicand under one
root and atoms with their powers, sorted: `2x\sqrt{3}` is `{(3, (("x", 1),)): 2}`.
Two values are equal exactly if their terms are.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

Terms = dict[tuple[int, tuple[tuple[str, int], ...]], Fraction]

CONSTANTS = {"\\pi": math.pi, "e": math.e}
INFINITE = "\\infty"
_ONE = (1, ())
_LARGEST_BITS = 7000  # about the 2000 digits that an answer may have; 10^{10^{10}} must never be computed
_LARGEST_POWER = 24  # of something with letters
_MOST_TERMS = 80
_LARGEST_RADICAND = 10**6  # made square-free by trial division


class Unknown(ValueError):
    """The text or value is none of the kinds known here."""


class Meaningless(ValueError):
    """Nobody can tell a value: a division by zero, two numbers with nothing between them."""


class TooLarge(ValueError):
    """A number with more digits than an answer may have: it is compared as written, never computed."""


def constant(value: Fraction | int) -> Terms:
    """A rational number as terms."""
    return {_ONE: Fraction(value)} if value else {}


def rational(terms: Terms) -> Fraction | None:
    """The value if it is a rational number, else None."""
    if not terms:
        return Fraction(0)
    return terms[_ONE] if len(terms) == 1 and _ONE in terms else None


def approximate(terms: Terms) -> float | None:
    """The value in floating point if no letter stands in it, else None."""
    total = 0.0
    try:
        for (radicand, atoms), coefficient in terms.items():
            value = float(coefficient) * math.sqrt(radicand)
            for atom, power in atoms:
                if atom not in CONSTANTS:
                    return None
                value *= CONSTANTS[atom] ** power
            total += value
    except OverflowError:
        return None
    return total


def add(one: Terms, other: Terms, sign: int = 1) -> Terms:
    """one + sign * other."""
    total = dict(one)
    for monomial, coefficient in other.items():
        value = total.get(monomial, Fraction(0)) + sign * coefficient
        if value:
            total[monomial] = value
        else:
            total.pop(monomial, None)
    return total


def multiply(one: Terms, other: Terms) -> Terms:
    """The product, term by term."""
    if len(one) * len(other) > _MOST_TERMS:
        raise Unknown("too many terms")
    total: Terms = {}
    for (root_1, atoms_1), value_1 in one.items():
        for (root_2, atoms_2), value_2 in other.items():
            if _bits(value_1) + _bits(value_2) > _LARGEST_BITS:
                raise TooLarge
            shared = math.gcd(root_1, root_2)
            value = value_1 * value_2 * shared
            powers = dict(atoms_1)
            for atom, power in atoms_2:
                powers[atom] = powers.get(atom, 0) + power
            if "i" in powers:
                quarter = powers.pop("i") % 4
                value = -value if quarter >= 2 else value
                if quarter % 2:
                    powers["i"] = 1
            if INFINITE in powers and (len(powers) > 1 or powers[INFINITE] != 1):
                raise Unknown("arithmetic with infinity")
            atoms = tuple(sorted((atom, power) for atom, power in powers.items() if power))
            monomial = (root_1 * root_2 // shared**2, atoms)
            total = add(total, {monomial: value})
    return total


def inverse(terms: Terms) -> Terms:
    """1 / terms, for a single term that is not zero."""
    if not terms:
        raise Meaningless("a division by zero")
    if len(terms) != 1:
        raise Unknown("division by a sum")
    ((radicand, atoms), value), *_ = terms.items()
    return multiply(
        {(radicand, ()): 1 / (value * radicand)}, {(1, tuple((a, -p) for a, p in atoms)): Fraction(1)}
    )


def power(base: Terms, exponent: Terms) -> Terms:
    """Base to a whole exponent, or to one half."""
    value = rational(exponent)
    if value is None:
        raise Unknown("an exponent with letters")
    if value == Fraction(1, 2):
        return root(base)
    number = rational(base)
    if value.denominator != 1 or (value == 0 and number == 0):
        raise Unknown("a broken exponent")
    if number is not None:
        if _bits(number) * abs(value) > _LARGEST_BITS and abs(number) != 1:
            raise TooLarge
        if not number and value < 0:
            raise Meaningless("a division by zero")
        return constant(number ** int(value))
    if abs(value) > _LARGEST_POWER:
        raise Unknown("a large power")
    result = constant(1)
    for _ in range(abs(int(value))):
        result = multiply(result, base)
    return inverse(result) if value < 0 else result


def root(terms: Terms) -> Terms:
    """The square root of a rational number that is not negative."""
    value = rational(terms)
    if value is None or value < 0 or max(value.numerator, value.denominator) > _LARGEST_RADICAND:
        raise Unknown("the root of something else")
    radicand, outside, factor = value.numerator * value.denominator, Fraction(1, value.denominator), 2
    if radicand > _LARGEST_RADICAND:
        raise Unknown("the root of something else")
    while factor * factor <= radicand:
        while radicand % (factor * factor) == 0:
            radicand //= factor * factor
            outside *= factor
        factor += 1
    return {(radicand, ()): outside} if radicand else {}


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def proportional(terms: Terms) -> Terms:
    """Terms scaled so that the first coefficient is 1: multiples of an equation are the same equation."""
    return multiply(terms, inverse(constant(terms[min(terms)]))) if terms else terms


def frozen(terms: Terms) -> tuple:
    """Terms as a hashable value."""
    return tuple(sorted(terms.items()))


def terms_as_latex(terms: Terms) -> str:
    """Terms as LaTeX for math-verify, which drops a last letter as a unit unless it stands in brackets."""
    text = ""
    for (radicand, atoms), value in terms.items():
        above, below = abs(value.numerator), value.denominator
        factors = [rf"\frac{{{above}}}{{{below}}}" if below > 1 else str(above)]
        factors += [rf"\sqrt{{{radicand}}}"] if radicand > 1 else []
        factors += [f"{atom}^{{{power}}}" if power != 1 else atom for atom, power in atoms]
        if len(factors) > 1 and factors[0] == "1":
            del factors[0]
        text += ("-" if value < 0 else "+" if text else "") + r" \cdot ".join(factors)
    return f"({text})" if re.search(r"(?<![\\A-Za-z])[A-Za-z]$", text) else text or "0"
