"""What a dataset's columns are, and whether those that we read are still what they were.

A column's type is written as a dataset card of the hub shows it: `string`, `int64`, `list<string>`,
`list<{role: string, content: string}>`. A dataset may grow columns, and may lose ones that nobody here
reads; that is noted. A column that we read and that is gone or of another kind is an error: a wrong gold or a
dropped trace would be found days later, if ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

TURNS = "list<{role: string, content: string}>"


class DatasetChanged(ValueError):
    """A dataset is not what the code expects; the command line exits with 2."""

    exit_code = 2


def arrow_type(text: str) -> pa.DataType:
    """The Arrow type of a column that is written as above."""
    import pyarrow as pa

    text = text.strip()
    if text.startswith("list<"):
        return pa.list_(arrow_type(text[5:-1]))
    if text.startswith("{"):
        return pa.struct({name.strip(): arrow_type(kind) for name, kind in _fields(text[1:-1])})
    return {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}[text]


def arrow_schema(columns: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of a table of columns."""
    import pyarrow as pa

    return pa.schema({name: arrow_type(kind) for name, kind in columns.items()})


def features(columns: Mapping[str, str]) -> Features:
    """The same as features of the `datasets` library."""
    from datasets import Features

    return Features.from_arrow_schema(arrow_schema(columns))


def check_columns(
    dataset: str, found: pa.Schema, expected: Mapping[str, str], read: Iterable[str]
) -> list[str]:
    """What changed in columns that nobody reads, in words.

    Raises:
        DatasetChanged: a column that is read is missing, or has another type.
    """
    kinds = {field.name: written(field.type) for field in found}
    wanted = {name: written(arrow_type(kind)) for name, kind in expected.items()}
    read = list(read)
    wrong = [
        f"  column {name}: {kinds.get(name, 'missing')}, expected {wanted.get(name, 'any type')}"
        for name in read
        if name not in kinds or not _same(kinds[name], wanted.get(name, kinds[name]))
    ]
    if wrong:
        there = f"  its columns: {', '.join(kinds)}"
        message = f"{dataset} changed: what r1kit reads of it is not there.\n"
        raise DatasetChanged(message + "\n".join([*wrong, there]))
    others = [name for name in wanted if name not in read]
    notes = [f"column {name} is gone" for name in others if name not in kinds]
    notes += [
        f"column {name} is {kinds[name]}, was {wanted[name]}"
        for name in others
        if name in kinds and not _same(kinds[name], wanted[name])
    ]
    if expected:
        notes += [f"column {name} is new" for name in kinds if name not in wanted]
    return notes


def written(kind: pa.DataType) -> str:
    """An Arrow type in the notation above; the fields of a struct in alphabetical order."""
    import pyarrow.types as of

    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return f"list<{written(kind.value_type)}>"
    if of.is_struct(kind):
        fields = sorted((kind.field(i) for i in range(kind.num_fields)), key=lambda field: field.name)
        return "{" + ", ".join(f"{field.name}: {written(field.type)}" for field in fields) + "}"
    if of.is_string(kind) or of.is_large_string(kind) or of.is_dictionary(kind):
        return "string"
    if of.is_integer(kind):
        return "int64"
    return "float64" if of.is_floating(kind) else str(kind)


def _same(found: str, wanted: str) -> bool:
    """Numbers of both kinds are one: a column of ratings that gets an empty cell turns to float64."""
    return found.replace("float64", "int64") == wanted.replace("float64", "int64")


def _fields(text: str) -> list[tuple[str, str]]:
    """`a: string, b: list<{c: string}>` cut at its outer commas."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text + ","):
        depth += (character in "<{") - (character in ">}")
        if character == "," and depth == 0:
            name, _, kind = text[start:position].partition(":")
            parts.append((name, kind))
            start = position + 1
    return parts
