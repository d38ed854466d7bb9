"""From raw YAML values to typed settings: runs pydantic and turns its complaints into Problems."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from r1kit.settings.errors import Problem, describe, nearest_name
from r1kit.settings.type_words import (
    annotation_at,
    bound_in,
    how_to_write,
    in_words,
    literals,
    model_at,
)
from r1kit.settings.yaml import KeyPath, dotted

Explain = Callable[[str], dict[str, str]]
"""Says more about an unknown key, as keywords of `Source.problem`: a message, the nearest name."""


@dataclass
class Source:
    """Where the values of a section came from, for messages."""

    section: str
    file: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: set[KeyPath] = field(default_factory=set)

    def locate(self, path: KeyPath) -> tuple[str, int | None]:
        """Find the place to name in a message: file and line, or the override that set the value."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.overridden:
                return f"override of {self.file}", None
        return self.file, next(
            (self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None
        )

    def problem(self, path: KeyPath, **fields: str) -> Problem:
        """Make a Problem at this place."""
        file, line = self.locate(path)
        return Problem(file=file, key=dotted(path), line=line, **fields)


def validate(
    model: type[BaseModel],
    data: Any,
    source: Source,
    beside: Mapping[str, Any] | None = None,
    explain: Explain | None = None,
) -> tuple[Any, list[Problem], set[KeyPath]]:
    """Check the values of a file.

    Args:
        model: the strict model of the file.
        beside: further keys of the file with their types; checked, but no part of the typed content.
        explain: what to say about an unknown key at the top of the file.

    Returns:
        the typed content (None if anything is wrong), the problems, and the paths that are wrong.
    """
    if not isinstance(data, dict):
        found = "an empty file" if data is None else describe(data)
        allowed = "a mapping of keys to values: key: value"
        return None, [Problem(source.file, "", found=found, allowed=allowed)], {()}
    beside = beside or {}
    typed, found = None, {}
    try:
        typed = model.model_validate({key: value for key, value in data.items() if key not in beside})
    except ValidationError as error:
        found = _problems(error, model, data, source, explain=explain)
    for key in [key for key in data if key in beside]:
        try:
            _adapter(beside[key]).validate_python(data[key])
        except ValidationError as error:
            found |= _problems(error, beside[key], data[key], source, way=(key,))
    if not found:
        return typed, [], set()
    problems = sorted(found.items(), key=lambda pair: source.locate(pair[0])[1] or 0)
    return None, [problem for _, problem in problems], set(found)


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter:
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _problems(
    error: ValidationError,
    root: Any,
    data: Any,
    source: Source,
    way: KeyPath = (),
    explain: Explain | None = None,
) -> dict[KeyPath, Problem]:
    """One problem per place: a union complains once for each of its members, which is one mistake.

    `root` is the type of `data`, which is found at `way` in the file.
    """
    found: dict[KeyPath, Problem] = {}
    for item in error.errors(include_url=False):
        path = _real_path(item["loc"], data, missing=item["type"] == "missing")
        if item["type"].startswith("union_tag"):
            path, item = (
                (*path, item["ctx"]["discriminator"].strip("'")),
                item | {"type": item["type"].replace("union_tag_not_found", "missing")},
            )
        if (*way, *path) in found:
            continue
        if item["type"] == "extra_forbidden":
            fields = _unknown(path, root, data, explain)
        elif item["type"] == "missing":
            allowed = in_words(annotation_at(root, path, data))
            fields = {
                "found": "nothing",
                "allowed": allowed,
                "message": "The key is missing.",
                "rule": "missing_key",
            }
        else:
            fields = _wrong_value(path, item, root, data, str((*way, *path)[-1]))
        found[(*way, *path)] = source.problem((*way, *path), **fields)
    return found


def _unknown(path: KeyPath, root: Any, data: Any, explain: Explain | None) -> dict[str, str]:
    owner = root if len(path) == 1 else model_at(annotation_at(root, path[:-1], data), _at(data, path[:-1]))
    known = list(owner.model_fields) if owner else []
    fields = {
        "found": describe(_at(data, path)),
        "allowed": "" if len(known) > 30 else ", ".join(known),
        "nearest": nearest_name(str(path[-1]), known),
        "message": "Unknown key.",
        "rule": "unknown_key",
    }
    return fields | (explain(str(path[-1])) if explain and len(path) == 1 else {})


def _wrong_value(path: KeyPath, item: dict, root: Any, data: Any, key: str) -> dict[str, str]:
    value, annotation = _at(data, path), annotation_at(root, path, data)
    if item["loc"] and item["loc"][-1] == "[key]":
        names = annotation_at(root, path[:-1], data, key=True)
        return {
            "found": key,
            "allowed": in_words(names),
            "nearest": nearest_name(key, literals(names)),
            "message": "Unknown name.",
            "rule": "wrong_value",
        }
    allowed = in_words(annotation)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (bound := bound_in(item["msg"])):
        allowed = f"{allowed.removesuffix(' or null (empty)')}, {bound}"
    elif item["type"] in ("too_short", "finite_number"):
        allowed = "at least one entry" if item["type"] == "too_short" else "a finite number"
    return {
        "found": describe(value),
        "allowed": allowed,
        "nearest": nearest_name(value, literals(annotation)) if isinstance(value, str) else "",
        "message": how_to_write(key, value, annotation),
        "rule": "wrong_value",
    }


def _real_path(loc: tuple, data: Any, missing: bool) -> KeyPath:
    """pydantic's location without the union tags it puts in between."""
    path: list[str | int] = []
    value = data
    for index, part in enumerate(loc):
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]
        elif not (missing and index == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data
