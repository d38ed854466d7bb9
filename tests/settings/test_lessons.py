"""The parameters cell of a notebook is checked before its stage opens."""

from __future__ import annotations

from typing import Any

import pytest

from r1kit.settings import SettingsError
from r1kit.settings.lessons import check_parameters

DECLARED = {"PROFILE": str, "RUN_ID": str, "LEARNING_RATE": float, "MAX_STEPS": int, "LIVE": bool}
GIVEN = {"PROFILE": "cpu-tiny", "RUN_ID": ""}


def test_right_parameters_come_back_with_their_types() -> None:
    values = check_parameters("02_sft", {**GIVEN, "LEARNING_RATE": 1, "MAX_STEPS": None}, DECLARED)
    assert values == {**GIVEN, "LEARNING_RATE": 1.0, "MAX_STEPS": None, "LIVE": None}
    assert isinstance(values["LEARNING_RATE"], float)


@pytest.mark.parametrize(
    ("given", "key", "says", "nearest"),
    [
        ({"LERNING_RATE": 1e-3}, "LERNING_RATE", "02_sft has no such parameter", "LEARNING_RATE"),
        ({"LEARNING_RATE": "1e-6"}, "LEARNING_RATE", "LEARNING_RATE = 1e-6 without quotes", ""),
        ({"LEARNING_RATE": "fast"}, "LEARNING_RATE", "no number can be read from it", ""),
        ({"LEARNING_RATE": True}, "LEARNING_RATE", "not numbers", ""),
        ({"MAX_STEPS": "30"}, "MAX_STEPS", "-p MAX_STEPS 30", ""),
        ({"MAX_STEPS": 30.0}, "MAX_STEPS", "MAX_STEPS = 30", ""),
        ({"MAX_STEPS": 30.5}, "MAX_STEPS", "a whole number", ""),
        ({"LIVE": "true"}, "LIVE", "LIVE = True", ""),
        ({"PROFILE": None}, "PROFILE", "must set it", ""),
        ({"RUN_ID": 20261123}, "RUN_ID", 'RUN_ID = "20261123"', ""),
    ],
)
def test_a_wrong_parameter_says_how_to_write_it(given: dict, key: str, says: str, nearest: str) -> None:
    with pytest.raises(SettingsError) as error:
        check_parameters("02_sft", {**GIVEN, **given}, DECLARED)
    (problem,) = error.value.problems
    assert problem.file == "notebooks/02_sft.ipynb"
    assert problem.key == key
    assert says in str(problem)
    assert problem.nearest == nearest


def test_all_wrong_parameters_are_reported_at_once() -> None:
    given: dict[str, Any] = {"PROFIL": "x", "MAX_STEPS": "many", "LIVE": 1}
    with pytest.raises(SettingsError) as error:
        check_parameters("02_sft", given, DECLARED)
    assert {problem.key for problem in error.value.problems} == {
        "PROFIL",
        "PROFILE",
        "RUN_ID",
        "MAX_STEPS",
        "LIVE",
    }
