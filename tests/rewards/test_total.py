"""The weighted sum, and which rows may be trained on."""

from __future__ import annotations

import pytest

from r1kit.rewards import get_rewards, score
from r1kit.rewards.registry import is_judged

RIGHT = "<think>\nStep 1: 7 - 3 = 4\n</think>\n<answer>\n\\boxed{4}\n</answer>"
WRONG = RIGHT.replace("boxed{4}", "boxed{5}")
MATH = [{"name": "accuracy", "weight": 1.0}, {"name": "format", "weight": 0.2}]


def test_the_total_is_the_weighted_sum_and_comes_with_its_parts():
    scores = score(*get_rewards(MATH), [RIGHT, WRONG, "4"], solution=["4", "4", "4"])
    assert scores.totals == [1.2, 0.2, 0.0]
    assert scores.parts == {"accuracy": [1.0, 0.0, 0.0], "format": [1.0, 1.0, 0.0]}


def test_a_solution_that_cannot_be_read_leaves_no_points_for_form():
    scores = score(*get_rewards(MATH), [RIGHT, RIGHT], solution=["4", "We see that the result is four"])
    assert scores.totals == [1.2, None]
    assert scores.parts["format"] == [1.0, 1.0]


def test_a_row_without_a_solution_earns_nothing_for_its_form():
    assert score(*get_rewards(MATH), [RIGHT], solution=[None]).totals == [None]


def test_form_alone_can_be_trained_on():
    assert score(*get_rewards(MATH[1:]), [RIGHT]).totals == [0.2]


@pytest.mark.parametrize(
    ("earned", "applies", "verifies", "judged"),
    [
        # accuracy, code, format in a dataset of mathematics and programs
        ([1.0, None, 1.0], [True, False, True], [True, True, False], True),
        ([None, 0.5, 1.0], [False, True, True], [True, True, False], True),
        ([None, None, 1.0], [False, True, True], [True, True, False], False),  # the sandbox failed
        ([None, None, 1.0], [False, False, True], [True, True, False], False),  # nothing to compare with
        ([1.0, None, 1.0], [True, True, True], [True, True, False], False),
        ([1.0], [True], [False], True),
        ([None], [True], [False], False),
    ],
)
def test_a_row_is_judged_if_a_verifier_is_about_it_and_nobody_asked_is_silent(
    earned, applies, verifies, judged
):
    assert is_judged(earned, applies, verifies) is judged
