r"""The holes of open-r1's rewards that a training finds: what a string earned there, and what it earns here.

`open_r1` is what its `src/open_r1/rewards.py` gives. Where its rule fits into three lines it stands below and
is run beside ours; accuracy's rows were run with its extraction settings and math-verify 0.9 (2026-11-24).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest

from r1kit.rewards.accuracy import accuracy_reward
from r1kit.rewards.format import format_reward, tag_count_reward, think_format_reward
from r1kit.rewards.length import get_cosine_scaled_reward, get_soft_overlong_punishment, len_reward
from r1kit.rewards.style import get_repetition_penalty_reward, reasoning_steps_reward


def reference_format(text: str) -> float:
    pattern = r"^<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$"
    return float(bool(re.match(pattern, text, re.DOTALL | re.MULTILINE)))


def reference_tag_count(text: str) -> float:
    return 0.25 * sum(
        text.count(t) == 1 for t in ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
    )


def reference_steps(text: str) -> float:
    return min(1.0, len(re.findall(r"(Step \d+:|^\d+\.|\n-|\n\*|First,|Second,|Next,|Finally,)", text)) / 3)


def reference_cosine(text: str, low: float = 0.5, high: float = 1.0) -> float:
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * len(text) / 1000))


def reference_cosine_wrong(text: str, low: float = -1.0, high: float = -0.5) -> float:
    return reference_cosine(text, low=high, high=low)  # open-r1 swaps them, too


def reference_repetition(text: str) -> float:
    words = text.lower().split()
    ngrams = list(zip(words, words[1:], words[2:], strict=False))
    return -(1 - len(set(ngrams)) / len(ngrams)) if ngrams else 0.0


def think(reasoning: str, answer: str) -> str:
    return f"<think>\n{reasoning}\n</think>\n<answer>\n{answer}\n</answer>"


GOOD = think("2 + 1 = 3", "3")
R1 = "<think>\na\n</think>\n\\boxed{3}"
LIST = "<think>\n1. We add 2 and 1.\n2. That makes 3.\n3. So 3 it is.\n</think>\n"
PROSE = "There are 2 and 3 apples, so she has 5 of them, which she gives to 4 friends."
ANSWER_FIRST = "\n<answer>\n3\n</answer>\n<think>\na\n</think>\n"
MARKS = "<think>First,Second,Next,</think>"
STEPS_LATE = "<think>hm</think>Step 1: a b Step 2: c d Step 3: e f"
ONE_STEP = "<think>\n- we think\n- we think\n- we think\n</think>"
CHINESE = "我们先算一加一。" * 10  # 80 characters, 78 n-grams, 8 different ones
WRONG = "a" * 2000


class Hole(NamedTuple):
    name: str
    reward: Callable
    text: str
    open_r1: float | None
    ours: float | None
    gold: str = "3"
    rule: Callable[[str], float] | None = None


HOLES = [
    Hole("a box inside the reasoning, another answer", accuracy_reward, think(r"\boxed{3}", "5"), 1.0, 0.0),
    Hole("reasoning cut off after its box", accuracy_reward, "<think>\nso \\boxed{3}", 1.0, 0.0),
    Hole("a second box that is right", accuracy_reward, think("hm", r"\boxed{4}") + r"\boxed{3}", 1.0, 0.0),
    Hole("a right answer without LaTeX", accuracy_reward, GOOD, 0.0, 1.0),
    Hole("a letter as gold", accuracy_reward, think("It is A.", "A"), None, 1.0, gold="A"),
    Hole("a gold in prose", accuracy_reward, think("hm", r"\boxed{5}"), 0.0, None, gold=PROSE),
    Hole("text after the answer", format_reward, GOOD + "\nor 5", 1.0, 0.0, rule=reference_format),
    Hole("a second answer", format_reward, GOOD + "\n" + GOOD, 1.0, 0.0, rule=reference_format),
    Hole("nested tags", format_reward, think("<think>\na\n</think>", "3"), 1.0, 0.0, rule=reference_format),
    Hole("R1's own form", think_format_reward, R1, 0.0, 1.0, rule=reference_format),
    Hole("the answer first", tag_count_reward, ANSWER_FIRST, 1.0, 0.0, rule=reference_tag_count),
    Hole("a second opening", tag_count_reward, think("<think>\na", "3"), 0.75, 0.0, rule=reference_tag_count),
    Hole("marks without steps", reasoning_steps_reward, MARKS, 1.0, 0.0, rule=reference_steps),
    Hole("a numbered list", reasoning_steps_reward, LIST, 0.0, 1.0, rule=reference_steps),
    Hole("steps after the reasoning", reasoning_steps_reward, STEPS_LATE, 1.0, 0.0, rule=reference_steps),
    Hole("one step three times", reasoning_steps_reward, ONE_STEP, 1.0, 1 / 3, rule=reference_steps),
    Hole(
        "Chinese", get_repetition_penalty_reward(3, -1.0), CHINESE, 0.0, -70 / 78, rule=reference_repetition
    ),
    Hole("wrong, gold 3", get_cosine_scaled_reward(), "", 1.0, -1.0, rule=reference_cosine),
    Hole(
        "wrong, 2,000 characters", get_cosine_scaled_reward(), WRONG, -1.0, -0.5, rule=reference_cosine_wrong
    ),
]


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.name)
def test_a_hole_of_the_reference_is_closed(hole):
    assert hole.open_r1 != hole.ours
    if hole.rule:
        assert hole.rule(hole.text) == pytest.approx(hole.open_r1)
    assert hole.reward([hole.text], solution=[hole.gold]) == [pytest.approx(hole.ours)]


def test_a_wrong_answer_to_a_bare_number_earns_nothing_for_being_short():
    """open-r1 could not read gold "3" there, took every answer for right, and gave the shortest +0.5."""
    short_wrong, long_right = think("no", "5"), GOOD + " " * 100
    assert len_reward([short_wrong, long_right], solution=["3", "3"]) == [0.0, -0.5]


def test_answers_to_a_hard_problem_do_not_pay_for_an_easy_one():
    """open-r1 took the shortest and the longest of all rows of a process: [0.5, 0.4, -0.4, -0.5] here."""
    lengths = [10, 20, 100, 110]
    columns = {"prompts": ["easy", "easy", "hard", "hard"], "completion_ids": [[0] * n for n in lengths]}
    assert len_reward([GOOD] * 4, solution=["3"] * 4, **columns) == [0.5, -0.5, 0.5, -0.5]
    alone = len_reward([GOOD] * 4, solution=["3"] * 4, completion_ids=columns["completion_ids"])
    assert alone == pytest.approx([0.5, 0.4, -0.4, -0.5])


def test_the_reference_inverts_the_cosine_of_wrong_answers_by_its_defaults():
    """open-r1#312 and #550: its config says min 0.0 and max -0.5, so that short wrong answers earned most."""
    inverted = [reference_cosine_wrong("a" * n, low=0.0, high=-0.5) for n in (0, 1000)]
    assert inverted == pytest.approx([0.0, -0.5])
    with pytest.raises(ValueError, match=r"min_value_wrong is 0 and max_value_wrong is -0\.5"):
        get_cosine_scaled_reward(min_value_wrong=0.0, max_value_wrong=-0.5)


def test_the_overlong_punishment_reaches_a_demo_that_stops_at_2048():
    """open-r1's limit of 16,384 was its own setting: no completion of its demo ever came near it."""
    full = [[0] * 2048]
    assert get_soft_overlong_punishment(16_384, 4_096)(completion_ids=full) == [0.0]
    assert get_soft_overlong_punishment(2_048, 512)(completion_ids=full) == [-1.0]


def test_a_dataset_column_called_like_a_setting_changes_no_setting():
    columns = {"language": ["python"], "max_len": [1], "ngram_size": [9]}
    assert get_repetition_penalty_reward(1, -1.0)(["a a"], **columns) == [-0.5]
    cosine = get_cosine_scaled_reward(max_len=1000)
    assert cosine([GOOD], solution=["3"], completion_ids=[[0] * 500], **columns) == [pytest.approx(0.75)]
