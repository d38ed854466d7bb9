"""The rewards for a completion's form: open-r1's two, and R1's own."""

from __future__ import annotations

import pytest

from r1kit.data.format import write_completion
from r1kit.rewards.format import format_reward, split_reasoning, tag_count_reward, think_format_reward

GOOD = "<think>\nStep 1: 7 - 3 = 4\n</think>\n<answer>\n\\boxed{4}\n</answer>"


def form(text: str) -> float:
    return format_reward([text])[0]


def count(text: str) -> float:
    return tag_count_reward([text])[0]


def test_what_the_teacher_writes_earns_both_rewards():
    text = write_completion(["Step 1: 7 - 3 = 4"], "4")
    assert text == GOOD
    assert form(text) == count(text) == 1.0
    assert format_reward([[{"role": "assistant", "content": text}]], solution=["4"]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "\nmore",  # open-r1's MULTILINE `$` accepted any text here
        GOOD + "\n",
        "first " + GOOD,
        GOOD + GOOD,
        GOOD + "\n" + GOOD,
        "<think>\na\n</think>\nb\n<answer>\nc\n</answer>",
        "<think>\n<think>\na\n</think>\n</think>\n<answer>\nb\n</answer>",
        "<think>\n<answer>\na\n</answer>\n</think>\n<answer>\nb\n</answer>",
        "<answer>\n4\n</answer>\n<think>\na\n</think>",
        "<think>a</think><answer>b</answer>",
        "<think>\n\n</think>\n<answer>\n4\n</answer>",
        "<think>\na\n</think>\n<answer>\n \n</answer>",
        "<think>\na\n</think>",
        "<think>\na",
        "",
    ],
)
def test_anything_but_one_reasoning_and_one_answer_block_breaks_the_format(text):
    assert form(text) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 1.0),
        ("<think>\na", 0.25),
        ("<think>\na\n</think>\n", 0.5),
        ("<think>\na\n</think>\n<answer>\n4", 0.75),
        ("<think>\na\n</think>\n<answer>\n4\n</answer> and more", 1.0),
        ("<think>a</think><answer>b</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_each_tag_that_stands_once_on_its_line_earns_a_quarter(text, expected):
    assert count(text) == expected


def test_tags_out_of_order_earn_nothing():
    """An answer before the reasoning scored 1.0 in open-r1."""
    assert count("\n<answer>\n4\n</answer>\n<think>\na\n</think>\n") == 0.0
    assert count("<think>\n\n<answer>\n4\n</answer>\n</think>\n") == 0.0


@pytest.mark.parametrize(
    "again", ["<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>", "<think>", "</answer>"]
)
def test_a_tag_that_occurs_twice_makes_the_count_nothing(again):
    """A nested tag cost a quarter in open-r1, the rest was paid."""
    assert count(GOOD + again) == count(GOOD.replace("Step 1", again)) == 0.0


R1 = "<think>\nWe add 2 and 2.\n</think>\n\nThe sum is $2 + 2$, so it is \\boxed{4}."


def test_r1s_own_form_is_reasoning_and_then_an_answer_with_a_box():
    conversation = [{"role": "assistant", "content": R1}]
    assert think_format_reward([R1, conversation], solution=["4", "4"]) == [1.0, 1.0]
    assert form(R1) == 0.0


def test_the_opening_tag_may_stand_in_the_prompt():
    """Templates of R1's distilled models end in `<think>\\n`: the reward sees what was written after it."""
    assert think_format_reward([R1.removeprefix("<think>\n"), R1.removeprefix("<think>")]) == [1.0, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\\boxed{4}",
        "<think>\nWe add.\n\\boxed{4}",  # never closed
        "<think>\nWe add: \\boxed{4}.\n</think>\nSo it is 4.",  # the box is in the reasoning
        "<think>\n\n</think>\n\\boxed{4}",
        "\n</think>\n\\boxed{4}",
        "Sure. " + R1,
        "\n" + R1,
        R1 + "</think>",
        R1 + "<think>",
        "<think>" + R1,
        R1 + R1,
        "</think>" + R1,
        R1 + " Or \\boxed{5}.",
        R1 + " \\boxed",
        R1.replace("4}", "}"),
        R1.replace("4}", " }"),
        R1.replace("4}", "4"),
        GOOD,  # the other form
        R1 + "</answer>",
    ],
)
def test_anything_else_is_not_r1s_form(text):
    assert think_format_reward([text]) == [0.0]


def test_reasoning_is_split_off_where_it_closes_once():
    assert split_reasoning("<think>a</think>b") == split_reasoning("a</think>b") == ("a", "b")
    assert [split_reasoning(t) for t in ("a", "<think>a", "a</think>b</think>", "a<think>b</think>")] == [
        None
    ] * 4
