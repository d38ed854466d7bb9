"""Read and write settings files: safe YAML that reads `1e-6` as a number and refuses a key written twice.

PyYAML follows YAML 1.1, where `1e-6` (no dot) is text, which breaks more learning rates than anything else.
So the number pattern here is YAML 1.2's; everything else stays YAML 1.1, as accelerate reads it.
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
    """Safe loader with YAML 1.2 numbers and without dates (in a settings file a mistake or a name)."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
    for first, resolvers in Loader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))


@dataclass
class Document:
    """One parsed file: its value, the line (from 1) of every key path, what is wrong with the YAML."""

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_document(text: str, file: str | Path = "<text>") -> Document:
    """Parse `text`. Never raises: syntax errors, duplicate keys and non-text keys are in `.problems`."""
    name = display_path(file)
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        document = Document(value=None)
        if node is None:
            return document
        _walk(node, (), document, name, set())
        if not document.problems:
            document.value = loader.construct_document(node)
        return document
    except pyyaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else None
        snippet = text.splitlines()[mark.line].strip() if mark and mark.line < len(text.splitlines()) else ""
        problem = Problem(
            name,
            "",
            found=f"`{snippet}`" if snippet else "",
            allowed="YAML",
            line=line,
            message=f"This is not readable YAML: {reason}.",
        )
        return Document(value=None, problems=[problem])
    finally:
        loader.dispose()


def read_file(path: Path) -> Document:
    """Parse a settings file. Never raises: that it cannot be read is one of `.problems` too."""
    try:
        return read_document(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        allowed = "a readable text file (UTF-8)"
        return Document(None, problems=[Problem(display_path(path), "", found=str(error), allowed=allowed)])


def _walk(node: pyyaml.Node, path: KeyPath, document: Document, file: str, seen: set[int]) -> None:
    """Note the line of every key; one written twice is a problem, since YAML would silently keep the last."""
    if id(node) in seen:  # an alias that points to its own parent
        return
    seen = seen | {id(node)}
    if isinstance(node, pyyaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), document, file, seen)
    elif isinstance(node, pyyaml.MappingNode):
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, pyyaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                shown = getattr(key_node, "value", "a mapping or list")
                document.problems.append(
                    Problem(
                        file,
                        dotted(path),
                        found=f"the key `{shown}`",
                        allowed="keys that are text",
                        line=line,
                        message=f"YAML does not read this key as text; write it in quotes: '{shown}'.",
                    )
                )
                continue
            key = key_node.value
            if key in first:
                document.problems.append(
                    Problem(
                        file,
                        dotted((*path, key)),
                        found=f"lines {first[key]} and {line}",
                        allowed="each key once",
                        line=line,
                        message="The key is written twice; YAML would silently keep only the last.",
                    )
                )
            first.setdefault(key, line)
            document.lines[(*path, key)] = line
            _walk(value_node, (*path, key), document, file, seen)


def dotted(path: KeyPath) -> str:
    """`("rewards", 0, "name")` -> `rewards.0.name`."""
    return ".".join(str(part) for part in path)


def yaml_load(text: str, file: str | Path = "<text>") -> Any:
    """The value of a YAML text. Raises SettingsError naming file and line."""
    document = read_document(text, file)
    if document.problems:
        raise SettingsError(document.problems)
    return document.value


def yaml_dump(value: Any) -> str:
    """Block-style YAML in the order given; short lists of scalars stay on one line."""
    return pyyaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(pyyaml.SafeDumper):
    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> pyyaml.Node:
        scalars = all(not isinstance(item, (dict, list, tuple)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=scalars)


# Text that our loader would read as a number is written in quotes.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(list(value)))
_Dumper.add_multi_representer(Path, lambda dumper, value: dumper.represent_str(str(value)))
