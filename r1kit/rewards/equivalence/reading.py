"""Read an answer: `read` returns its form (`Quantity`, `Items`, ...) with exact values in it.

`read` never calls math-verify and never fails. Text that the rules do not know becomes `Unread`, which only
math-verify can judge, and text that nothing can judge becomes `Refused`.

Only notation that math-verify knows may be sent to it (`askable`). It skips the rest and judges what remains,
so `6 \\to 5`, `\\cancel{6} 5` and `5 ? 6` equalled 5 or 6 (0.9.0, 2026-11-24): an unknown separator between
two candidates lets one of them count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from r1kit.rewards.equivalence.expression import (
    INFINITE,
    LONGEST_ANSWER,
    ROW_END,
    Meaningless,
    TooLarge,
    Unknown,
    add,
    closes,
    constant,
    frozen,
    is_number,
    normalised,
    plain_words,
    proportional,
    rational,
    read_terms,
    split_top,
    terms_as_latex,
    unit_of,
    without_wrapping,
)

_MOST_ITEMS = 64


@dataclass(frozen=True)
class Quantity:
    """An exact value, perhaps with a unit (`""` if none) or a percent sign."""

    terms: tuple
    unit: str = ""
    decimals: int = field(default=0, compare=False)
    """Digits after the point of a plain decimal number; 0 for everything else."""


@dataclass(frozen=True)
class Words:
    """A short text, folded: `yes`, `monday`."""

    text: str


@dataclass(frozen=True)
class Items:
    """Several forms.

    Their kind is `list` (bare, "1, 2"), `set`, `union`, `ratio`, `row`, `rows`, or the two brackets ("[)").
    """

    kind: str
    items: tuple
    name: str = ""
    """The variable of an inequality that was read as an interval."""


@dataclass(frozen=True)
class Equation:
    """`name = value` if one side is a lone variable, and left minus right as terms (None if not exact)."""

    name: str
    value: object
    difference: tuple | None


@dataclass(frozen=True)
class Unread:
    """Text that only math-verify can judge."""

    text: str


@dataclass(frozen=True)
class Refused:
    """Text without a value: a wrong answer, or an unjudgeable gold."""

    why: str


def parts(form: object) -> Iterator[object]:
    """Yield the form itself and all forms in it."""
    yield form
    if isinstance(form, Items):
        for item in form.items:
            yield from parts(item)
    elif isinstance(form, Equation) and form.value is not None:
        yield from parts(form.value)


def _several(kind: str, forms: list) -> object:
    refused = next((form for form in forms if isinstance(form, Refused)), None)
    if refused is None and len(forms) > _MOST_ITEMS:
        refused = Refused("too many items")
    return refused or Items(kind, tuple(forms))


_DEEPEST_LIST = 6
_MATRIX = re.compile(r"\\begin\{([bp]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}")
_SET_BUILDER = re.compile(r"[A-Za-z](?:\\in\\mathbb\{?R\}?)?\s*(?:\||:)(.*)")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_OVERLINE = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar|dot)(?:\{(\d+)\}|(\d))")
_BASED = re.compile(r"(-?[0-9A-F]+)_(?:\{(\d+)\}|(\d))")


@lru_cache(maxsize=8192)
def read(text: str) -> object:
    """Return the form of an answer's text: one of the classes above."""
    if len(text) > LONGEST_ANSWER:
        return Refused("too long")
    text = normalised(text)
    if not text:
        return Refused("empty, or braces that do not match")
    form = _read(text, 0)
    if any(isinstance(part, Unread) and not askable(part.text) for part in parts(form)):
        return Refused("notation that math-verify would skip")
    return form


def _read(text: str, depth: int) -> object:
    if depth > _DEEPEST_LIST:
        return Unread(text)
    text = without_wrapping(text)
    if not text:
        return Refused("something is missing")
    if is_number(text):  # most answers end here
        return _quantity(text)
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row.strip() for row in matrix[2].split(ROW_END)]
        rows = rows[:-1] if rows and not rows[-1] else rows
        cells = [[_read(cell, depth + 1) for cell in row.split("&")] for row in rows]
        return _several("rows", [_several("row", row) for row in cells])
    for separator, kind in ((",", "list"), ("\\cup", "union")):
        pieces = split_top(text, separator)
        if len(pieces) > 1:
            return _several(kind, [_read(piece, depth + 1) for piece in pieces])
    bracketed = _bracketed(text, depth)
    if bracketed is not None:
        return bracketed
    for relation in _RELATIONS:
        form = relation(text, lambda side: _read(side, depth + 1))
        if form is not None:
            return form
    return _scalar(text)


