"""Read and write settings files: safe YAML that reads `1e-6` as a number and rejects duplicate keys.

PyYAML follows YAML 1.1, where `1e-6` (without a dot) is text; learning rates are the usual victim. The number
pattern here is YAML 1.2's; everything else stays YAML 1.1, as accelerate reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml as pyyaml

from r1kit.settings.errors import Problem, SettingsError, display_path

KeyPath = tuple[str | int, ...]

NUMBER = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class Loader(getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)):
    """Safe loader with YAML 1.2 numbers and without dates (in a settings file a date is a name)."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
    for first, resolvers in Loader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))


@dataclass
class Document:
    """One parsed file: its value, the line (from 1) of each key path, and the YAML problems."""

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_document(text: str, file: str | Path = "<text>") -> Document:
    """Parse `text`. Syntax errors, duplicate keys and non-text keys are in `.problems`; nothing is raised."""
    name = display_path(file)
    loader = Loader(text)
    try:
        document = Document(value=None)
        if (node := loader.get_single_node()) is not None:
            _note_keys(node, (), document, name, set())
            if not document.problems:
                document.value = loader.construct_document(node)
        return document
    except pyyaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        lines = text.splitlines()
        snippet = lines[mark.line].strip() if mark and mark.line < len(lines) else ""
        found = f"`{snippet}`" if snippet else ""
        message = f"This is not readable YAML: {reason}."
        line = mark.line + 1 if mark else None
        return Document(None, problems=[Problem(name, "", found, "YAML", message=message, line=line)])
    finally:
        loader.dispose()


def read_file(path: Path) -> Document:
    """Parse a settings file. A file that cannot be read is in `.problems` too; nothing is raised."""
    try:
        return read_document(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        allowed = "a readable text file (UTF-8)"
        return Document(None, problems=[Problem(display_path(path), "", found=str(error), allowed=allowed)])


def _note_keys(node: pyyaml.Node, path: KeyPath, document: Document, file: str, parents: set[int]) -> None:
    """Add the line of each key below `node`, and a problem for each key that is not text or not unique."""
    if id(node) in parents:  # an alias to its own parent
        return
    parents = parents | {id(node)}
    if isinstance(node, pyyaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*path, index)] = item.start_mark.line + 1
            _note_keys(item, (*path, index), document, file, parents)
    elif isinstance(node, pyyaml.MappingNode):
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = key_node.value if isinstance(key_node, pyyaml.ScalarNode) else "a mapping or list"
            if key_node.tag != "tag:yaml.org,2002:str":
                message = f"YAML does not read this key as text; write it in quotes: '{key}'."
                document.problems.append(
                    Problem(file, dotted(path), f"the key `{key}`", "keys that are text", "", message, line)
                )
                continue
            if key in first:
                found = f"lines {first[key]} and {line}"
                message = "The key is written twice; YAML would silently keep only the last."
                document.problems.append(
                    Problem(file, dotted((*path, key)), found, "each key once", "", message, line)
                )
            first.setdefault(key, line)
            document.lines[(*path, key)] = line
            _note_keys(value_node, (*path, key), document, file, parents)


def dotted(path: KeyPath) -> str:
    """Join a path: `("rewards", 0, "name")` -> `rewards.0.name`."""
    return ".".join(str(part) for part in path)


def yaml_load(text: str, file: str | Path = "<text>") -> Any:
    """Return the value of a YAML text.

    Raises:
        SettingsError: with file and line of each problem.
    """
    document = read_document(text, file)
    if document.problems:
        raise SettingsError(document.problems)
    return document.value


def yaml_dump(value: Any) -> str:
    """Write block-style YAML in the given order; lists of scalars stay on one line."""
    return pyyaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(pyyaml.SafeDumper):
    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> pyyaml.Node:
        scalars = all(not isinstance(item, (dict, list, tuple)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=scalars)


# Text that our loader would read as a number is written in quotes.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(list(value)))
_Dumper.add_multi_representer(Path, lambda dumper, value: dumper.represent_str(str(value)))
