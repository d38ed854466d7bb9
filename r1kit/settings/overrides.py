"""Overrides from the command line (`--set sft.learning_rate=1e-3`) and from notebook parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from r1kit.settings.errors import Problem, SettingsError, describe, nearest_name
from r1kit.settings.models import FILES
from r1kit.settings.pipelines import place_of
from r1kit.settings.validation import Source
from r1kit.settings.yaml import KeyPath, read_document

SECTIONS = (*FILES, "accelerate")
LENGTHS = {"max_steps", "num_train_epochs"}
"""Two ways to say how long a training is; a file has one of them."""
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


def apply_overrides(
    values: dict[str, Any], sources: dict[str, Source], overrides: Mapping[str, Any]
) -> list[Problem]:
    """Set each override in `values`, note it in `sources`, and return problems of those without a place.

    Whether key and value are allowed is left to the validation that follows.
    """
    problems = []
    for section in {name.partition(".")[0] for name in overrides} & set(values):
        values[section] = _unshared(values[section])
    for name, value in overrides.items():
        section, *keys = name.split(".")
        place = f"override {name}"
        if section not in (*SECTIONS, *values) or not keys:
            known = ", ".join(f"{s}.…" for s in SECTIONS)
            problems.append(
                Problem(
                    place,
                    name,
                    found=describe(value),
                    allowed=known,
                    nearest=nearest_name(section, SECTIONS),
                    message="Unknown section.",
                )
            )
        elif section not in values:
            if section == "base":
                message = "This profile has no base.yaml: it starts from a given model."
                problems.append(Problem(place, name, found=describe(value), message=message))
            if section == "pipeline":
                message = "This profile has no pipeline.yaml."
                problems.append(Problem(place, name, found=describe(value), message=message))
            # any other missing file is reported as missing
        elif isinstance(values[section], dict):
            path: KeyPath = tuple(int(key) if key.isdigit() else key for key in keys)
            if section == "pipeline":
                found = place_of(values[section], keys)
                if isinstance(found, Problem):
                    problems.append(found)
                    continue
                path = found
            if _set(values[section], path, value):
                sources[section].overridden.add(path)
                if section == "pipeline":  # a stage's `set` has one length as well
                    _drop(values[section], (*path[:-1], other_length(path[-1])))
            else:
                message = "The key before the last point does not hold other keys."
                problems.append(Problem(place, name, found=describe(value), message=message))
    for section, source in sources.items():
        if isinstance(values.get(section), dict):
            _make_room(values[section], source)
    return problems


def other_length(key: Any) -> str:
    """`sft.num_train_epochs` for `sft.max_steps` and the other way round; "" for another key."""
    section, _, word = str(key).rpartition(".")
    return f"{section}.{next(iter(LENGTHS - {word}))}" if word in LENGTHS else ""


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Two sets of overrides; the upper wins, also where it says in steps what the lower says in epochs."""
    said = {other_length(key) for key in upper} - set(upper)
    return {key: value for key, value in lower.items() if key not in said} | dict(upper)


def _drop(container: Any, path: KeyPath) -> None:
    """Remove the value at `path` if there is one."""
    *way, last = path
    for part in way:
        container = container[part]
    if isinstance(container, dict):
        container.pop(last, None)


def _make_room(values: dict[str, Any], source: Source) -> None:
    """A length that was overridden takes the place of the file's, in steps or in epochs."""
    said = LENGTHS & {path[0] for path in source.overridden if len(path) == 1}
    if len(said) == 1:
        for other in LENGTHS - said:
            values.pop(other, None)


def apply_own(source: Source, values: dict[str, Any], overrides: Mapping[str, Any]) -> list[Problem]:
    """`apply_overrides` for a file that belongs to no profile: its section is the only one there is."""
    mine = f"{source.section}."
    own = {name: value for name, value in overrides.items() if name.startswith(mine)}
    problems = [
        Problem(f"override {name}", name, describe(value), f"{mine}…", message="Unknown section.")
        for name, value in overrides.items()
        if name not in own
    ]
    files = {source.section: values}
    problems += apply_overrides(files, {source.section: source}, own)
    if isinstance(values, dict):  # anything else is refused by the validation that follows
        values.update(files[source.section])
    return problems


def _unshared(value: Any) -> Any:
    """A copy in which nothing stands twice: what YAML's aliases share would be changed in both places."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _set(container: Any, path: KeyPath, value: Any) -> bool:
    """Set the value at `path`; False if the way there is blocked by something that holds no keys."""
    *way, last = path
    for part in way:
        if isinstance(container, dict):
            container = container.setdefault(part, {})
        elif isinstance(container, list) and isinstance(part, int) and part < len(container):
            container = container[part]
        else:
            return False
    if isinstance(container, dict) or (
        isinstance(container, list) and isinstance(last, int) and last < len(container)
    ):
        container[last] = value
        return True
    return False
