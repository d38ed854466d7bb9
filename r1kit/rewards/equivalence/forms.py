"""The forms an answer may have, once it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_ITEMS = 64


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
    """Something that only math-verify can judge."""

    text: str


@dataclass(frozen=True)
class Refused:
    """Something that nobody can judge: a wrong answer, an unjudgeable gold."""

    why: str


def parts(form: object) -> Iterator[object]:
    """The form itself and all forms in it."""
    yield form
    if isinstance(form, Items):
        for item in form.items:
            yield from parts(item)
    elif isinstance(form, Equation) and form.value is not None:
        yield from parts(form.value)


def several(kind: str, forms: list) -> object:
    """The forms as Items; Refused if one of them is, or if there are too many."""
    refused = next((form for form in forms if isinstance(form, Refused)), None)
    if refused is None and len(forms) > MOST_ITEMS:
        refused = Refused("too many items")
    return refused or Items(kind, tuple(forms))
