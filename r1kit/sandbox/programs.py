"""The program in a completion, and the test cases of a problem.

`program` chooses the fenced block that a reader would run. open-r1 (`utils/code_providers.py`,
`extract_code`) takes the last "```python ... ```" anywhere in the text: a block drafted in the reasoning
counts, and "```py", an unlabelled block, CRLF line ends or a block cut off by the completion limit do not.
Here:

- Reasoning is skipped: only the text after `</think>` counts; if reasoning was begun and never closed,
  reopened, or closed twice, nothing does. Inside `<answer>`, if there is one; two of them are no answer.
- Of the blocks with one of the language's labels **the last complete one wins**, else the last one if the
  text ends inside it, else the same among blocks without a label. Other languages' blocks never count.
- A fence follows CommonMark: three or more backticks on a line of their own, closed by at least as many, so a
  fence indented inside a docstring closes nothing. As models write it, an opening fence may follow text
  ("Solution: ```python"), a closing one may end a line of code, and a labelled fence begins a new block even
  if the previous one was not closed.
- One pass over the lines and no regular expression over the whole: linear time on megabytes of backticks.

`read_problem` reads the `verification_info` of code data: open-r1's schema, as a mapping or as JSON text::

    {"language": "python", "test_cases": [
        {"type": "stdin_stdout", "input": "3 4\\n", "output": "7\\n"},
        {"type": "function_call", "fn_name": "add", "input": [3, 4], "output": 7}]}

and its variants: `test_cases` as JSON text or as a mapping of columns (Arrow), the columns `inputs`,
`outputs` and `fn_name` of APPS and TACO (also as JSON text under `input_output`), and LiveCodeBench's
function cases, whose input is one JSON value per line. Differences from open-r1:

- A malformed row, or one without a case that can fail, is unjudgeable (`ValueError`, then reward None):
  open-r1 divides by zero, and a fault of the data must not become a 0.
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

# The tags of r1kit/data/format.py, a package on the same layer, which this one must not import.
THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = "<think>", "</think>", "<answer>", "</answer>"

LABELS = {
    "python": frozenset({"python", "py", "python3", "py3"}),
    "cpp": frozenset({"cpp", "c++", "cc", "cxx", "c++11", "c++14", "c++17", "c++20", "cpp17", "cpp20"}),
}
_LANGUAGE_OF = {label: language for language, labels in LABELS.items() for label in labels}
_FENCE = "```"


@dataclass(frozen=True)
class Block:
    """A fenced block: the label's language ("python", "cpp", another label as it stands, "" for none)."""

    language: str
    text: str
    closed: bool


def language_name(name: str) -> str:
    """Return "python" or "cpp" for any label of the language.

    Raises:
        ValueError: the sandbox does not run this language.
    """
    label = str(name).strip().lower()
    if label not in _LANGUAGE_OF:
        from r1kit.settings.errors import nearest_name

        near = nearest_name(label, _LANGUAGE_OF)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown language {name!r}: programs are judged in {', '.join(LABELS)}{hint}")
    return _LANGUAGE_OF[label]


def program(text: str, language: str = "python", *, reasoning: bool = False) -> str | None:
    """Return the program in a completion's answer, or None.

    Args:
        text: the completion.
        language: "python" or "cpp", or another label of either.
        reasoning: the completion continues reasoning that the prompt began (a chat template that ends in
            `<think>`): nothing counts before `</think>`.
    """
    language = language_name(language)
    answer = answer_part(text, reasoning=reasoning)
    if answer is None:
        return None
    found = blocks(answer)
    for label in (language, ""):
        candidates = [block for block in found if block.language == label and block.text.strip()]
        complete = [block for block in candidates if block.closed]
        if complete or candidates:
            return (complete or candidates)[-1].text
    return None


def answer_part(text: str, *, reasoning: bool = False) -> str | None:
    """Return the text after the reasoning (inside `<answer>` if there is one); None if there is none."""
    before, closed, rest = text.partition(THINK_CLOSE)
    if not closed:
        if reasoning or THINK_OPEN in before:
            return None
        rest = before
    if THINK_OPEN in rest or THINK_CLOSE in rest or rest.count(ANSWER_OPEN) > 1:
        return None
    _, opened, answer = rest.partition(ANSWER_OPEN)
    return answer.partition(ANSWER_CLOSE)[0] if opened else rest


