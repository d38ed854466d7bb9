"""Overrides of a file's values: `--set sft.learning_rate=1e-3`, a notebook's parameters, options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from r1kit.settings.errors import Problem, SettingsError, describe
from r1kit.settings.validation import Source, validate
from r1kit.settings.yaml import Document, KeyPath, read_document, read_file

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
