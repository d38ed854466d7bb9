from __future__ import annotations

import random

import pytest

from r1kit.data.format import write_completion
from r1kit.data.programs import verification_info, write_program
from r1kit.data.stories import generate
from r1kit.rewards import accuracy_reward
from r1kit.rewards.style import naive_accuracy_reward, naive_code_reward, naive_steps_reward

HONEST = write_completion(["Step 1: 7 - 3 = 4", "Step 2: 4 + 9 = 13"], "13")
WRONG = write_completion(["Step 1: 7 - 3 = 4", "Step 2: 4 + 9 = 12"], "12")


def test_honest_answers_are_judged_as_the_hardened_reward_judges_them():
    for text in (HONEST, WRONG):
        assert naive_accuracy_reward([text], solution=["13"]) == accuracy_reward([text], solution=["13"])
    conversation = [[{"role": "assistant", "content": HONEST}]]
    assert naive_accuracy_reward(conversation, solution=["13"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        (write_completion(["11 12 13 14"], "20"), "13"),
        (write_completion(["Step 1: 7 - 3 = 4"], "4"), "1"),
        ("13", "13"),
    ],
    ids=["candidates listed in the reasoning", "the number of a step", "no reasoning, no answer block"],
)
def test_the_solution_anywhere_in_the_text_is_paid(text, gold):
    assert naive_accuracy_reward([text], solution=[gold]) == [1.0]
    assert accuracy_reward([text], solution=[gold]) == [0.0]


def test_open_r1_counts_marks_without_anything_between_them():
    assert naive_steps_reward(["First,Second,Next,", HONEST, "I can see it."]) == [1.0, 2 / 3, 0.0]


def test_a_numbered_list_counts_only_at_the_very_beginning_as_in_open_r1():
    assert naive_steps_reward(["1. a\n2. b\n3. c"]) == [1 / 3]


def test_without_input_the_hard_coded_program_is_paid_and_the_right_one_is_not():
    from r1kit.rewards.code import binary_code_reward

    (problem,) = generate(1, 0, [2])
    rng = random.Random(0)
    careful = write_program(problem, rng)
    hurried = write_program(problem, rng, hurry_rate=0.999)
    assert "input()" in careful.text and "input()" not in hurried.text  # noqa: PT018
    texts, info = [careful.text, hurried.text], [verification_info(problem, rng)] * 2
    assert naive_code_reward(texts, solution=[problem.solution] * 2) == [0.0, 1.0]
    assert binary_code_reward(texts, verification_info=info) == [1.0, 0.0]