def blocks(text: str) -> list[Block]:
    """Return all fenced blocks in order; the last one is not closed if the text ends inside it."""
    found: list[Block] = []
    lines: list[str] | None = None  # of the open block
    language, size, indent = "", 0, 0
    for line in text.replace("\r\n", "\n").split("\n"):
        before, ticks, label = _fence(line)
        closes = lines is not None and ticks >= size and not label
        if closes and (before.strip() or len(before) <= indent + 3):
            if before.strip():
                lines.append(_dedent(before, indent))
            found.append(Block(language, "\n".join(lines) + "\n", closed=True))
            lines = None
        elif ticks and _opens(before, label, inside=lines is not None, size=size, ticks=ticks, indent=indent):
            if lines is not None:
                found.append(Block(language, "\n".join(lines) + "\n", closed=False))
            language, size, lines = _LANGUAGE_OF.get(label, label), ticks, []
            indent = len(before) if not before.strip() else 0
        elif lines is not None:
            lines.append(_dedent(line, indent))
    if lines is not None:
        found.append(Block(language, "\n".join(lines), closed=False))
    return found


def _fence(line: str) -> tuple[str, int, str]:
    """Return (text before, number of backticks, label) of a line's only fence; 0 backticks without one."""
    at = line.find(_FENCE)
    if at == -1 or "`" in line[:at]:
        return line, 0, ""
    after = line[at:].lstrip("`")
    if "`" in after:
        return line, 0, ""
    words = after.split(maxsplit=1)
    return line[:at], len(line) - at - len(after), words[0].lower() if words else ""


def _opens(before: str, label: str, *, inside: bool, size: int, ticks: int, indent: int) -> bool:
    """Decide whether a line with a fence that closes nothing begins a block."""
    known = label in _LANGUAGE_OF
    if inside:
        return known and not before.strip() and ticks == size and len(before) <= indent + 3
    return known or not before.strip()


def _dedent(line: str, indent: int) -> str:
    """Remove the indentation of the fence from a line (a block inside a list)."""
    return line[min(indent, len(line) - len(line.lstrip(" \t"))) :]


_STDIN, _FUNCTION = "stdin_stdout", "function_call"
_TYPES = {_STDIN: _STDIN, "stdin": _STDIN, _FUNCTION: _FUNCTION, "functional": _FUNCTION}


@dataclass(frozen=True)
class Case:
    """One test case.

    input: the standard input, or JSON of the function's arguments (a list, or a mapping of keywords).
    expected: the output, or JSON of the function's result; it never enters the sandbox.
    function: the name to call, "" for a program that reads and prints.
    """

    input: str
    expected: str
    function: str = ""

    def accepted(self) -> list[Any]:
        """Return the results of a function that count as right."""
        value = json.loads(self.expected)
        return [value, value[0]] if type(value) is list and len(value) == 1 else [value]


@dataclass(frozen=True)
class Problem:
    """The language and the cases of one row, at least one."""

    language: str
    cases: tuple[Case, ...]


def read_problem(verification_info: Any) -> Problem:
    """Read the problem of one row.

    Raises:
        ValueError: the row cannot be judged: no cases, malformed ones, or an unknown language.
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
    """Read a call; arguments in text are one JSON value per line, and the result is then JSON text too."""
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
    """Turn columns into rows: `inputs` and `outputs` (APPS, with one `fn_name`), or the schema's names."""
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
    """Parse JSON text; return anything else as it is."""
    if not isinstance(value, (str, bytes)):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: text that is not JSON ({error})") from error


def _text(value: Any, where: str) -> str:
    """Return text to read or print; a list is one line per element, a number its digits."""
    if isinstance(value, (list, tuple)) and all(isinstance(line, (str, int, float)) for line in value):
        return "\n".join(map(str, value))
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{where}: text is needed, found {type(value).__name__}")