def _bracketed(text: str, depth: int) -> object | None:
    """Read a set in braces, or an interval or tuple in brackets; None for anything else."""
    if text.startswith("\\{") and text.endswith("\\}"):
        inner = text[2:-2].strip()
        if "\\{" in inner and split_top(inner, "\\cup") == [inner] and inner.find("\\}") < inner.find("\\{"):
            return None
        if not inner:
            return Items("set", ())
        builder = _SET_BUILDER.fullmatch(inner)
        if builder:
            form = _read(builder[1].strip(), depth + 1)
            return form if isinstance(form, Items) and form.name else Unread(text)
        return _several("set", [_read(part, depth + 1) for part in split_top(inner, ",")])
    if text[0] in "([" and text[-1] in ")]" and closes(text, 0) == len(text) - 1:
        pieces = split_top(text[1:-1], ",")
        if len(pieces) < 2:
            return None
        form = _several(text[0] + text[-1], [_read(piece, depth + 1) for piece in pieces])
        pair = isinstance(form, Items) and len(pieces) == 2
        return _interval(text[0], *form.items, text[-1]) if pair else form
    return None


def _scalar(text: str) -> object:
    """Read one value with its unit, or words."""
    words = plain_words(_TEXT.sub(r"\1", text))
    if words is not None:
        return Words(words)
    body, unit = unit_of(text)
    form = _quantity(body, unit)
    return Unread(text) if isinstance(form, Unread) else form


def _quantity(text: str, unit: str = "") -> object:
    overline, based = _OVERLINE.fullmatch(text), _BASED.fullmatch(text)
    if overline:
        sign, whole, fixed, period = overline[1], overline[2] or "0", overline[3], overline[4] or overline[5]
        value = Fraction(int(whole + fixed or "0")) + Fraction(int(period), 10 ** len(period) - 1)
        value /= 10 ** len(fixed)
        return Quantity(frozen(constant(-value if sign else value)), unit)
    if based and not unit:
        text, unit = based[1], f"base {based[2] or based[3]}"
        if not text.lstrip("-").isdigit():
            return Unread(based[0])
    try:
        terms = read_terms(text)
    except TooLarge:
        return Words(re.sub(r"\s", "", text))  # equal only to itself
    except Meaningless as reason:
        return Refused(str(reason))
    except Unknown:
        return Unread(text)
    if INFINITE in text and frozen(terms) not in _INFINITIES:
        return Unread(text)  # infinity minus infinity is not 0
    point = re.fullmatch(r"-?\d*\.(\d+)", text)
    return Quantity(frozen(terms), unit, len(point[1]) if point else 0)


# Relations. Each function takes the text and a reader for its sides, and returns None if the text is no such
# relation.

Read = Callable[[str], object]

_ORDER = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_NAME = re.compile(
    r"""[A-Za-z](?:_(?:\w|\{\w+\})|\^\{-1\}|'|\^\\prime)*(?:\([A-Za-z](?:,\s*[A-Za-z])*\))?  # f^{-1}(x)
    | \([A-Za-z](?:,\s*[A-Za-z])+\)  # (x, y)
    | (?:m\s*)?\\angle\s*[A-Z]{1,3} | \\overline\{[A-Z]{2}\} | \\(?!pi|infty)[a-z]+ | \\text\{[A-Za-z ]+\}
    | [A-Z][A-Za-z]{1,11} | [a-z]{4,12}""",
    re.VERBOSE,
)


def _approximation(text: str, read: Read) -> object | None:
    r"""Read `\pi \approx 3.14` as \pi, and `x \approx 3.14` as 3.14."""
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
    """Read `x > 3`, `3 < x`, `1 < x \\le 2` as intervals; leave other inequalities to math-verify."""
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
    return _interval(left, low, high, right, sides[at[0]].lower())


def _interval(left: str, low: object, high: object, right: str, name: str = "") -> Items:
    # Brackets at infinity are open, whatever was written.
    left = "(" if low == _infinite(-1) else left
    right = ")" if high == _infinite(1) else right
    return Items(left + right, (low, high), name)


