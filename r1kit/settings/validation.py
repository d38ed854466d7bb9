"""Check raw YAML values against the model of their file and report each mistake as a Problem.

`validate` runs pydantic and translates its errors: one Problem per place, with the line of the file, the
allowed values in plain words and the correct way to write the value. A `Source` knows where values came from.
The last part applies overrides: `--set sft.learning_rate=1e-3`, options, notebook parameters.
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
Explain = Callable[[str], dict[str, str]]
"""Returns fields of the Problem about an unknown key: a message, the nearest name."""


class Settings(BaseModel):
    """Base of the models of all files: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def library_keys(cls) -> dict[str, Any]:
        """List the keys of the file that belong to a library (TRL, accelerate), with their types."""
        return {}


@dataclass
class Source:
    """Where the values of a section came from, for messages."""

    section: str
    file: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: set[KeyPath] = field(default_factory=set)

    def locate(self, path: KeyPath) -> tuple[str, int | None]:
        """Find the place to name in a message: file and line, or the override that set the value."""
        parents = [path[:end] for end in range(len(path), 0, -1)]
        if any(parent in self.overridden for parent in parents):
            return f"override of {self.file}", None
        return self.file, next((self.lines[parent] for parent in parents if parent in self.lines), None)

    def problem(self, path: KeyPath, **fields: str) -> Problem:
        """Make a Problem at this place."""
        file, line = self.locate(path)
        return Problem(file=file, key=dotted(path), line=line, **fields)


def validate(
    model: type[Settings], data: Any, source: Source, explain: Explain | None = None
) -> tuple[Any, list[Problem], set[KeyPath]]:
    """Check the values of a file.

    Args:
        model: the strict model of the file. Its `library_keys` are checked too, but are not in the result.
        explain: describes an unknown key at the top of the file.

    Returns:
        the model's instance (None if anything is wrong), the problems, and the paths that are wrong.
    """
    if not isinstance(data, dict):
        found = "an empty file" if data is None else describe(data)
        allowed = "a mapping of keys to values: key: value"
        return None, [Problem(source.file, "", found=found, allowed=allowed)], {()}
    library = model.library_keys()
    typed, problems = None, {}
    try:
        typed = model.model_validate({key: value for key, value in data.items() if key not in library})
    except ValidationError as error:
        problems = _problems(error, model, data, source, explain=explain)
    for key in [key for key in data if key in library]:
        try:
            _adapter(library[key]).validate_python(data[key])
        except ValidationError as error:
            problems |= _problems(error, library[key], data[key], source, parent=(key,))
    if not problems:
        return typed, [], set()
    in_order = sorted(problems.items(), key=lambda pair: source.locate(pair[0])[1] or 0)
    return None, [problem for _, problem in in_order], set(problems)


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter:
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _problems(
    error: ValidationError,
    root: Any,
    data: Any,
    source: Source,
    parent: KeyPath = (),
    explain: Explain | None = None,
) -> dict[KeyPath, Problem]:
    """Make one problem per place; pydantic reports one error for each member of a union.

    `root` is the type of `data`, which is at `parent` in the file.
    """
    problems: dict[KeyPath, Problem] = {}
    for item in error.errors(include_url=False):
        path, kind = _path_in(data, item["loc"], missing=item["type"] == "missing"), item["type"]
        if kind.startswith("union_tag"):
            path = (*path, item["ctx"]["discriminator"].strip("'"))
            kind = "missing" if kind == "union_tag_not_found" else kind
        place = (*parent, *path)
        if place in problems:
            continue
        if kind == "extra_forbidden":
            fields = _unknown(path, root, data, explain)
        elif kind == "missing":
            fields = {
                "found": "nothing",
                "allowed": in_words(annotation_at(root, path, data)),
                "message": "The key is missing.",
                "rule": "missing_key",
            }
        else:
            fields = _wrong_value(path, item, root, data, str(place[-1]))
        problems[place] = source.problem(place, **fields)
    return problems


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
    # `Input should be greater than 0` -> `greater than 0`
    bound = re.search(r"(greater|less) than( or equal to)? (-?[\d.e+-]+)", item["msg"])
    if bound and isinstance(value, (int, float)) and not isinstance(value, bool):
        allowed = f"{allowed.removesuffix(' or null (empty)')}, {bound.group(0)}"
    elif item["type"] in ("too_short", "finite_number"):
        allowed = "at least one entry" if item["type"] == "too_short" else "a finite number"
    return {
        "found": describe(value),
        "allowed": allowed,
        "nearest": nearest_name(value, literals(annotation)) if isinstance(value, str) else "",
        "message": how_to_write(key, value, annotation),
        "rule": "wrong_value",
    }


