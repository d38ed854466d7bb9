"""Test cases of a problem, from the `verification_info` of code data.

open-r1's schema, as a mapping or as JSON text::

    {"language": "python", "test_cases": [
        {"type": "stdin_stdout", "input": "3 4\\n", "output": "7\\n"},
        {"type": "function_call", "fn_name": "add", "input": [3, 4], "output": 7}]}

and what comes with it: `test_cases` as JSON text or as a mapping of columns (Arrow), the columns `inputs`,
`outputs` and `fn_name` of APPS and TACO (also as JSON text under `input_output`), and LiveCodeBench's
function cases, whose input is one JSON value a line. Where we differ from the reference:

- A row without a case that could fail is unjudgeable (`ValueError`, then reward None), a malformed one
  likewise: open-r1 divides by zero, and a row that is ours to blame must not become a 0.
- A case that expects no output, or None, is left out: a program that does nothing would pass it.
- The result of a function may be the expected value or, where that is a list of one, its element: APPS wraps
  results in a list, and its own checker takes the first element of **any** list, so a part of the answer
  passes there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.sandbox.programs import language_name

_STDIN, _FUNCTION = "stdin_stdout", "function_call"
_TYPES = {_STDIN: _STDIN, "stdin": _STDIN, _FUNCTION: _FUNCTION, "functional": _FUNCTION}


@dataclass(frozen=True)
class Case:
    """One test case.

    input: what the program reads, or JSON of the function's arguments (a list, or a mapping of keywords).
    expected: what it must print, or JSON of what the function must return; never enters the sandbox.
    function: the name to call, "" for a program that reads and prints.
    """

    input: str
    expected: str
    function: str = ""

    def accepted(self) -> list[Any]:
        """The results that count as right, for a function."""
        value = json.loads(self.expected)
        return [value, value[0]] if type(value) is list and len(value) == 1 else [value]


@dataclass(frozen=True)
class Problem:
    """The language and the cases of one row, at least one."""

    language: str
    cases: tuple[Case, ...]


def read_problem(verification_info: Any) -> Problem:
    """The problem of one row.

    Raises:
        ValueError: the row cannot be judged: no cases, malformed ones, or a language that is not judged here.
    """
    info = _parsed(verification_info, "verification_info")
    if not isinstance(info, Mapping):
        raise ValueError(f"verification_info: a mapping is needed, found {type(info).__name__}")
    language = language_name(info.get("language") or "python")
    tests = next((info[key] for key in ("test_cases", "input_output") if info.get(key) is not None), info)
    tests = _parsed(tests, "test_cases")
    if isinstance(tests, Mapping):
        tests = _rows(tests, info.get("fn_name"))
    if not isinstance(tests, Sequence) or isinstance(tests, str):
        raise ValueError(f"test_cases: a list is needed, found {type(tests).__name__}")
    cases = [_case(test, f"test_cases[{number}]") for number, test in enumerate(tests)]
    cases = [
        case for case in cases if (None not in case.accepted() if case.function else case.expected.strip())
    ]
    if not cases:
        raise ValueError("test_cases: none that expects anything, so nothing can be judged")
    if language != "python" and any(case.function for case in cases):
        raise ValueError(f"test_cases: function calls are judged in python only, found {language}")
    return Problem(language, tuple(cases))


def _case(test: Any, where: str) -> Case:
    """One case of the schema."""
    if not isinstance(test, Mapping):
        raise ValueError(f"{where}: a mapping is needed, found {type(test).__name__}")
    missing = [key for key in ("input", "output") if test.get(key) is None and key not in test]
    if missing:
        raise ValueError(f"{where}: has no {' and no '.join(missing)}")
    function = test.get("fn_name") or ""
    kind = test.get("type") or test.get("testtype") or (_FUNCTION if function else _STDIN)
    if kind not in _TYPES:
        raise ValueError(f"{where}: type must be {_STDIN} or {_FUNCTION}, found {kind!r}")
    if _TYPES[kind] == _STDIN:
        return Case(_text(test["input"], f"{where}.input"), _text(test["output"], f"{where}.output"))
    if not isinstance(function, str) or not function.isidentifier():
        raise ValueError(f"{where}: fn_name must be the name of a function, found {function!r}")
    return _function_case(function, test["input"], test["output"], where)


def _function_case(function: str, given: Any, expected: Any, where: str) -> Case:
    """A call; arguments in text are one JSON value a line, and the expected result is then JSON text too."""
    try:
        if isinstance(given, str):
            given = [json.loads(line) for line in given.split("\n") if line.strip()]
            expected = json.loads(expected) if isinstance(expected, str) else expected
        if not isinstance(given, (list, tuple, Mapping)):
            raise ValueError(f"arguments must be a list or a mapping, found {type(given).__name__}")
        return Case(json.dumps(given), json.dumps(expected), function)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{where}: arguments or result of {function} are not JSON: {error}") from error


def _rows(columns: Mapping, function: str | None) -> list[dict]:
    """Rows of columns: `inputs` and `outputs` (APPS, one `fn_name` for all), or the schema's own names."""
    names = {"inputs": "input", "outputs": "output"}
    lists = {
        names.get(key, key): value
        for key, value in columns.items()
        if key in (*names, "input", "output", "type", "fn_name") and isinstance(value, (list, tuple))
    }
    if not {"input", "output"} <= lists.keys():
        raise ValueError("test_cases: none found (neither a list of cases, nor inputs and outputs)")
    if len({len(values) for values in lists.values()}) != 1:
        sizes = ", ".join(f"{len(values)} of {name}" for name, values in lists.items())
        raise ValueError(f"test_cases: as many inputs as outputs are needed, found {sizes}")
    one = columns.get("fn_name", function)
    shared = {"fn_name": one} if isinstance(one, str) else {}
    return [shared | dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _parsed(value: Any, where: str) -> Any:
    """The value of JSON text; anything else as it is."""
    if not isinstance(value, (str, bytes)):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: text that is not JSON ({error})") from error


def _text(value: Any, where: str) -> str:
    """Text to read or print; a list is one line an element, a number stands for its digits."""
    if isinstance(value, (list, tuple)) and all(isinstance(line, (str, int, float)) for line in value):
        return "\n".join(map(str, value))
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{where}: text is needed, found {type(value).__name__}")