def _equation(text: str, read: Read) -> object | None:
    """Read `x = 5`, `5 = x`, `y = 2x + 1` and chains; refuse sides that contradict each other."""
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
    return _several("list", [read(plus), read(f"{before} - {after}")])


def _ratio(text: str, read: Read) -> object | None:
    if ":" not in text:
        return None
    body, unit = unit_of(text)
    parts = split_top(body, ":")
    if len(parts) < 2:
        return None
    if not all(part.strip() for part in parts):
        return Refused("a ratio without a side")
    form = _several("ratio", [read(part) for part in parts])
    if not isinstance(form, Items) or not all(isinstance(i, Quantity) and not i.unit for i in form.items):
        return Unread(text)
    values = [rational(dict(item.terms)) for item in form.items]
    if any(value is None or value == 0 for value in values):
        return Unread(text)
    scaled = tuple(Quantity(frozen(constant(value / values[-1]))) for value in values)
    return Quantity(scaled[0].terms, unit) if len(scaled) == 2 else Items("ratio", scaled)


def _infinite(sign: int) -> Quantity:
    return Quantity(frozen({(1, ((INFINITE, 1),)): Fraction(sign)}))


_RELATIONS = (_approximation, _membership, _inequality, _equation, _plus_minus, _ratio)
_INFINITIES = [_infinite(sign).terms for sign in (1, -1)]


# What math-verify may be asked.

_KNOWN = """
    frac sqrt binom dbinom tbinom sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln
    lg exp max min gcd lcm det sum prod int iint lim infty partial mathbb mathcal operatorname
    overline bar vec hat text pi alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa
    lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi
    Sigma Phi Psi Omega cup cap setminus in notin subset le ge ne pm lfloor rfloor lceil rceil lvert
    rvert begin end circ angle triangle prime mod pmod bmod to
"""
_COMMANDS = frozenset(_KNOWN.split())
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_CHARACTERS = re.compile(rf"(?:[\w\s.,+\-*/^=<>()\[\]{{}}!|%&'{ROW_END}]|\\[{{}}|%A-Za-z])*", re.ASCII)
_OPERATORS = re.compile(r"[-+*/]\s*[*/]")
_LIMIT_ARROW = re.compile(r"\\lim\s*_\s*\{[^{}]*\\to[^{}]*\}")
_LAST_TEXT = re.compile(r"\\text\{[^{}\d]*\}(?:\^\{?\d\}?)?$")


def askable(text: str) -> bool:
    """Check that math-verify knows every sign in text, so that its verdict covers all of it."""
    if not _CHARACTERS.fullmatch(text) or _OPERATORS.search(text):
        return False
    matrix = "\\begin" in text
    if (not matrix and ("&" in text or ROW_END in text)) or "{cases}" in text:
        return False
    if text.count("|") % 2 or re.search(r"(?<![A-Za-z)])'", text):
        return False
    text = _LIMIT_ARROW.sub("", text)
    if set(_COMMAND.findall(text)) - _COMMANDS or re.search(r"\\to(?![A-Za-z])|(?<!\^)(?<!\^\{)\\circ", text):
        return False
    return "\\text" not in _LAST_TEXT.sub("", text)


def form_as_latex(form: object) -> str:
    """Write a form as LaTeX for math-verify."""
    if isinstance(form, Unread):
        return form.text
    if isinstance(form, Words):
        return rf"\text{{{form.text}}}"
    if isinstance(form, Quantity):
        return terms_as_latex(dict(form.terms)) + ("\\%" if form.unit == "%" else "")
    if isinstance(form, Equation):
        if form.name:
            return f"{form.name}={form_as_latex(form.value)}"
        return f"{terms_as_latex(dict(form.difference))}=0"
    if form.kind == "rows":
        rows = r"\\".join("&".join(map(form_as_latex, row.items)) for row in form.items)
        return rf"\begin{{pmatrix}}{rows}\end{{pmatrix}}"
    if form.kind[0] in "([":
        return form.kind[0] + ",".join(map(form_as_latex, form.items)) + form.kind[-1]
    if form.kind == "set":
        return r"\{" + ",".join(map(form_as_latex, form.items)) + r"\}"
    return {"union": r"\cup ", "ratio": ":"}.get(form.kind, ",").join(map(form_as_latex, form.items))
