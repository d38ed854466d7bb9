r"""Reading an answer: which form it has, and the exact values in it.

`read` never calls math-verify and never fails: what it doesn't know becomes `Unread`, for math-verify to
judge, and what nobody can judge becomes `Refused`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from r1kit.rewards.equivalence.asking import askable
from r1kit.rewards.equivalence.expression import read_terms
from r1kit.rewards.equivalence.forms import Items, Quantity, Refused, Unread, Words, parts, several
from r1kit.rewards.equivalence.relations import RELATIONS, interval
from r1kit.rewards.equivalence.terms import INFINITE, Meaningless, TooLarge, Unknown, constant, frozen
from r1kit.rewards.equivalence.text import (
    LONGEST_ANSWER,
    ROW_END,
    closes,
    is_number,
    normalised,
    plain_words,
    split_top,
    without_wrapping,
)
from r1kit.rewards.equivalence.units import unit_of

_DEEPEST_LIST = 6  # lists in lists
_MATRIX = re.compile(r"\\begin\{([bp]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}")
_SET_BUILDER = re.compile(r"[A-Za-z](?:\\in\\mathbb\{?R\}?)?\s*(?:\||:)(.*)")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_OVERLINE = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar|dot)(?:\{(\d+)\}|(\d))")
_BASED = re.compile(r"(-?[0-9A-F]+)_(?:\{(\d+)\}|(\d))")
_INFINITIES = [frozen({(1, ((INFINITE, 1),)): Fraction(sign)}) for sign in (1, -1)]


@lru_cache(maxsize=8192)
def read(text: str) -> object:
    """The form of an answer's text."""
    if len(text) > LONGEST_ANSWER:
        return Refused("too long")
    text = normalised(text)
    if not text:
        return Refused("nothing there, or braces that do not match")
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
        return several("rows", [several("row", row) for row in cells])
    for separator, kind in ((",", "list"), ("\\cup", "union")):
        pieces = split_top(text, separator)
        if len(pieces) > 1:
            return several(kind, [_read(piece, depth + 1) for piece in pieces])
    bracketed = _bracketed(text, depth)
    if bracketed is not None:
        return bracketed
    for relation in RELATIONS:
        form = relation(text, lambda side: _read(side, depth + 1))
        if form is not None:
            return form
    return _scalar(text)


def _bracketed(text: str, depth: int) -> object | None:
    """A set in braces, or an interval or tuple in brackets; None for anything else."""
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
        return several("set", [_read(part, depth + 1) for part in split_top(inner, ",")])
    if text[0] in "([" and text[-1] in ")]" and closes(text, 0) == len(text) - 1:
        pieces = split_top(text[1:-1], ",")
        if len(pieces) < 2:
            return None
        form = several(text[0] + text[-1], [_read(piece, depth + 1) for piece in pieces])
        pair = isinstance(form, Items) and len(pieces) == 2
        return interval(text[0], *form.items, text[-1]) if pair else form
    return None


def _scalar(text: str) -> object:
    """One value with its unit, or words."""
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
