r"""The accuracy reward: what counts as the answer, and when two answers are equal."""

from __future__ import annotations

import logging
import multiprocessing
import random
import subprocess
import sys
import threading
from decimal import Decimal

import pytest

from r1kit.rewards import verifier
from r1kit.rewards.accuracy import (
    accuracy_reward,
    answer_after_reasoning,
    boxed,
    gold_answer,
    judge,
    plain_number,
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


@pytest.mark.parametrize(
    "tail", [r"\boxed{5}", "\n<answer>\n\\boxed{5}\n</answer>", "</think>\\boxed{5}", "<answer>5</answer>"]
)
def test_appending_the_right_answer_to_a_wrong_one_raises_nothing(tail):
    assert reward(completion(r"\boxed{6}") + tail) == 0.0


@pytest.mark.parametrize("gold", ["", "  ", r"\boxed{1} and \boxed{2}", "We add all of them and so get 5"])
def test_a_gold_that_cannot_be_judged_gives_none(gold):
    assert reward(completion(r"\boxed{5}"), gold) is None
    assert reward("no answer at all", gold) is None


def test_a_gold_solution_in_prose_with_one_box_is_judged_by_the_box():
    assert reward(completion(r"\boxed{5}"), r"First we add 2 and 3 to get what is asked: \boxed{5}.") == 1.0


def test_a_letter_as_gold_is_judged():
    """open-r1 returned None for gold "A"."""
    assert [reward(completion(a), "A") for a in ("A", r"\boxed{A}", "B")] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("1,234", "1234", 1.0),
        ("1234", "+1,234", 1.0),
        ("-3", "−3", 1.0),
        ("13", "13.0", 1.0),
        ("13", "13.", 1.0),
        ("0.5", r"\frac{1}{2}", 1.0),
        (r"\frac{1}{3}", r"\frac{2}{6}", 1.0),
        (r"$\sqrt{8}$", r"2\sqrt{2}", 1.0),
        ("12,34", "12.34", 0.0),
        ("5", "", 0.0),
        ("5", "five apples", 0.0),
        ("13", "13.0000004", 0.0),
    ],
)
def test_equal_values_in_different_forms_are_equal(gold, answer, expected):
    assert judge(answer, gold) == expected


def test_boxes_are_read_with_balanced_braces():
    assert boxed(r"\boxed{\frac{1}{2}} \boxed{3} \boxed{4") == [r"\frac{1}{2}", "3"]


def random_number(rng: random.Random) -> str:
    digits = rng.choice([1, 1, 2, 3, 4, 6, 9, 12, 15])
    whole = rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    text = f"{whole:,}" if rng.random() < 0.3 else str(whole)
    decimals = rng.randint(1, 6)
    if rng.random() < 0.5 and digits + decimals <= 15:
        text += "." + "".join(rng.choice("0005123456789") for _ in range(decimals))
    return rng.choice(["", "", "-"]) + text


def near(text: str, rng: random.Random) -> str:
    value = Decimal(text.replace(",", ""))
    choices = [text, f"{value:f}", f"{value:,f}", f"{value + Decimal('0.000001'):f}", f"{value + 1:f}"]
    choices += [f"{value - Decimal('0.1'):f}", f"{-value:f}", f"{value:.1f}", random_number(rng)]
    return rng.choice(choices)