def _path_in(data: Any, loc: tuple, missing: bool) -> KeyPath:
    """Drop from pydantic's location the union tags that it inserts."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data = data[part]
        elif not (missing and index == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _at(data: Any, path: KeyPath) -> Any:
    """Return the value at a path, None if there is none."""
    try:
        for part in path:
            data = data[part]
    except (KeyError, IndexError, TypeError):
        return None
    return data


# Declared types: which one is at a path, and its name in plain words.

WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null (empty)",
    dict: "a mapping",
    list: "a list",
}


def members(annotation: Any) -> list[Any]:
    """List the members of a union, without Annotated."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in members(member)]
    return [annotation]


def literals(annotation: Any) -> list[str]:
    """List the values of the Literals in the annotation."""
    return [v for member in members(annotation) if get_origin(member) is Literal for v in get_args(member)]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """List the models among the union members; `tag` names the key that selects one of several."""
    return [m for m in members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def tag(models: list[type[BaseModel]]) -> str:
    """Return the key that selects one of several models: a reward's `name`, a stage's `kind`."""
    fields = (model.model_fields.get("kind") for model in models)
    return "kind" if all(field and literals(field.annotation) for field in fields) else "name"


def model_at(annotation: Any, value: Any = None) -> type[BaseModel] | None:
    """Return the model among the union members, of several the one that `value` selects; None without one."""
    models = models_in(annotation)
    if len(models) > 1:
        key = tag(models)
        name = value.get(key) if isinstance(value, dict) else None
        models = [m for m in models if name in literals(m.model_fields[key].annotation)]
    return models[0] if models else None


def annotation_at(model: type[BaseModel], path: KeyPath, data: Any = None, key: bool = False) -> Any:
    """Return the declared type at a path of `data`; with `key`, the type of a mapping's keys there."""
    annotation: Any = model
    for part in path:
        models, inner = models_in(annotation), model_at(annotation, data)
        data = _at(data, (part,))
        if len(models) > 1 and part == tag(models):
            annotation = Union[tuple(m.model_fields[part].annotation for m in models)]  # noqa: UP007
        elif inner is not None:
            declared = inner.model_fields.get(str(part))
            annotation = declared.annotation if declared else Any
        else:
            container = next((m for m in members(annotation) if get_origin(m) in (list, dict)), None)
            annotation = get_args(container)[-1] if container else Any
    if key:
        container = next((m for m in members(annotation) if get_origin(m) is dict), None)
        return get_args(container)[0] if container else Any
    return annotation


def in_words(annotation: Any) -> str:
    """Return the type in plain words: `one of a, b or null (empty)`, `a list of whole numbers`."""
    if len(models := models_in(annotation)) > 1:
        return f"a mapping with {tag(models)}"
    words: list[str] = []
    if values := literals(annotation):
        words.append("one of " + ", ".join(str(value) for value in values))
    for member in members(annotation):
        if get_origin(member) is Literal:
            continue
        if get_origin(member) is list:
            inner = get_args(member)[0]
            inner_words = "mappings" if models_in(inner) else in_words(inner).removeprefix("a ")
            word = f"a list of {inner_words}".replace("whole number", "whole numbers")
        elif isinstance(member, type) and issubclass(member, BaseModel):
            word = "a mapping with " + ", ".join(member.model_fields)
        else:
            word = WORDS.get(get_origin(member) or member, "a value")
        words += [word] if word not in words else []
    return " or ".join(words)


def how_to_write(key: str, value: Any, annotation: Any) -> str:
    """Return the correct way to write a value, for the mistakes that YAML invites; "" if none applies."""
    kinds = set(members(annotation))
    if isinstance(value, str) and kinds & {int, float}:
        try:
            float(value)
        except ValueError:
            return VALUE_HINTS.get(key, "")
        return f"This is text because of its quotes; write the bare number: {key}: {value}"
    if value is False and (no := [word for word in literals(annotation) if word in ("no", "NO")]):
        return f'YAML reads a bare `{no[0]}` as false; write {key}: "{no[0]}"'
    word = value.lower() if isinstance(value, str) else ""
    if bool in kinds and word in ("true", "false", "yes", "no", "on", "off"):
        word = "true" if word in ("true", "yes", "on") else "false"
        return f"This is text because of its quotes; write {key}: {word}"
    if isinstance(value, float) and value.is_integer() and int in kinds:
        return f"Write it without a point or exponent: {key}: {int(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and str in kinds:
        return f'Write it in quotes: {key}: "{value}"'
    if isinstance(value, str) and len(models := models_in(annotation)) > 1:
        return f"Write a mapping: {{{tag(models)}: {value}}}"
    if value is None:
        return "The key has no value; write one, or remove the line."
    if not isinstance(value, list) and any(get_origin(kind) is list for kind in kinds):
        return VALUE_HINTS.get(key) or f"Write a list: {key}: [{value}]"
    return VALUE_HINTS.get(key, "")


# Overrides: values that replace those of a file.


def parse_override(text: str) -> tuple[str, Any]:
    """Split `"sft.learning_rate=1e-3"` into `("sft.learning_rate", 0.001)`; the value is read as YAML.

    Raises:
        SettingsError: if the text does not have that form.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")) or len(key.split(".")) < 2:
        allowed = "section.key=value, for example sft.learning_rate=1e-3"
        raise SettingsError([Problem("--set", key, describe(text), allowed)])
    document = read_document(value, "--set")
    if document.problems:
        message = document.problems[0].message
        raise SettingsError([Problem("--set", key, describe(value), "a YAML value", message=message)])
    return key, document.value


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Parse several overrides; the last one for a key wins.

    Raises:
        SettingsError: with all that are malformed.
    """
    overrides, problems = {}, []
    for text in texts:
        try:
            key, value = parse_override(text)
            overrides[key] = value
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    return overrides


def settings_of(
    model: type[Settings], source: Source, overrides: Mapping[str, Any], path: Path | None = None
) -> tuple[Any, list[Problem]]:
    """Read settings that belong to no profile: a file (by default nothing but defaults), then overrides.

    Overrides are named with the source's section: `curation.near.threshold`.

    Returns:
        the typed settings (None if anything is wrong), and all problems.
    """
    document = read_file(path) if path else Document({})
    source.lines, values = document.lines, {} if document.value is None else unshared(document.value)
    problems = list(document.problems)
    for name, value in overrides.items() if isinstance(values, dict) else ():
        section, *keys = name.split(".")
        if section != source.section or not keys:
            allowed, message = f"{source.section}.…", "Unknown section."
            problems.append(Problem(f"override {name}", name, describe(value), allowed, message=message))
        else:
            problems += set_override(source, values, name, key_path(keys), value)
    if problems:
        return None, problems
    settings, problems, _ = validate(model, values, source)
    return settings, problems


def key_path(keys: Sequence[str]) -> KeyPath:
    """Turn `["rewards", "0", "weight"]` into `("rewards", 0, "weight")`."""
    return tuple(int(key) if key.isdigit() else key for key in keys)


def set_override(source: Source, values: Any, name: str, path: KeyPath, value: Any) -> list[Problem]:
    """Set the value at `path` and note it in `source`; return a problem if the parent holds no keys."""
    *parents, last = path
    container = values
    for part in parents:
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
    """Copy a value without YAML's aliases, so that an override changes one place only."""
    if isinstance(value, dict):
        return {key: unshared(inner) for key, inner in value.items()}
    return [unshared(inner) for inner in value] if isinstance(value, list) else value
