from __future__ import annotations

import pytest

from r1kit.evaluation.generation import NoTrace, trace_text
from r1kit.rewards import accuracy_reward, think_format_reward

FORM = "<think>\nTwo and two.\n</think>\nIt is \\boxed{4}."


def answer(content, reasoning="", finish="stop"):
    return {"content": content, "reasoning": reasoning, "finish_reason": finish}


@pytest.mark.parametrize(
    ("content", "reasoning"),
    [
        ("It is \\boxed{4}.", "Two and two."),
        ("\n\nIt is \\boxed{4}.\n", "\nTwo and two.\n"),
        ("<think>Two and two.</think>It is \\boxed{4}.", ""),
        ("Two and two.\n</think>\n\nIt is \\boxed{4}.", ""),  # the chat template wrote <think>
        ("It is \\boxed{4}.", "<think>\nTwo and two.\n</think>"),
        ("<think></think>It is \\boxed{4}.", "Two and two."),
    ],
)
def test_reasoning_in_a_field_or_between_tags_becomes_the_one_form(content, reasoning):
    assert trace_text(answer(content, reasoning)) == FORM


def test_the_form_is_what_the_rewards_read():
    completion = [{"role": "assistant", "content": FORM}]
    assert accuracy_reward([completion], solution=["4"]) == [1.0]
    assert think_format_reward([completion]) == [1.0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer("It is", "Two and", finish="length"), "truncated"),
        (answer("", "", finish="content_filter"), "finish: content_filter"),
        (answer(" \n"), "empty"),
        (answer("It is 4."), "no reasoning"),
        (answer("<think>\n\n</think>\nIt is 4."), "no reasoning"),
        (answer("", "Two and two."), "no answer"),
        (answer("<think>Two and two.</think>"), "no answer"),
        (answer("<think>Two and two."), "malformed"),
        (answer("<think>a</think>b</think>c"), "malformed"),
        (answer("<think>a<think>b</think>c"), "malformed"),
        (answer("b</think>c", "a"), "malformed"),
    ],
)
def test_what_cannot_be_brought_into_the_form_is_named(given, reason):
    with pytest.raises(NoTrace) as caught:
        trace_text(given)
    assert str(caught.value) == reason
