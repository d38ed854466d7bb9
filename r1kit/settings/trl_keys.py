"""The keys and types that the installed TRL, transformers and accelerate accept, read from their source.

Importing TRL's configuration classes costs seconds and loads torch; parsing their source costs some
milliseconds and cannot disagree with what is installed. A test holds the keys to the real classes.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from r1kit.settings.errors import Problem, SettingsError
from r1kit.settings.trl_hints import CHOICES, WIDER

CLASSES = {
    "base": ("transformers/training_args.py", "TrainingArguments"),
    "sft": ("trl/trainer/sft_config.py", "SFTConfig"),
    "grpo": ("trl/trainer/grpo_config.py", "GRPOConfig"),
    "model": ("trl/trainer/model_config.py", "ModelConfig"),
    "accelerate": ("accelerate/commands/config/config_args.py", "ClusterConfig"),
}
# Bases that a file imports from the top of another package.
REEXPORTED = {"TrainingArguments": "transformers/training_args.py"}
ENUM_FILES = (
    "transformers/trainer_utils.py",
    "transformers/training_args.py",
    "transformers/debug_utils.py",
)
NAMES = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "dict": dict,
    "list": list,
    "Any": Any,
    "None": None,
    "Literal": Literal,
}


@dataclass(frozen=True)
class Key:
    """One field of a configuration class: its type for pydantic, its default (`...` if not a literal)."""

    name: str
    type: Any
    default: Any = ...


@functools.cache
def keys(config: str) -> dict[str, Key]:
    """The fields of a class of `CLASSES`, inherited ones first. SettingsError if the package is missing."""
    file, name = CLASSES[config]
    return _class_keys(file, name)


def default(section: str, key: str) -> Any:
    """The default that the installed class gives `key`; `...` if there is no key or no literal default."""
    for config in (section, "model"):
        if key in keys(config):
            return keys(config)[key].default
    return ...


def distributed_types() -> tuple[str, ...]:
    """The `distributed_type` values of accelerate."""
    node = _class(_text("accelerate/utils/dataclasses.py"), "DistributedType")
    assigned = [item.value for item in node.body if isinstance(item, ast.Assign)]
    return tuple(value.value for value in assigned if isinstance(value, ast.Constant))


@functools.cache
def _class_keys(file: str, name: str) -> dict[str, Key]:
    text = _text(file)
    node = _class(text, name)
    found: dict[str, Key] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and (where := _file_of(base.id, text, file)):
            found |= _class_keys(where, base.id)
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if "ClassVar" in ast.dump(item.annotation):
            continue
        key = item.target.id
        choices = CHOICES.get((name, key)) or CHOICES.get(key) or _choices(item.value)
        found[key] = Key(
            key, _as_type(item.annotation, choices, WIDER.get(key, ())), _literal_default(item.value)
        )
    return found


def _class(text: str, name: str) -> ast.ClassDef:
    """The class up to its first method: parsing only that much of a file saves most of the time."""
    match = re.search(
        rf"^class {name}\b.*?(?=^\S|^    (?:async )?def |^    @|\Z)", text, re.DOTALL | re.MULTILINE
    )
    if match is None:
        raise LookupError(f"no class {name} in the installed source; r1kit does not know this release")
    return ast.parse(match.group(0)).body[0]


def _file_of(name: str, text: str, file: str) -> str | None:
    """The file that defines a base class: this one, one imported relatively, or a re-exported one."""
    if re.search(rf"^class {name}\b", text, re.MULTILINE):
        return file
    match = re.search(rf"^from (\.+)([\w.]+) import (?:\(.*?\b)?.*?\b{name}\b", text, re.MULTILINE)
    if match:
        return str(Path(file).parents[len(match.group(1)) - 1] / (match.group(2).replace(".", "/") + ".py"))
    return REEXPORTED.get(name)


def _as_type(annotation: ast.expr, choices: tuple[str, ...], wider: tuple[type, ...]) -> Any:
    """The annotation as a type: enums and `choices` take the place of `str`; what is unknown is Any."""
    enums = _all_enums()
    members: list[Any] = []
    for node in _members(annotation):
        if isinstance(node, ast.Name) and node.id in enums:
            choices = choices or enums[node.id]
            continue
        try:
            members.append(_evaluate(ast.unparse(node)))
        except (NameError, TypeError, AttributeError):
            return Any
    if choices:
        members = [Literal[choices], *(member for member in members if member is not str)]
    return Union[tuple([*members, *wider])]  # noqa: UP007 - built from a list


@functools.cache
def _evaluate(annotation: str) -> Any:
    space = NAMES | {name: Literal[values] for name, values in _all_enums().items()}
    return eval(annotation, {"__builtins__": {}}, space)


def _members(node: ast.expr) -> list[ast.expr]:
    """`A | B | None` and `Optional[A]`, `Union[A, B]` flattened."""
    if isinstance(node, ast.BinOp):
        return [*_members(node.left), *_members(node.right)]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        if node.value.id == "Optional":
            return [*_members(node.slice), ast.copy_location(ast.Constant(None), node)]
        if node.value.id == "Union" and isinstance(node.slice, ast.Tuple):
            return [member for element in node.slice.elts for member in _members(element)]
    return [node]


def _choices(value: ast.expr | None) -> tuple[str, ...]:
    """`field(metadata={"choices": [...]})`, if they are literals."""
    metadata = _keyword(value, "metadata")
    if isinstance(metadata, ast.Dict):
        for key, element in zip(metadata.keys, metadata.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "choices" and isinstance(element, ast.List):
                return tuple(ast.literal_eval(element))
    return ()


def _literal_default(value: ast.expr | None) -> Any:
    node = _keyword(value, "default") if isinstance(value, ast.Call) else value
    try:
        return ast.literal_eval(node) if node is not None else ...
    except ValueError:
        return ...


def _keyword(call: ast.expr | None, name: str) -> ast.expr | None:
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return next((keyword.value for keyword in keywords if keyword.arg == name), None)


@functools.cache
def _all_enums() -> dict[str, tuple[str, ...]]:
    return {name: values for file in ENUM_FILES for name, values in _enums(file).items()}


@functools.cache
def _enums(file: str) -> dict[str, tuple[str, ...]]:
    """Enum classes of a file with their text values."""
    text, found = _text(file), {}
    for name in re.findall(r"^class (\w+)\([^)]*Enum[^)]*\)", text, re.MULTILINE):
        assigned = [n.value for n in _class(text, name).body if isinstance(n, ast.Assign)]
        values = [value.value for value in assigned if isinstance(value, ast.Constant)]
        if values and all(isinstance(value, str) for value in values):
            found[name] = tuple(values)
    return found


@functools.cache
def _text(file: str) -> str:
    package, _, rest = file.partition("/")
    spec = importlib.util.find_spec(package)  # finds the package without importing it
    if spec is None or spec.origin is None:
        message = "Settings are checked against the installed packages; run `make setup` first."
        problem = Problem(
            package, "", found="not installed", allowed=f"{package} in {sys.prefix}", message=message
        )
        raise SettingsError([problem])
    return (Path(spec.origin).parent / rest).read_text(encoding="utf-8")
