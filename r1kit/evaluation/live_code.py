"""LiveCodeBench's rows: the prompt of its runner, the date window, and test cases that arrive as a pickle.

`private_test_cases` is JSON, or base64 of zlib of a pickle of JSON text. A pickle can run code; this one may
hold a text and nothing else, so whatever asks for a class is refused.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from typing import Any

from r1kit.evaluation.benchmark_data import BenchmarkError

BEGIN = (
    "You will be given a question (problem specification) and will generate a correct Python program "
    "that matches the specification and passes all tests.\n\nQuestion: {question}\n\n"
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters.\n```python\n{starter}\n```\n\n"
)
WITH_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT.\n"
    "```python\n# YOUR CODE HERE\n```\n\n"
)
LARGEST = 2**30
"""Bytes that a row's cases may have unpacked; the largest of release_v5 have some hundred MB."""


class _TextOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a text was expected, found {module}.{name}")


def code_prompt(row: Mapping[str, Any]) -> str:
    """The prompt of a row, with its starter code or the words on standard input."""
    begin = BEGIN.format(question=row["question_content"])
    return begin + (WITH_STARTER.format(starter=row["starter_code"]) if row["starter_code"] else WITH_STDIN)


def code_cases(row: Mapping[str, Any]) -> str:
    """Public and private test cases in `sandbox/cases.py`'s schema, as JSON.

    Raises:
        BenchmarkError: cases that cannot be read.
    """
    try:
        cases = [*json.loads(row["public_test_cases"]), *private_cases(row["private_test_cases"])]
        function = json.loads(row["metadata"] or "{}").get("func_name")
    except (ValueError, TypeError) as error:
        raise BenchmarkError(f"LiveCodeBench: test cases that cannot be read ({error})") from error
    cases = [case | {"fn_name": function} if case.get("testtype") == "functional" else case for case in cases]
    return json.dumps({"language": "python", "test_cases": cases})


def private_cases(packed: str) -> list[dict[str, Any]]:
    """The private test cases of a row.

    Raises:
        ValueError: neither JSON nor the packed form, or the pickle holds anything but a text.
    """
    try:
        return json.loads(packed)
    except ValueError:
        pass
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(packed, validate=True), LARGEST)
        text = _TextOnly(io.BytesIO(raw)).load()
        return json.loads(text)
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise ValueError(f"private_test_cases: {error}") from error


def in_window(row: Mapping[str, Any], window: tuple[str, str]) -> bool:
    """Whether the contest lies between two dates, both included (ISO dates compare as texts)."""
    return window[0] <= str(row["contest_date"])[:10] <= window[1]
