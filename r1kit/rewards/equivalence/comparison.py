"""Compare two answers that were read; `r1kit/rewards/equivalence/__init__.py` lists the rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from r1kit.rewards.equivalence import expression as exact
from r1kit.rewards.equivalence.expression import read_terms, unit_name
from r1kit.rewards.equivalence.reading import Equation, Items, Quantity, Refused, Unread, Words, form_as_latex

Ask = Callable[[str, str], bool]

_ORDERED = ("row", "rows", "ratio")
_EQUATION = re.compile(r"(?<![\\<>!])=")
_MOST_QUESTIONS = 16
_PLACES = 10**6
_RELATIVE = Fraction(1, 10**5)


class Undecided(Exception):
    """The forms alone do not decide; only math-verify can."""


def _undecided(gold: str, answer: str) -> bool:
    raise Undecided


def equal(gold: object, answer: object, ask: Ask = _undecided) -> bool:
    """Decide whether answer equals gold, both as `read` returns them.

    ask: compares the LaTeX of two parts that were not read exactly, with math-verify.

    Raises:
        Undecided: there is such a part, and `ask` was not given.
    """
    if isinstance(gold, Refused) or isinstance(answer, Refused):
        return False
    if gold == answer:
        return True
    gold, answer = _single(gold), _single(answer)
    if isinstance(gold, Unread) or isinstance(answer, Unread):
        return _asked(gold, answer, ask)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _equations(gold, answer, ask)
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return _quantities(gold, answer)
    if isinstance(gold, Items) and isinstance(answer, Items):
        return _items(gold, answer, ask)
    return gold == answer


def _single(form: object) -> object:
    r"""Replace a set or list of one by its element: math-verify agrees that \{5\} answers 5."""
    if isinstance(form, Items) and form.kind in ("set", "list", "union") and len(set(form.items)) == 1:
        return form.items[0]
    return form


def _asked(gold: object, answer: object, ask: Ask) -> bool:
    """Ask math-verify about a side that was not read, unless its shape already excludes equality."""
    if isinstance(gold, Unread) and isinstance(answer, Unread):
        return ask(gold.text, answer.text)
    known, unread = (answer, gold) if isinstance(gold, Unread) else (gold, answer)
    if isinstance(known, Words) or (_EQUATION.search(unread.text) and not isinstance(known, Equation)):
        return False
    known_text = form_as_latex(known)
    return ask(unread.text, known_text) if isinstance(gold, Unread) else ask(known_text, unread.text)


def _equations(gold: object, answer: object, ask: Ask) -> bool:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        if gold.difference is not None and gold.difference == answer.difference:
            return True
        if gold.name and answer.name:
            return gold.name == answer.name and equal(gold.value, answer.value, ask)
        return False
    named, other = (gold, answer) if isinstance(gold, Equation) else (answer, gold)
    if not named.name:
        return False
    return equal(named.value, other, ask) if named is gold else equal(other, named.value, ask)


def _items(gold: Items, answer: Items, ask: Ask) -> bool:
    if gold.name and answer.name and gold.name != answer.name:
        return False
    kinds = {gold.kind, answer.kind}
    if len(kinds) == 1 and (gold.kind in _ORDERED or gold.kind[0] in "(["):
        return _in_order(gold.items, answer.items, ask)
    if kinds <= {"set", "list"}:
        named = [{i.name for i in side.items if isinstance(i, Equation)} for side in (gold, answer)]
        if max(map(len, named)) > 1 and not min(map(len, named)):
            return _in_order(gold.items, answer.items, ask)  # "x=1, y=2" and "1, 2"
        return _in_any_order(gold.items, answer.items, ask)
    if kinds == {"list", "()"}:
        return _in_order(gold.items, answer.items, ask)
    if kinds <= {"union", "list"} and all(
        isinstance(i, Items) for side in (gold, answer) for i in side.items
    ):
        return _in_any_order(gold.items, answer.items, ask)
    return False


def _in_order(golds: tuple, answers: tuple, ask: Ask) -> bool:
    return len(golds) == len(answers) and all(
        equal(gold, answer, ask) for gold, answer in zip(golds, answers, strict=True)
    )


def _in_any_order(golds: tuple, answers: tuple, ask: Ask) -> bool:
    """Match one-to-one, ignoring repetition; first without math-verify, which leaves fewer pairs to ask."""
    golds, answers = list(dict.fromkeys(golds)), list(dict.fromkeys(answers))
    if len(golds) != len(answers):
        return False
    left, pending = [], False
    for gold in golds:
        match = None
        for answer in answers:
            try:
                if equal(gold, answer):
                    match = answer
                    break
            except Undecided:
                pending = True
        if match is None:
            left.append(gold)
        else:
            answers.remove(match)
    if left and (not pending or len(left) ** 2 > _MOST_QUESTIONS):
        return False
    for gold in left:
        match = next((answer for answer in answers if equal(gold, answer, ask)), None)
        if match is None:
            return False
        answers.remove(match)
    return True


def _quantities(gold: Quantity, answer: Quantity) -> bool:
    units = {gold.unit, answer.unit}
    if units - {""} and any(unit.startswith("*") for unit in units):
        return _with_letter_units(gold, answer)
    counted = {unit for unit in units if unit and not unit.startswith("?")}
    if len(counted) > 1:
        return False
    if _values(gold, answer):
        return True
    if "%" in counted and len(units) == 2:
        scaled = [_hundredth(q) if q.unit == "%" else q for q in (gold, answer)]
        return _values(*scaled)
    return False


def _with_letter_units(gold: Quantity, answer: Quantity) -> bool:
    """ "5 m" is five metres or five times m: right if one of the two readings is."""
    readings = []
    for quantity in (gold, answer):
        if not quantity.unit.startswith("*"):
            readings.append([quantity])
            continue
        letter = quantity.unit[1:]
        unit = Quantity(quantity.terms, unit_name(letter), quantity.decimals)
        readings.append(
            [unit, Quantity(exact.frozen(exact.multiply(dict(quantity.terms), read_terms(letter))))]
        )
    return any(_quantities(one, other) for one in readings[0] for other in readings[1])


def _hundredth(quantity: Quantity) -> Quantity:
    terms = tuple((monomial, value / 100) for monomial, value in quantity.terms)
    return Quantity(terms, "", quantity.decimals + 2 if quantity.decimals else 0)


def _values(gold: Quantity, answer: Quantity) -> bool:
    if gold.terms == answer.terms:
        return True
    if max(gold.decimals, answer.decimals) < 6:
        return False
    values = []
    for quantity in (gold, answer):
        terms = dict(quantity.terms)
        value = exact.rational(terms)
        if value is None:
            rough = exact.approximate(terms)
            if rough is None:
                return False
            value = Fraction(rough)
        elif quantity.decimals < 6 and _terminates_early(value):
            return False  # 13 is not 13.0000004
        values.append(value)
    one, other = values
    return round(one * _PLACES) == round(other * _PLACES) and abs(one - other) <= _RELATIVE * abs(one)


def _terminates_early(value: Fraction) -> bool:
    """Check whether fewer than six decimals write the value exactly."""
    return (value * 10**5).denominator == 1
