"""Notebook parameters: names and types of the parameters cell, checked before a stage opens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def check_parameters(stage: str, given: Mapping[str, Any], declared: Mapping[str, type]) -> dict[str, Any]:
    """Return the values of all declared parameters, each of its declared type.

    Args:
        stage: the notebook's name, for messages.
        given: name -> value, as the parameters cell (or papermill) set them.
        declared: name -> type.

    Returns:
        a value for every declared name; a whole number becomes a float where a number is declared; None for a
        parameter that is not set or None, which keeps the profile's value.

    Raises:
        SettingsError: with every unknown name, wrong type, and PROFILE or RUN_ID that is not set.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = dict.fromkeys(declared)

    def refuse(name: str, value: Any, **fields: str) -> None:
        found = "nothing" if value is None else describe(value)
        problems.append(Problem(f"notebooks/{stage}.ipynb", name, found=found, **fields))

    for name in [name for name in given if name not in declared]:
        nearest = nearest_name(name, declared)
        message = f"{stage} has no such parameter."
        refuse(name, given[name], allowed=", ".join(declared), nearest=nearest, message=message)
    for name, kind in declared.items():
        value = given.get(name)
        if value is None:
            if name in REQUIRED:
                refuse(name, None, allowed=WORDS[kind], message="The parameters cell must set it.")
        elif type(value) is kind:
            values[name] = value
        elif type(value) is int and kind is float:
            values[name] = float(value)
        else:
            refuse(name, value, allowed=WORDS[kind], message=_how_to_write(name, value, kind))
    if problems:
        plural = "s" if len(problems) > 1 else ""
        raise SettingsError(problems, f"{len(problems)} wrong parameter{plural} of {stage}")
    return values


def _how_to_write(name: str, value: Any, kind: type) -> str:
    """The line that would be right, for the mistakes that papermill's options invite."""
    if isinstance(value, str):
        if kind is bool and value.lower() in ("true", "false"):
            return f"It is text; write {name} = {value.capitalize()} without quotes."
        if kind not in (int, float):
            return ""
        try:
            kind(value)
        except ValueError:
            return "It is text, and no number can be read from it."
        return f"It is text; write {name} = {value} without quotes (papermill: -p {name} {value}, not -r)."
    if isinstance(value, float) and value.is_integer() and kind is int:
        return f"Write it without a point or exponent: {name} = {int(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and kind is str:
        return f'It is a number; write it in quotes: {name} = "{value}" (papermill: -r {name} {value}).'
    if isinstance(value, bool) and kind in (int, float):
        return "True and False are no numbers."
    return ""
