"""From raw YAML values to typed settings: runs pydantic and turns what it complains about into Problems."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model

from r1kit.settings import trl_keys
from r1kit.settings.algorithms import expand
from r1kit.settings.errors import Problem, describe, nearest_name
from r1kit.settings.models import FILES, TRAINER_SECTIONS, model_for
from r1kit.settings.training import TrainerFile
from r1kit.settings.trl_hints import BOUNDS, NEVER_EMPTY, REFUSED, RENAMED
from r1kit.settings.type_words import (
    annotation_at,
    bound_in,
    how_to_write,
    in_words,
    literals,
    model_at,
)
from r1kit.settings.yaml import KeyPath, dotted


@dataclass
class Source:
    """Where the values of a section came from, for messages."""

    section: str
    file: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: set[KeyPath] = field(default_factory=set)

    def locate(self, path: KeyPath) -> tuple[str, int | None]:
        """The place to name in a message: file and line, or the override that set the value."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.overridden:
                return f"override of {self.file}", None
        return self.file, next(
            (self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None
        )

    def problem(self, path: KeyPath, **fields: str) -> Problem:
        """A Problem at this place."""
        file, line = self.locate(path)
        return Problem(file=file, key=dotted(path), line=line, **fields)


@functools.cache
def model_of(section: str) -> type[BaseModel]:
    """The strict model of a whole file; in trainer files with all keys of trainer and ModelConfig."""
    own = FILES[section]
    if section not in TRAINER_SECTIONS:
        return own
    fields: dict[str, Any] = {}
    for key in (*trl_keys.keys("model").values(), *trl_keys.keys(section).values()):
        if key.name not in REFUSED and key.name not in own.model_fields:
            fields[key.name] = (_bounded(key), None)
    return create_model(f"{own.__name__}File", __base__=own, **fields)


def known_keys(section: str) -> list[str]:
    """Every key that may stand in the section's file."""
    return list(model_of(section).model_fields)


def _bounded(key: trl_keys.Key) -> Any:
    bounds = BOUNDS.get(key.name)
    if not bounds:
        return key.type
    union = get_origin(key.type) in (Union, types.UnionType)
    kinds = [
        Annotated[kind, Field(**bounds)] if kind in (int, float) else kind
        for kind in (get_args(key.type) if union else (key.type,))
        if not (kind is types.NoneType and key.name in NEVER_EMPTY)
    ]
    return Union[tuple(kinds)]  # noqa: UP007 - built from a list


def validate(section: str, data: Any, source: Source) -> tuple[Any, list[Problem], set[KeyPath]]:
    """The typed section (None if anything is wrong), the problems, and the paths that are wrong."""
    if not isinstance(data, dict):
        found = "an empty file" if data is None else describe(data)
        allowed = "a mapping of keys to values: key: value"
        return None, [Problem(source.file, "", found=found, allowed=allowed)], {()}
    model = model_of(section) if section in TRAINER_SECTIONS else model_for(section, data)
    try:
        model.model_validate(data)
    except ValidationError as error:
        problems = _problems(error, model, section, data, source)
        return None, [problem for _, problem in problems], {path for path, _ in problems}
    return _typed(section, data), [], set()


def validate_as(model: type[BaseModel], data: Any, source: Source) -> tuple[Any, list[Problem]]:
    """The same for a file that belongs to no profile: the typed content (None if wrong), and the problems."""
    if not isinstance(data, dict):
        allowed = "a mapping of keys to values: key: value"
        return None, [Problem(source.file, "", found=describe(data), allowed=allowed)]
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, [problem for _, problem in _problems(error, model, source.section, data, source)]


def _typed(section: str, data: dict[str, Any]) -> Any:
    own = model_for(section, data)
    if not issubclass(own, TrainerFile):
        return own.model_validate(data)
    settings = own.model_validate({key: value for key, value in data.items() if key in own.model_fields})
    trainer = trl_keys.keys(section)
    rest = {key: value for key, value in data.items() if key not in own.model_fields}
    rest = {**expand(getattr(settings, "algorithm", None)), **rest}
    # A key that both name (trust_remote_code in some releases) goes to the trainer.
    settings._trl.update({key: value for key, value in rest.items() if key in trainer})
    settings._model.update({key: value for key, value in rest.items() if key not in trainer})
    return settings


def _problems(
    error: ValidationError, model: type[BaseModel], section: str, data: dict, source: Source
) -> list[tuple[KeyPath, Problem]]:
    """One problem per place: a union complains once for each of its members, which is one mistake."""
    found: dict[KeyPath, Problem] = {}
    for item in error.errors(include_url=False):
        path = _real_path(item["loc"], data, missing=item["type"] == "missing")
        if item["type"].startswith("union_tag"):
            path, item = (
                (*path, item["ctx"]["discriminator"].strip("'")),
                item | {"type": item["type"].replace("union_tag_not_found", "missing")},
            )
        if path in found:
            continue
        if item["type"] == "extra_forbidden":
            found[path] = _unknown(path, model, section, data, source)
        elif item["type"] == "missing":
            allowed = in_words(annotation_at(model, path, data))
            found[path] = source.problem(
                path, found="nothing", allowed=allowed, message="The key is missing.", rule="missing_key"
            )
        else:
            found[path] = _wrong_value(path, item, model, data, source)
    return sorted(found.items(), key=lambda pair: source.locate(pair[0])[1] or 0)


def _unknown(path: KeyPath, model: type[BaseModel], section: str, data: dict, source: Source) -> Problem:
    name, found = str(path[-1]), describe(_at(data, path))
    if len(path) == 1 and section in TRAINER_SECTIONS:
        if name in REFUSED:
            return source.problem(
                path, found=found, allowed="not in this file", message=REFUSED[name], rule="refused_key"
            )
        if name in RENAMED:
            nearest, why = RENAMED[name]
            nearest = nearest if nearest in model.model_fields else ""
            return source.problem(
                path, found=found, nearest=nearest, message=f"Unknown key. {why}".strip(), rule="renamed_key"
            )
    owner = model if len(path) == 1 else model_at(annotation_at(model, path[:-1], data), _at(data, path[:-1]))
    known = list(owner.model_fields) if owner else []
    nearest = nearest_name(name, known)
    message = "Unknown key."
    elsewhere = [
        f"{other}.yaml"
        for other in FILES
        if len(path) == 1 and other != section and name in known_keys(other)
    ]
    if elsewhere:
        message = f"Unknown key here; it belongs in {' or '.join(elsewhere)}."
        nearest = ""
    allowed = "" if len(known) > 30 else ", ".join(known)
    return source.problem(
        path, found=found, allowed=allowed, nearest=nearest, message=message, rule="unknown_key"
    )


def _wrong_value(path: KeyPath, item: dict, model: type[BaseModel], data: dict, source: Source) -> Problem:
    value, annotation = _at(data, path), annotation_at(model, path, data)
    if item["loc"] and item["loc"][-1] == "[key]":
        allowed = in_words(annotation_at(model, path[:-1], data, key=True))
        nearest = nearest_name(str(path[-1]), literals(annotation_at(model, path[:-1], data, key=True)))
        return source.problem(
            path,
            found=str(path[-1]),
            allowed=allowed,
            nearest=nearest,
            message="Unknown name.",
            rule="wrong_value",
        )
    allowed = in_words(annotation)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (bound := bound_in(item["msg"])):
        allowed = f"{allowed.removesuffix(' or null (empty)')}, {bound}"
    elif item["type"] in ("too_short", "finite_number"):
        allowed = "at least one entry" if item["type"] == "too_short" else "a finite number"
    nearest = nearest_name(value, literals(annotation)) if isinstance(value, str) else ""
    message = how_to_write(str(path[-1]), value, annotation)
    return source.problem(
        path, found=describe(value), allowed=allowed, nearest=nearest, message=message, rule="wrong_value"
    )


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
