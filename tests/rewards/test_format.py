"""The two rewards for a completion's form."""

from __future__ import annotations

import pytest

from r1kit.data.format import write_completion
from r1kit.rewards import format_reward, tag_count_reward

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
        ("<think>\na\n<think>\nb\n</think>\n<answer>\n4\n</answer>", 0.75),
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
