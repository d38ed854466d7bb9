"""Comparing outputs and results, outside the sandbox."""

from __future__ import annotations

import math

import pytest

from r1kit.sandbox.judge import close, parse_result, same_output, same_result


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1\n2\n3\n", "1\n2\n3", True),
        ("1\n", "1\n2\n3", False),  # open-r1: the first correct line passed
        ("1\n2\n3\n4\n", "1\n2\n3\n", False),
        ("", "1", False),
        ("\n\n", "1", False),
        ("  1   2 \r\n\r\n3\n\n", "1 2\n3", True),
        ("1\n2", "1 2", False),
        ("1 2", "1\n2", False),
        ("7", "7", True),
        ("7.0", "7", False),
        ("007", "7", False),
        ("+7", "7", False),
        ("7", "7.0", True),
        ("0.30000000000000004", "0.3", True),
        ("0.3333333333", "0.333333", True),
        ("0.3333333", "0.33", False),
        ("0", "0.0000001", False),
        ("0", "1e-7", False),
        ("6.1e-17", "0.0", True),
        ("1e3", "1000.0", True),
        ("1000001.0", "1000000.0", True),
        ("1000002.0", "1000000.0", False),
        ("1_000.0", "1000.0", False),
        ("nan", "1.0", False),
        ("inf", "1.0", False),
        ("1e999", "1.0", False),
        ("١.٠", "1.0", False),
        ("Yes", "YES", False),
        ("a\u00a0b", "a b", False),
        ("9" * 5000, "9" * 4999 + "8", False),
        ("9" * 5000 + ".0", "9" * 5000 + ".0", True),
    ],
)
def test_lines_and_tokens_decide(found, expected, same):
    assert same_output(found.encode(), expected) is same


def test_output_that_is_no_text_is_wrong():
    assert not same_output(b"\xff\xfe1", "1")
    assert not same_output(b"1\x00", "1")


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1, 1, True),
        (True, 1, False),
        (1, True, False),
        (2.0, 2, False),
        (2, 2.0, True),
        (True, 1.0, False),
        (0.1 + 0.2, 0.3, True),
        (math.nan, 1.0, False),
        (10**400, 1.0, False),
        ("1", 1, False),
        (None, None, True),
        (None, False, False),
        ([1, [2, "a"]], (1, [2, "a"]), True),
        ([1, 2], [1, 2, 3], False),
        ([], None, False),
        ({"a": [1.0]}, {"a": [1.0]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"1": 2}, {"1": 2}, True),
    ],
)
def test_results_are_equal_by_exact_types(found, expected, same):
    assert same_result(found, expected) is same


def test_a_result_beyond_reason_is_no_result():
    assert parse_result(b"[1, null]") == (True, [1, None])
    for line in (
        b"",
        b"1 2",
        b"{'a': 1}",
        b"\xff",
        b"9" * 5000,
        b"[" * 50_000,
        b"[" * 50_000 + b"]" * 50_000,
    ):
        assert parse_result(line) == (False, None)
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    assert same_result(deep, deep) is False


def test_the_tolerance_is_as_documented():
    assert close(0.5 + 4e-7, "0.500000")  # half a unit of six decimals
    assert not close(0.5 + 6e-7, "0.500000")
    assert close(0.5 + 9e-7, "0.5")  # at most 1e-6
    assert not close(0.5 + 1.1e-6, "0.5")
    assert close(-2e6 - 1.9, "-2e6")
    assert not close(-2e6 - 2.1, "-2e6")
