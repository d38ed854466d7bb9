"""Declared types in plain words, and how to write a value that has the wrong one."""

from __future__ import annotations

import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from r1kit.settings.trl_keys import VALUE_HINTS
from r1kit.settings.yaml import KeyPath

WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null (empty)",
}


def members(annotation: Any) -> list[Any]:
    """Union members, with Annotated taken off."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in members(member)]
    return [annotation]


def literals(annotation: Any) -> list[str]:
    """The values that a Literal in the annotation lists."""
    return [v for member in members(annotation) if get_origin(member) is Literal for v in get_args(member)]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models among the union members; several of them are told apart by their `tag`."""
    return [m for m in members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def tag(models: list[type[BaseModel]]) -> str:
    """The key that tells several models apart: a reward's `name`, a stage's `kind`."""
    fields = (model.model_fields.get("kind") for model in models)
    return "kind" if all(field and literals(field.annotation) for field in fields) else "name"


def model_at(annotation: Any, value: Any = None) -> type[BaseModel] | None:
    """The model among the union members, if there is one; among several, the one that `value` names."""
    models = models_in(annotation)
    if len(models) > 1:
        key = tag(models)
        name = value.get(key) if isinstance(value, dict) else None
        models = [m for m in models if name in literals(m.model_fields[key].annotation)]
    return models[0] if models else None


def annotation_at(model: type[BaseModel], path: KeyPath, data: Any = None, key: bool = False) -> Any:
    """The declared type at a path of `data`; with `key`, the type of a mapping's keys there."""
    annotation: Any = model
    for part in path:
        models, inner = models_in(annotation), model_at(annotation, data)
        data = _inside(data, part)
        if len(models) > 1 and part == tag(models):
            annotation = Union[tuple(m.model_fields[part].annotation for m in models)]  # noqa: UP007
        elif inner is not None:
            found = inner.model_fields.get(str(part))
            annotation = found.annotation if found else Any
        else:
            container = next((m for m in members(annotation) if get_origin(m) in (list, dict)), None)
            annotation = get_args(container)[-1] if container else Any
    if key:
        container = next((m for m in members(annotation) if get_origin(m) is dict), None)
        return get_args(container)[0] if container else Any
    return annotation


def _inside(data: Any, part: str | int) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None


def in_words(annotation: Any) -> str:
    """The type in plain words."""
    words: list[str] = []
    if len(models := models_in(annotation)) > 1:
        return f"a mapping with {tag(models)}"
    if values := literals(annotation):
        words.append("one of " + ", ".join(str(value) for value in values))
    for member in members(annotation):
        if get_origin(member) is Literal:
            continue
        if get_origin(member) is list:
            inner = get_args(member)[0]
            word = (
                "a list of mappings"
                if models_in(inner)
                else f"a list of {in_words(inner).removeprefix('a ')}"
            )
            word = word.replace("whole number", "whole numbers")
        elif get_origin(member) is dict or member is dict:
            word = "a mapping"
        elif isinstance(member, type) and issubclass(member, BaseModel):
            word = "a mapping with " + ", ".join(member.model_fields)
        else:
            word = WORDS.get(member, "a value")
        words += [word] if word not in words else []
    return " or ".join(words)


def how_to_write(key: str, value: Any, annotation: Any) -> str:
    """How to write it instead, for the mistakes that YAML invites."""
    kinds = set(members(annotation))
    if isinstance(value, str) and kinds & {int, float}:
        try:
            float(value)
        except ValueError:
            return VALUE_HINTS.get(key, "")
        return f"This is text because of its quotes; write the bare number: {key}: {value}"
    if isinstance(value, bool) and not value and "no" in literals(annotation):
        return f'YAML reads a bare `no` as false; write {key}: "no"'
    if (
        isinstance(value, str)
        and bool in kinds
        and value.lower() in ("true", "false", "yes", "no", "on", "off")
    ):
        word = "true" if value.lower() in ("true", "yes", "on") else "false"
        return f"This is text because of its quotes; write {key}: {word}"
    if isinstance(value, float) and value.is_integer() and int in kinds:
        return f"Write it without a point or exponent: {key}: {int(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and str in kinds:
        return f'Write it in quotes: {key}: "{value}"'
    if isinstance(value, str) and len(models_in(annotation)) > 1:
        return f"Write a mapping: {{{tag(models_in(annotation))}: {value}}}"
    if value is None:
        return "The key has no value; write one, or remove the line."
    if not isinstance(value, list) and any(get_origin(kind) is list for kind in kinds):
        return VALUE_HINTS.get(key) or f"Write a list: {key}: [{value}]"
    return VALUE_HINTS.get(key, "")


def bound_in(message: str) -> str:
    """`Input should be greater than 0` -> `greater than 0`."""
    match = re.search(r"(greater|less) than( or equal to)? (-?[\d.e+-]+)", message)
    return match.group(0) if match else ""
