"""Steps, repetition and language: small texts with values computed by hand, and any text at all."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1kit.rewards.format import (
    format_reward,
    get_language_consistency_reward,
    tag_count_reward,
    think_format_reward,
    words,
)
from r1kit.rewards.style import count_steps, get_repetition_penalty_reward, reasoning_steps_reward


def think(reasoning: str, rest: str = "\n\\boxed{3}") -> str:
    return f"<think>\n{reasoning}\n</think>{rest}"


@pytest.mark.parametrize(
    ("reasoning", "steps"),
    [
        ("Step 1: 7 - 3 = 4\nStep 2: 4 + 9 = 13", 2),
        ("1. We add them.\n2. We halve it.\n3) We are done.", 3),
        ("- we add them\n* we halve it\n  • it is done", 3),
        ("First, we add them. Next, we halve it. Finally, we are done.", 3),
        ("**Step 1:** we add them\n**Step 2:** we halve it", 2),
        ("### Step 1:\nWe add them both.\n### Step 2:\nWe halve it.", 2),
        ("第一,\n1. 我们先算\n2. 然后再算\n", 2),
        ("Step 1: add them\nStep 2: Add  them.\nStep 3: ADD THEM", 1),
        ("Step 1: First, Next, 1. - Finally,", 0),
        ("Step 1: x\nStep 2: y\nStep 3: z", 0),
        ("First,Second,Next,Finally,", 0),
        ("we just know that 3.5 is more than 2", 0),
        ("3.5 is more than 2.5, as we see", 0),
        ("", 0),
    ],
)
def test_steps_are_marks_with_different_content(reasoning, steps):
    assert count_steps(think(reasoning)) == steps


def test_three_steps_earn_everything_and_more_earn_no_more():
    texts = [think("\n".join(f"Step {i}: {i} + 1 = {i + 1}" for i in range(n))) for n in (0, 1, 2, 3, 9)]
    assert reasoning_steps_reward(texts) == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    conversation = [{"role": "assistant", "content": texts[-1]}]
    assert reasoning_steps_reward([conversation], solution=["3"]) == [1.0]


STEPS = "Step 1: 1 + 1 = 2\nStep 2: 2 + 1 = 3\nStep 3: 3 + 1 = 4"


def test_only_closed_reasoning_counts_whether_or_not_the_prompt_opened_it():
    assert reasoning_steps_reward([f"{STEPS}\n</think>\n4"]) == [1.0]  # the prompt ended in <think>
    outside = [STEPS, f"<think>\n{STEPS}", f"<think>hm</think>{STEPS}", think(STEPS) + think(STEPS)]
    assert reasoning_steps_reward(outside) == [0.0] * 4


@pytest.mark.parametrize(
    ("text", "size", "language", "share"),
    [
        ("a b c d e", 3, "en", 0.0),
        ("a b a b a b", 2, "en", 1 - 2 / 5),  # ab ba ab ba ab
        ("The cat. the cat.", 2, "en", 1 - 2 / 3),  # letter case is no difference
        ("yes " * 100, 3, "en", 1 - 1 / 98),
        ("a b", 3, "en", 0.0),
        ("", 1, "en", 0.0),
        ("我们我们我们", 2, "en", 1 - 2 / 5),
        ("我们我们我们", 2, "zh", 1 - 2 / 5),
        ("算,算,算", 1, "zh", 1 - 2 / 5),  # a character and a comma
        ("算x1算x1", 1, "zh", 1 - 2 / 4),
        ("くりかえしくりかえし", 5, "zh", 1 - 5 / 6),
    ],
)
def test_the_penalty_is_the_share_of_ngrams_said_before(text, size, language, share):
    assert get_repetition_penalty_reward(size, -2.0, language)([text]) == [pytest.approx(-2.0 * share)]


def test_each_completion_is_compared_with_itself_only():
    reward = get_repetition_penalty_reward(2, -1.0)
    assert reward(["one two three"] * 3) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, -1.0), "ngram_size is 0: allowed is a whole number of at least 1"),
        ((3, 0.5), "max_penalty is 0.5: allowed is a finite number of at most 0"),
        ((3, -1.0, "cn"), "language is 'cn': allowed is 'en', 'zh'"),
        ((3, -1.0, "ZH"), "did you mean 'zh'?"),
    ],
)
def test_a_penalty_that_would_reward_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        get_repetition_penalty_reward(*arguments)


@pytest.mark.parametrize(
    ("reasoning", "english", "chinese"),
    [
        ("We add both numbers", 1.0, 0.0),
        ("我们先算一加一", 0.0, 1.0),
        ("We add 数", 2 / 3, 1 / 3),
        ("We add 12 + 30 = 42", 1.0, 0.0),  # numbers are no words
        ("我们令 x = 3, 则 y = 4", 0.0, 1.0),  # nor are variables
        (r"我们求 $\sin \alpha + abc$ 和 \(ABC\)", 0.0, 1.0),  # nor is LaTeX
        (r"\begin{align*} 我们 \end{align*}", 0.0, 1.0),
        (r"我们 $hidden English words$", 3 / 5, 2 / 5),  # but a sentence between dollars is seen
        ("we know что", 2 / 3, 0.0),
        ("pаypal is fine", 2 / 3, 0.0),  # the first а is Cyrillic
        ("naïve café", 1.0, 0.0),
        ("かな漢字", 0.0, 0.5),  # kanji pass for Chinese, kana do not
        ("1 + 1 = 2", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_consistency_is_the_share_of_words_in_the_target_language(reasoning, english, chinese):
    assert get_language_consistency_reward("en")([think(reasoning)]) == [pytest.approx(english)]
    assert get_language_consistency_reward("zh")([think(reasoning)]) == [pytest.approx(chinese)]


def test_consistency_judges_the_closed_reasoning_not_the_answer():
    reward = get_language_consistency_reward()
    assert reward([think("We add them", "答案是三")]) == [1.0]
    assert reward(["We add them", "<think>We add them", think("我们") + "We add them"]) == [0.0, 0.0, 0.0]


def test_the_limits_of_judging_by_script_are_as_documented():
    assert get_language_consistency_reward()([think("Nous ajoutons les deux nombres")]) == [1.0]
    assert words("don't $x$ 5km") == ["don", "km"]


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="language is 'fr': allowed is 'en', 'zh'"):
        get_language_consistency_reward("fr")


REWARDS = {
    reward.__name__: reward
    for reward in [
        format_reward,
        tag_count_reward,
        think_format_reward,
        reasoning_steps_reward,
        get_repetition_penalty_reward(3, -1.0),
        get_language_consistency_reward(),
    ]
}
LEAST = {"repetition_penalty_reward": -1.0}
PIECES = [
    "<think>",
    "</think>",
    "<answer>\n",
    "\n</answer>",
    "Step 1:",
    "\n- ",
    r"\boxed{",
    "}",
    "$",
    "算",
    "word ",
]
ANY_TEXT = st.lists(st.sampled_from(PIECES) | st.text(st.characters(codec=None), max_size=9)).map("".join)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(ANY_TEXT, max_size=4))
def test_no_completion_crashes_and_each_is_judged_by_itself(texts):
    for name, reward in REWARDS.items():
        rewards = reward(texts, prompts=["p"] * len(texts))
        assert all(LEAST.get(name, 0.0) <= r <= (0.0 if name in LEAST else 1.0) for r in rewards), name
        assert reward(texts[::-1]) == rewards[::-1], name


@pytest.mark.parametrize(
    "piece",
    [
        "\\(",
        "\\[",
        "$",
        "a",
        "\n",
        " \t",
        "<think>",
        "</think>",
        "\\boxed{",
        "Step 1: x",
        "1",
        "\\begin{",
        "\0",
    ],
)
def test_long_hostile_texts_take_no_quadratic_time(piece):
    text = piece * (150_000 // len(piece))
    began = time.process_time()
    for reward in REWARDS.values():
        reward([text, f"{text}</think>{text}"])
    assert time.process_time() - began < 10  # 0.4 s at most on two laptop cores, 2026-11-24


def test_made_rewards_are_named_and_can_be_sent_to_another_process():
    copies = {name: pickle.loads(pickle.dumps(reward)) for name, reward in REWARDS.items()}
    assert [copy.__name__ for copy in copies.values()] == list(REWARDS)