@pytest.mark.parametrize("wanted", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_the_fast_path_agrees_with_math_verify_on_generated_pairs(wanted):
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we switch its timeouts off
    rng = random.Random(wanted)
    pairs, equal = 0, 0
    while pairs < wanted:
        gold = random_number(rng)
        answer = near(gold, rng)
        if plain_number(gold) is None or plain_number(answer) is None:
            continue
        ours = judge(answer, gold) == 1.0
        theirs = verify(
            parse(rf"\boxed{{{gold}}}", parsing_timeout=None),
            parse(rf"\boxed{{{answer}}}", parsing_timeout=None),
            timeout_seconds=None,
        )
        assert ours == theirs, (gold, answer)
        pairs, equal = pairs + 1, equal + ours
    assert 0.3 < equal / pairs < 0.8  # both verdicts are well represented


def test_numbers_that_math_verify_would_round_do_not_take_the_fast_path():
    for text in ("0.1234567", "1234567890123456", "007", "12,34", "1e3", ".5", "5%", "1 234", "٣", "1_000"):
        assert plain_number(text) is None


HOSTILE = {
    "thousands of braces": "{" * 1500 + "}" * 1500,
    "a megabyte": "1" * 1_000_000,
    "NUL": "\x00",
    "a lone surrogate": "\ud800",
    "unbalanced braces": "}{",
    "a line break": "5\n6",
}
ENDLESS = {
    "a tower of powers": "9^{9^{9^{9^{9}}}}",
    "a huge power": "10^{10^{10}}",
    "a factorial of a factorial": "((100!)!)!",
}


@pytest.mark.parametrize("name", [*HOSTILE, *[pytest.param(n, marks=pytest.mark.slow) for n in ENDLESS]])
def test_a_hostile_answer_is_wrong_and_the_next_one_is_judged(name):
    answer = {**HOSTILE, **ENDLESS}[name]
    assert judge(answer, "5") == 0.0
    assert reward(completion(answer)) == 0.0
    assert judge(r"\frac{10}{2}", "5") == 1.0


def test_thousands_of_unclosed_blocks_take_no_time():
    assert answer_after_reasoning("</think>" + "<answer>" * 100_000) is None
    assert answer_after_reasoning("</think>" + r"\boxed{" * 100_000) is None


def test_a_verifier_killed_in_between_is_replaced():
    assert verifier.verify("x^2", "x*x") == 1.0
    verifier._child.kill()
    verifier._child.wait()
    assert verifier.verify("x^2+1", "1+x*x") == 1.0


def test_a_request_that_hangs_is_ended_and_counts_as_wrong(monkeypatch):
    """The child's own alarm would end this one; the parent's deadline must hold even if that fails."""
    assert verifier.verify("5", r"\frac{10}{2}") == 1.0
    monkeypatch.setattr(verifier, "ANSWER_SECONDS", 0.0)
    hung = verifier._child
    assert verifier.verify("7", "8") is None  # no byte came: the gold itself could not be judged
    assert hung.poll() is not None
    monkeypatch.undo()
    assert verifier.verify("7", "8") == 0.0


def test_judging_works_off_the_main_thread_and_in_a_running_event_loop():
    import asyncio

    found = []
    texts = [completion(r"\frac{15}{3}")]
    thread = threading.Thread(target=lambda: found.append(accuracy_reward(texts, [r"\frac{10}{2}"])))
    thread.start()
    thread.join()

    async def in_a_loop():
        return accuracy_reward([completion(r"\frac{20}{4}")], [r"\frac{10}{2}"])

    assert found == [[1.0]]
    assert asyncio.run(in_a_loop()) == [1.0]


def test_a_forked_process_gets_a_verifier_of_its_own():
    """Data loader workers are forks: two readers on one pipe would take each other's verdicts."""
    assert verifier.verify("2x", "x+x") == 1.0
    parent = verifier._child
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(verifier.verify, ("3x", "x+2x")) == 1.0
    assert verifier.verify("4x", "3x") == 0.0
    assert verifier._child is parent


def test_prose_is_told_from_short_golds_with_units():
    assert gold_answer("5 square metres") == "5 square metres"
    assert gold_answer(r"\frac{\sqrt{3}}{\sin x + \cos y}") is not None
    assert gold_answer("So she has five apples left") is None


def test_importing_the_rewards_loads_neither_torch_nor_math_verify():
    code = (
        "import sys, r1kit.rewards as r; r.accuracy_reward(['</think><answer>5</answer>'], ['5']);"
        "print([m for m in ('torch', 'transformers', 'math_verify', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
