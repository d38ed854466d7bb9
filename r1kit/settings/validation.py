"""From raw YAML values to typed settings: runs pydantic and turns its complaints into Problems.

What all settings models share: strictness, and the few types that several of them use.

Declared types in plain words, and how to write a value that has the wrong one.

Overrides of a file's values: `--set sft.learning_rate=1e-3`, a notebook's parameters, options.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from r1kit.settings.errors import Problem, SettingsError, describe, nearest_name
from r1kit.settings.trl_keys import VALUE_HINTS
from r1kit.settings.yaml import Document, KeyPath, dotted, read_document, read_file

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
Level = Annotated[int, Field(ge=1, le=5, description="Number of operations in a story problem.")]
Levels = Annotated[list[Level], Field(min_length=1)]


class Settings(BaseModel):
    """Base of all files: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


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


FORM = "section.key=value, for example sft.learning_rate=1e-3"


def parse_override(text: str) -> tuple[str, Any]:
    """`"sft.learning_rate=1e-3"` -> `("sft.learning_rate", 0.001)`; the value is read as YAML.

    Raises:
        SettingsError: if the text does not have that form.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")) or len(key.split(".")) < 2:
        raise SettingsError([Problem("--set", key, found=describe(text), allowed=FORM)])
    document = read_document(value, "--set")
    if document.problems:
        raise SettingsError(
            [
                Problem(
                    "--set",
                    key,
                    found=describe(value),
                    allowed="a YAML value",
                    message=document.problems[0].message,
                )
            ]
        )
    return key, document.value


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Several overrides; the last for a key holds. Raises SettingsError with all that are malformed."""
    parsed, problems = {}, []
    for text in texts:
        try:
            key, value = parse_override(text)
            parsed[key] = value
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    return parsed


def settings_of(
    model: type[BaseModel], source: Source, overrides: Mapping[str, Any], path: Path | None = None
) -> tuple[Any, list[Problem]]:
    """Read settings that belong to no profile: a file (none: nothing but defaults) with overrides on top.

    Returns:
        the typed settings (None if anything is wrong), and all problems.
    """
    document = read_file(path) if path else Document({})
    source.lines, values = document.lines, {} if document.value is None else document.value
    problems = [*document.problems, *_apply_own(source, values, overrides)]
    if problems:
        return None, problems
    settings, problems, _ = validate(model, values, source)
    return settings, problems


def _apply_own(source: Source, values: dict[str, Any], overrides: Mapping[str, Any]) -> list[Problem]:
    """Set overrides such as `curation.near.threshold`; problems of those without a place."""
    if not isinstance(values, dict):
        return []  # the validation that follows refuses the file
    values.update(unshared(values))
    problems = []
    for name, value in overrides.items():
        section, *keys = name.split(".")
        if section != source.section or not keys:
            allowed, message = f"{source.section}.…", "Unknown section."
            problems.append(Problem(f"override {name}", name, describe(value), allowed, message=message))
        else:
            problems += set_override(source, values, name, key_path(keys), value)
    return problems


def key_path(keys: Sequence[str]) -> KeyPath:
    """Turn `["rewards", "0", "weight"]` into `("rewards", 0, "weight")`."""
    return tuple(int(key) if key.isdigit() else key for key in keys)


def set_override(source: Source, values: Any, name: str, path: KeyPath, value: Any) -> list[Problem]:
    """Set the value at `path` and note it in `source`; a problem if the way there holds no keys."""
    *way, last = path
    container = values
    for part in way:
        if isinstance(container, dict):
            container = container.setdefault(part, {})
        elif isinstance(container, list) and isinstance(part, int) and part < len(container):
            container = container[part]
        else:
            container = None
    in_list = isinstance(container, list) and isinstance(last, int) and last < len(container)
    if not isinstance(container, dict) and not in_list:
        message = "The key before the last point does not hold other keys."
        return [Problem(f"override {name}", name, found=describe(value), message=message)]
    container[last] = value
    source.overridden.add(path)
    return []


def unshared(value: Any) -> Any:
    """Copy a value without YAML's aliases: an override would otherwise change all places that share it."""
    if isinstance(value, dict):
        return {key: unshared(inner) for key, inner in value.items()}
    return [unshared(inner) for inner in value] if isinstance(value, list) else value
