r"""Relations: memberships, inequalities as intervals, equations, plus-minus and ratios.

Each reader takes the text and the reader of its sides, and returns None if the text is no such relation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from r1kit.rewards.equivalence.expression import read_terms
from r1kit.rewards.equivalence.forms import Equation, Items, Quantity, Refused, Unread, several
from r1kit.rewards.equivalence.terms import (
    INFINITE,
    Meaningless,
    TooLarge,
    Unknown,
    add,
    constant,
    frozen,
    proportional,
    rational,
)
from r1kit.rewards.equivalence.text import split_top
from r1kit.rewards.equivalence.units import unit_of

Read = Callable[[str], object]

_ORDER = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_NAME = re.compile(
    r"""[A-Za-z](?:_(?:\w|\{\w+\})|\^\{-1\}|'|\^\\prime)*(?:\([A-Za-z](?:,\s*[A-Za-z])*\))?  # f^{-1}(x)
    | \([A-Za-z](?:,\s*[A-Za-z])+\)  # (x, y)
    | (?:m\s*)?\\angle\s*[A-Z]{1,3} | \\overline\{[A-Z]{2}\} | \\(?!pi|infty)[a-z]+ | \\text\{[A-Za-z ]+\}
    | [A-Z][A-Za-z]{1,11} | [a-z]{4,12}""",
    re.VERBOSE,
)


def interval(left: str, low: object, high: object, right: str, name: str = "") -> Items:
    """Brackets at infinity are open, whatever was written."""
    left = "(" if low == _infinite(-1) else left
    right = ")" if high == _infinite(1) else right
    return Items(left + right, (low, high), name)


def _approximation(text: str, read: Read) -> object | None:
    r"""`\pi \approx 3.14` says \pi, and `x \approx 3.14` says 3.14."""
    sides = [side.strip() for side in text.split("\\approx")]
    if len(sides) != 2:
        return None if len(sides) == 1 else Refused("a chain of approximations")
    return read(sides[1] if not sides[0] or _NAME.fullmatch(sides[0]) else sides[0])


def _membership(text: str, read: Read) -> object | None:
    name, sign, rest = text.partition("\\in")
    if not sign or rest[:1].isalpha() or not _NAME.fullmatch(name.strip()):
        return None
    return read(rest.strip())


def _inequality(text: str, read: Read) -> object | None:
    """`x > 3`, `3 < x`, `1 < x \\le 2` as intervals; other inequalities are math-verify's."""
    if "=" in text or "\\ne" in text:
        return None
    parts = [part.strip() for part in _ORDER.split(text)]
    if len(parts) == 1:
        return None
    signs = [{"<": "<", ">": ">", "\\le": "<=", "\\ge": ">="}[sign] for sign in parts[1::2]]
    sides = parts[0::2]
    if len({sign[0] for sign in signs}) > 1 or len(sides) > 3:
        return Unread(text)
    if signs[0][0] == ">":
        sides, signs = sides[::-1], [sign.replace(">", "<") for sign in signs[::-1]]
    at = [i for i, side in enumerate(sides) if re.fullmatch(r"[A-Za-z]|\\theta", side)]
    if len(at) != 1 or (len(sides) == 3 and at != [1]):
        return Unread(text)
    ends = {i: read(side) for i, side in enumerate(sides) if i != at[0]}
    if not all(isinstance(end, Quantity) for end in ends.values()):
        return Unread(text)
    low, high = ends.get(at[0] - 1, _infinite(-1)), ends.get(at[0] + 1, _infinite(1))
    left = "[" if at[0] > 0 and signs[at[0] - 1] == "<=" else "("
    right = "]" if at[0] < len(signs) and signs[at[0]] == "<=" else ")"
    return interval(left, low, high, right, sides[at[0]].lower())


def _equation(text: str, read: Read) -> object | None:
    """`x = 5`, `5 = x`, `y = 2x + 1`, chains; sides that contradict each other are refused."""
    sides = [side.strip() for side in re.split(r"(?<!\\)=", text)]
    if len(sides) == 1:
        return None
    if not all(sides) or len(sides) > 6:
        return Refused("an equation without a side")
    if _NAME.fullmatch(sides[-1]) and len(sides) == 2 and not _NAME.fullmatch(sides[0]):
        sides.reverse()
    if _NAME.fullmatch(sides[0]):
        values = [read(side) for side in sides[1:]]
        if any(isinstance(value, Unread) for value in values) and len(values) > 1:
            return Unread(text)
        if any(value != values[0] for value in values):
            return Refused("an equation that contradicts itself")
        if isinstance(values[0], Refused):
            return values[0]
        difference = None
        if isinstance(values[0], Quantity) and not values[0].unit and _is_symbol(sides[0]):
            difference = frozen(proportional(add(read_terms(sides[0]), dict(values[0].terms), -1)))
        return Equation(re.sub(r"\\text|[{} ]", "", sides[0]).lower(), values[0], difference)
    try:
        terms = [read_terms(side) for side in sides]
    except (TooLarge, Meaningless) as reason:
        return Refused(str(reason) or "too large")
    except Unknown:
        return Unread(text)
    if all(rational(side) is not None for side in terms):
        if any(side != terms[0] for side in terms):
            return Refused("an equation that contradicts itself")
        return Quantity(frozen(terms[0]))
    if len(terms) > 2:
        return Unread(text)
    return Equation("", None, frozen(proportional(add(terms[0], terms[1], -1))))


def _is_symbol(name: str) -> bool:
    try:
        return len(read_terms(name)) == 1
    except ValueError:
        return False


def _plus_minus(text: str, read: Read) -> object | None:
    if text.count("\\pm") != 1 or "=" in text:
        return None
    before, _, after = text.partition("\\pm")
    plus = f"{before} + {after}" if before.strip() else after
    return several("list", [read(plus), read(f"{before} - {after}")])


def _ratio(text: str, read: Read) -> object | None:
    if ":" not in text:
        return None
    body, unit = unit_of(text)
    parts = split_top(body, ":")
    if len(parts) < 2:
        return None
    if not all(part.strip() for part in parts):
        return Refused("a ratio without a side")
    form = several("ratio", [read(part) for part in parts])
    if not isinstance(form, Items) or not all(isinstance(i, Quantity) and not i.unit for i in form.items):
        return Unread(text)
    values = [rational(dict(item.terms)) for item in form.items]
    if any(value is None or value == 0 for value in values):
        return Unread(text)
    scaled = tuple(Quantity(frozen(constant(value / values[-1]))) for value in values)
    return Quantity(scaled[0].terms, unit) if len(scaled) == 2 else Items("ratio", scaled)


def _infinite(sign: int) -> Quantity:
    return Quantity(frozen({(1, ((INFINITE, 1),)): Fraction(sign)}))


RELATIONS = (_approximation, _membership, _inequality, _equation, _plus_minus, _ratio)
