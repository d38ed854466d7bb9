r"""The accuracy reward: what counts as the answer of a completion, and what it earns."""

from __future__ import annotations

import subprocess
import sys

import pytest

from r1kit.rewards.accuracy import (
    accuracy_reward,
    answer_after_reasoning,
    boxed,
    gold_answer,
    judge,
    judge_all,
)


def completion(answer: str, thoughts: str = "Step 1: 7 - 3 = 4") -> str:
    return f"<think>\n{thoughts}\n</think>\n<answer>\n{answer}\n</answer>"


def reward(text: str, gold: str = "5") -> float | None:
    return accuracy_reward([text], solution=[gold])[0]


def test_a_right_answer_earns_one_and_a_wrong_one_nothing():
    texts = [completion(r"\boxed{5}"), completion(r"\boxed{6}")]
    assert accuracy_reward(texts, solution=["5", "5"], level=[1, 1]) == [1.0, 0.0]


def test_conversations_are_judged_like_strings():
    conversation = [{"role": "assistant", "content": completion(r"\boxed{5}")}]
    assert accuracy_reward([conversation], ["5"]) == [1.0]


# Rows of the reference's holes: each string earned the opposite reward in open-r1.
def test_a_box_inside_the_reasoning_earns_nothing_when_the_answer_says_otherwise():
    assert reward(completion("5", thoughts=r"so \boxed{3}"), "3") == 0.0


def test_a_completion_that_never_closes_its_reasoning_earns_nothing():
    assert reward("<think>\nthe result is \\boxed{5}") == 0.0
    assert reward(r"\boxed{5}") == 0.0


def test_a_bare_answer_in_the_answer_block_counts_without_latex():
    assert reward(completion("5")) == 1.0


def test_the_answer_after_the_reasoning_counts_in_r1s_own_form():
    assert reward("<think>\nhm\n</think>\nAdding gives $2+3$, so \\boxed{5}.") == 1.0
    assert reward("<think>\nhm\n</think>\nThe answer is 5.") == 0.0  # that form asks for a box


def test_contradicting_answers_earn_nothing():
    assert reward(completion(r"\boxed{5} or \boxed{6}")) == 0.0
    assert reward(completion(r"\boxed{5}") + completion(r"\boxed{6}")) == 0.0
    assert reward(completion(r"\boxed{6}") + "\n<answer>\n5\n</answer>") == 0.0
    assert reward(completion(r"\boxed{5}, that is \boxed{5}")) == 1.0


def test_two_spellings_of_one_value_do_not_contradict_each_other():
    assert reward(completion(r"\boxed{\frac{1}{2}} = \boxed{0.5}"), "1/2") == 1.0
    assert reward(completion(r"\boxed{50\%} or \boxed{50}"), "50") == 0.0  # readings of a percent sign differ


@pytest.mark.parametrize(
    "candidates", ["5 or 6", "5, 6", r"\{5, 6\}", "x=5, x=6", r"5 \pm 1", "6 = 5", "5 6"]
)
def test_listing_candidates_in_one_box_earns_nothing(candidates):
    assert reward(completion(rf"\boxed{{{candidates}}}")) == 0.0


@pytest.mark.parametrize(
    "tail", [r"\boxed{5}", "\n<answer>\n\\boxed{5}\n</answer>", "</think>\\boxed{5}", "<answer>5</answer>"]
)
@pytest.mark.parametrize("wrong", [completion(r"\boxed{6}"), "</think>\nso \\boxed{6}.", completion("6")])
def test_appending_the_right_answer_to_a_wrong_one_raises_nothing(wrong, tail):
    r"""`</think>\boxed{6}<answer>5</answer>` earned 1.0 until 2026-11-24: a block hid earlier boxes."""
    assert reward(wrong + tail) == 0.0


def test_a_box_may_be_written_with_a_space_or_as_fbox():
    r"""Boxes that this reader overlooked would be a place for the candidates that it should count."""
    assert reward(completion(r"\boxed {5}")) == reward(completion(r"\fbox{5}")) == 1.0
    assert reward(completion(r"\boxed {6} \boxed{5}")) == 0.0


@pytest.mark.parametrize(
    "gold", ["", "  ", r"\boxed{1} and \boxed{2}", "We add all of them and so get 5", "1/0"]
)
def test_a_gold_that_cannot_be_judged_gives_none_to_every_row(gold):
    texts = [completion(r"\boxed{5}"), completion(""), "no answer at all", completion(gold or "x")]
    assert accuracy_reward(texts, [gold] * 4) == [None] * 4


def test_a_gold_solution_in_prose_with_one_box_is_judged_by_the_box():
    assert reward(completion(r"\boxed{5}"), r"First we add 2 and 3 to get what is asked: \boxed{5}.") == 1.0


def test_a_gold_that_math_verify_cannot_parse_gives_none_to_right_and_wrong_alike():
    assert judge_all([(answer, r"\unknown{\sin") for answer in (r"\unknown{\sin", "5", None)]) == [None] * 3
    assert judge_all([(answer, r"\frac{5}{\sin") for answer in ("5", "", "6")]) == [None] * 3


def test_a_letter_as_gold_is_judged():
    """open-r1 returned None for gold "A"."""
    assert [reward(completion(a), "A") for a in ("A", r"\boxed{A}", "B")] == [1.0, 1.0, 0.0]


def test_boxes_are_read_with_balanced_braces():
    assert boxed(r"\boxed{\frac{1}{2}} \boxed{3} \boxed{4") == [r"\frac{1}{2}", "3"]


def test_equal_pairs_are_judged_once(monkeypatch):
    from r1kit.rewards import verifier

    asked = []
    monkeypatch.setattr(verifier, "verify_all", lambda pairs: asked.extend(pairs) or [1.0] * len(pairs))
    assert judge_all([(r"\sin x", r"\sin x")] * 8 + [("5", "5")] * 8) == [1.0] * 16
    assert asked == [(r"\sin x", r"\sin x")]


def test_thousands_of_unclosed_blocks_take_no_time():
    assert answer_after_reasoning("</think>" + "<answer>" * 100_000) is None
    assert answer_after_reasoning("</think>" + r"\boxed{" * 100_000) is None
    assert answer_after_reasoning("</think>" + r"\boxed{5}" * 100_000) is None


def test_prose_is_told_from_short_golds_with_units():
    assert gold_answer("5 square metres") == "5 square metres"
    assert gold_answer(r"\frac{\sqrt{3}}{\sin x + \cos y}") is not None
    assert gold_answer(r"\begin{pmatrix}1\\2\end{pmatrix}, \begin{pmatrix}3\\4\end{pmatrix}") is not None
    assert gold_answer("So she has five apples left") is None


def test_importing_the_rewards_and_judging_common_forms_loads_no_math_verify():
    code = (
        "import sys; from r1kit.rewards.accuracy import judge;"
        r"assert judge(r'\frac{1}{2}', '0.5') == judge('1, 2', r'\{2, 1\}') == judge('(A)', 'A') == 1.0;"
        "print([m for m in ('torch', 'transformers', 'math_verify', 'sympy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_judging_wants_the_answer_first_and_the_gold_second():
    assert judge("2x + 1", "y = 2x + 1") == 1.0
    assert judge(None, "5") == 0.0
