"""Rewards by name, with their parameters."""

from __future__ import annotations

import inspect

import pytest

from r1kit.rewards import NAMES, get_rewards, score
from r1kit.rewards.registry import LIMITS, MADE, NEEDS, PLAIN, TAKES, is_judged
from r1kit.settings.rewards import REWARDS, Reward

RIGHT = "<think>\nStep 1: 7 - 3 = 4\n</think>\n<answer>\n\\boxed{4}\n</answer>"


def test_rewards_and_weights_come_in_the_order_of_the_settings():
    functions, weights = get_rewards([{"name": "format", "weight": 0.2}, {"name": "accuracy"}])
    assert [function.name for function in functions] == ["format", "accuracy"]
    assert weights == [0.2, 1.0]
    typed = [REWARDS["accuracy"](name="accuracy", weight=2.0)]
    assert get_rewards(typed)[1] == [2.0]
    assert [function([RIGHT], solution=["4"]) for function in functions] == [[1.0], [1.0]]


def test_every_name_of_the_settings_makes_a_reward_that_trl_logs_under_that_name():
    specifications = [{"name": name} for name in NAMES if name != "soft_overlong_punishment"]
    specifications.append({"name": "soft_overlong_punishment", "soft_punish_cache": 10})
    functions, _ = get_rewards(specifications, max_completion_length=100)
    assert {f.__name__ for f in functions} == {f"{name}_reward" for name in NAMES}
    assert set(PLAIN) | set(MADE) | set(TAKES) == set(NAMES)
    assert set(NEEDS) | set(LIMITS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_name_exactly_the_parameters_of_the_function(name):
    """settings lies below rewards and cannot import it."""
    parameters = set(REWARDS[name].model_fields) - set(Reward.model_fields) - {"name"}
    if name in MADE:
        assert parameters == set(inspect.signature(MADE[name]).parameters)
    elif name in TAKES:
        assert parameters <= set(inspect.signature(TAKES[name]).parameters)
    else:
        assert not parameters


@pytest.mark.parametrize("name", MADE)
def test_defaults_in_the_settings_are_those_of_the_function(name):
    for parameter in inspect.signature(MADE[name]).parameters.values():
        ours = REWARDS[name].model_fields[parameter.name].default
        if parameter.default is not inspect.Parameter.empty and parameter.name not in LIMITS.values():
            assert ours == parameter.default, parameter.name


def test_a_limit_left_open_is_the_limit_of_generation():
    """open-r1's own limit of 16384 made the punishment always 0 where completions end at 2048."""
    specification = [{"name": "soft_overlong_punishment", "soft_punish_cache": 10}]
    (function,), _ = get_rewards(specification, max_completion_length=20)
    assert function(["", "", ""], completion_ids=[[0] * 10, [0] * 15, [0] * 20]) == [0.0, -0.5, -1.0]
    with pytest.raises(ValueError, match="max_completion_length"):
        get_rewards(specification)


def test_a_template_that_opens_the_reasoning_asks_programs_to_close_it():
    row = {"language": "python", "test_cases": [{"input": "", "output": "4", "type": "stdin_stdout"}]}
    cut_off = "I try:\n```python\nprint(4)\n```\nbut"
    for begun, earned in ((False, 1.0), (True, 0.0)):
        (function,), _ = get_rewards([{"name": "binary_code"}], reasoning_begun=begun)
        assert function([cut_off], verification_info=[row]) == [earned]


def test_an_unknown_reward_names_the_nearest_known_one():
    with pytest.raises(ValueError, match=r"unknown reward 'acuracy'.*did you mean 'accuracy'"):
        get_rewards([{"name": "acuracy"}])


def test_a_reward_listed_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        get_rewards([{"name": "format"}, {"name": "format"}])


def test_a_parameter_that_the_reward_does_not_have_is_refused():
    with pytest.raises(ValueError, match="max_len"):
        get_rewards([{"name": "format", "max_len": 3}])


def test_rows_of_another_task_are_not_asked():
    (accuracy,), _ = get_rewards([{"name": "accuracy"}])
    assert accuracy([RIGHT, RIGHT, RIGHT], solution=["4", None, "5"]) == [1.0, None, 0.0]


def test_a_dataset_without_the_column_is_named():
    (accuracy,), _ = get_rewards([{"name": "accuracy"}])
    with pytest.raises(ValueError, match=r"accuracy needs the column 'solution'; there are: answer, level"):
        accuracy([RIGHT], level=[1], answer=["4"])


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
