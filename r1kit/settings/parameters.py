"""Notebook parameters: names and types of the parameters cell, checked before a stage opens."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from r1kit.settings.errors import Problem, SettingsError, describe, nearest_name

WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    list: "a list",
    dict: "a dictionary",
}
REQUIRED = ("PROFILE", "RUN_ID")


def check_parameters(stage: str, given: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all declared parameters, of their declared types.

    Args:
        stage: the notebook's name, for messages.
        given: name -> value, as the parameters cell (or papermill) set them.
        declared: name -> type (`int`, `float | None`, ...) or a `Knob`, whose `kind` is one.

    Returns:
        a value for every declared name; a whole number becomes a float where a number is declared; None for a
        knob that is not set or None, which keeps the profile's value.

    Raises:
        SettingsError: with every unknown name, wrong type, and PROFILE or RUN_ID that is not set.
    """
    known = ", ".join(declared)
    problems, values = [], dict.fromkeys(declared)
    for name in given:
        if name not in declared:
            message = f"{stage} has no such parameter."
            nearest = nearest_name(name, declared)
            problems.append(
                _problem(stage, name, given[name], allowed=known, nearest=nearest, message=message)
            )
    for name, kind in declared.items():
        value = given.get(name)
        wanted = _members(getattr(kind, "kind", kind))
        if value is None:
            if name in REQUIRED:
                message = "The parameters cell must set it."
                allowed = " or ".join(WORDS.get(kind, str(kind)) for kind in wanted)
                problems.append(_problem(stage, name, None, allowed=allowed, message=message))
            continue
        if type(value) in wanted:
            values[name] = value
        elif type(value) is int and float in wanted:
            values[name] = float(value)
        else:
            allowed = " or ".join(WORDS.get(kind, str(kind)) for kind in wanted if kind is not type(None))
            message = _how_to_write(name, value, wanted)
            problems.append(_problem(stage, name, value, allowed=allowed, message=message))
    if problems:
        plural = "s" if len(problems) > 1 else ""
        raise SettingsError(problems, f"{len(problems)} wrong parameter{plural} of {stage}")
    return values


def _problem(stage: str, name: str, value: Any, **fields: str) -> Problem:
    found = "nothing" if value is None else describe(value)
    return Problem(f"notebooks/{stage}.ipynb", name, found=found, **fields)


def _members(kind: Any) -> tuple[type, ...]:
    """`int | None` -> (int, NoneType); `list[int]` -> (list,)."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(member for inner in get_args(kind) for member in _members(inner))
    return (get_origin(kind) or kind,)


def _how_to_write(name: str, value: Any, wanted: tuple[type, ...]) -> str:
    """The line that would be right, for the mistakes that papermill's options invite."""
    if isinstance(value, str):
        if bool in wanted and value.lower() in ("true", "false"):
            return f"It is text; write {name} = {value.capitalize()} without quotes."
        for kind in (int, float):
            if kind not in wanted:
                continue
            try:
                kind(value)
            except ValueError:
                continue
            return (
                f"It is text; write {name} = {value} without quotes (papermill: -p {name} {value}, not -r)."
            )
        return "It is text, and no number can be read from it." if set(wanted) & {int, float} else ""
    if isinstance(value, float) and value.is_integer() and int in wanted:
        return f"Write it without a point or exponent: {name} = {int(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and str in wanted:
        return f'It is a number; write it in quotes: {name} = "{value}" (papermill: -r {name} {value}).'
    if isinstance(value, bool) and set(wanted) & {int, float}:
        return "True and False are no numbers."
    return ""
