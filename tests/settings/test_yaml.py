"""Numbers are numbers, keys are written once, and errors say the line."""

from __future__ import annotations

import math

import pytest

from r1kit.settings import SettingsError, yaml_dump, yaml_load
from r1kit.settings.yaml import read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E-6", 1e-6),
        ("1.0e-6", 1e-6),
        ("1e6", 1e6),
        ("-3e+2", -300.0),
        (".5", 0.5),
        ("+.5e1", 5.0),
        ("1_000.5", 1000.5),
        ("4.", 4.0),
        (".inf", math.inf),
    ],
)
def test_numbers_with_exponents_are_numbers(text: str, value: float) -> None:
    found = yaml_load(f"x: {text}")["x"]
    assert isinstance(found, float)
    assert found == value


@pytest.mark.parametrize("text", ["'1e-6'", "1e", "e6", "1e-6x", "2024-01-01", "1.2.3", "0x", "v1e3", "."])
def test_what_is_no_number_stays_text(text: str) -> None:
    assert isinstance(yaml_load(f"x: {text}")["x"], str)


def test_whole_numbers_and_booleans_stay_as_in_yaml_1_1() -> None:
    assert yaml_load("{a: 8, b: true, c: no, d: null, e: 1_000}") == {
        "a": 8,
        "b": True,
        "c": False,
        "d": None,
        "e": 1000,
    }


def test_a_key_written_twice_names_both_lines() -> None:
    document = read_document("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n", "sft.yaml")
    assert [(p.key, p.line, p.found) for p in document.problems] == [
        ("b.c", 4, "lines 3 and 4"),
        ("a", 5, "lines 1 and 5"),
    ]


def test_the_line_of_every_key_is_known() -> None:
    lines = read_document("a: 1\nb:\n  - x: 1\n  - x: 2\n").lines
    assert lines[("a",)] == 1
    assert lines[("b", 1, "x")] == 4


def test_merged_anchors_are_no_duplicates() -> None:
    assert yaml_load("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n")["b"] == {"x": 1, "y": 3}


def test_an_anchor_inside_itself_does_not_hang() -> None:
    assert yaml_load("a: &a\n  b: *a\n")["a"]["b"]["b"] is not None


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "\ta: 1", "a: !!python/object:os.system x", "a: 1\n---\nb: 2"]
)
def test_unreadable_yaml_says_where(text: str) -> None:
    with pytest.raises(SettingsError) as error:
        yaml_load(text, "sft.yaml")
    assert str(error.value.problems[0]).startswith("sft.yaml:")


def test_what_is_written_reads_back_the_same() -> None:
    value = {
        "rate": 1e-6,
        "none": None,
        "no": "no",
        "number": "1e-6",
        "list": [1, 2],
        "deep": [{"a": [0.5]}],
        "ü": "ß",
    }
    assert yaml_load(yaml_dump(value)) == value
    assert "list: [1, 2]" in yaml_dump(value)
