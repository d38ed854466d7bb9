"""Comparing what a program gave with what a test case expects, outside the sandbox, by parsed values.

Printed output is compared line by line and token by token:

- Blank lines and the amount of space between tokens do not count; line breaks do ("1 2" is not "1\\n2").
- **Every expected line must be there and no other.** open-r1 (`rewards.py`, `evaluate_code`) zips the lines
  of both outputs, so printing only the first correct line passed.
- A number that is expected with a decimal point or an exponent is compared by value, everything else exactly:
  7 for 7.0 is right, 7.0 for 7 and 007 for 7 are not, nor is "Yes" for "YES".
- The tolerance is one millionth of the expected value, or half a unit of its last printed decimal but at most
  1e-6: "0.333333" may be printed in full, while 0 is no answer where 0.0000001 is expected (contest checkers'
  usual `1e-6 * max(1, |x|)` lets it pass) and 0.3333 is none where two decimals are asked for.

Results of functions arrive as JSON, so no object of the program (with an `__eq__` that is always true) gets
here; types count exactly: True is not 1, 2.0 is not 2, a tuple is a list, keys of a dict are strings.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

RELATIVE = 1e-6
LARGEST_ABSOLUTE = 1e-6

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_LONGEST_NUMBER = 400  # characters; a longer token is compared as it stands


def same_output(stdout: bytes, expected: str) -> bool:
    """Whether printed output is the expected one. Output that is not UTF-8 is not."""
    try:
        found = stdout.decode("utf-8")
    except UnicodeDecodeError:
        return False
    found_lines, expected_lines = _tokens(found), _tokens(expected)
    return len(found_lines) == len(expected_lines) and all(
        len(found_line) == len(expected_line)
        and all(same_token(*pair) for pair in zip(found_line, expected_line, strict=True))
        for found_line, expected_line in zip(found_lines, expected_lines, strict=True)
    )


def same_token(found: str, expected: str) -> bool:
    """Whether one printed word is the expected one: exactly, or by value if that is a decimal number."""
    if found == expected:
        return True
    if not _is_number(expected) or not _is_number(found) or not any(sign in expected for sign in ".eE"):
        return False
    return close(float(found), expected)


def close(found: float, expected: str) -> bool:
    """Whether found is within the tolerance of a decimal number as it was written.

    Tolerance: max(1e-6 * |expected|, min(1e-6, half a unit of the last written decimal)).
    """
    value = float(expected)
    if not math.isfinite(value) or not math.isfinite(found):
        return found == value or (math.isnan(found) and math.isnan(value))
    mantissa, _, exponent = expected.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    written = 0.5 * 10.0 ** -min(max(decimals, 0), 300)
    return abs(found - value) <= max(RELATIVE * abs(value), min(LARGEST_ABSOLUTE, written))


def parse_result(line: bytes) -> tuple[bool, Any]:
    """(True, value) of a line of JSON, (False, None) if it is none, or nested or long beyond reason."""
    try:
        return True, json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # no JSON or UTF-8, an integer of over 4300 digits, 1000 brackets
        return False, None


def same_result(found: Any, expected: Any) -> bool:
    """Whether a function's result equals the expected one; both are values that JSON can hold."""
    try:
        return _equal(found, expected)
    except RecursionError:
        return False


def _equal(found: Any, expected: Any) -> bool:
    if type(expected) is float:
        return type(found) in (int, float) and close(_float(found), repr(expected))
    if type(expected) in (list, tuple):
        return (
            type(found) in (list, tuple)
            and len(found) == len(expected)
            and all(_equal(*pair) for pair in zip(found, expected, strict=True))
        )
    if type(found) is not type(expected):
        return False
    if type(expected) is dict:
        return found.keys() == expected.keys() and all(_equal(found[key], expected[key]) for key in expected)
    return type(expected) in (str, int, bool, type(None)) and found == expected


def _float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _tokens(text: str) -> list[list[str]]:
    """Words of each line that is not blank. Only ASCII space separates: U+00A0 is part of a word."""
    lines = (re.split(r"[ \t\r\f\v]+", line.strip(" \t\r\f\v")) for line in text.split("\n"))
    return [words for words in lines if words != [""]]


def _is_number(token: str) -> bool:
    return len(token) <= _LONGEST_NUMBER and _NUMBER.fullmatch(token) is not None
