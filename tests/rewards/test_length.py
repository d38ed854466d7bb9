"""Rewards that depend on length: values computed by hand, groups, and what is refused."""

from __future__ import annotations

import pickle
import random

import pytest

from r1kit.rewards.length import get_cosine_scaled_reward, get_soft_overlong_punishment, len_reward

RIGHT = "<think>\n2 + 1 = 3\n</think>\n<answer>\n3\n</answer>"
WRONG = "<think>\n2 + 1 = 4\n</think>\n<answer>\n4\n</answer>"


def ids(*lengths: int) -> list[list[int]]:
    return [[7] * length for length in lengths]


def test_of_right_answers_the_shorter_earn_more():
    rewards = len_reward([RIGHT] * 3, solution=["3"] * 3, prompts=["p"] * 3, completion_ids=ids(10, 20, 50))
    assert rewards == pytest.approx([0.5, 0.25, -0.5])


def test_wrong_answers_never_earn_more_than_nothing():
    rewards = len_reward([WRONG] * 3, solution=["3"] * 3, prompts=["p"] * 3, completion_ids=ids(10, 20, 50))
    assert rewards == pytest.approx([0.0, 0.0, -0.5])


def test_a_group_of_one_length_earns_nothing():
    assert len_reward([RIGHT, WRONG], solution=["3", "3"], completion_ids=ids(9, 9)) == [0.0, 0.0]


def test_wrong_answers_set_the_range_of_their_group_too():
    rewards = len_reward([RIGHT, WRONG], solution=["3", "3"], prompts=["p", "p"], completion_ids=ids(30, 10))
    assert rewards == [-0.5, 0.0]


def test_conversations_with_the_same_messages_are_one_group_wherever_they_stand():
    easy, hard = [{"role": "user", "content": "1+2"}], [{"role": "user", "content": "9-6"}]
    prompts = [easy, hard, dict_copy(easy), dict_copy(hard)]
    rewards = len_reward([RIGHT] * 4, solution=["3"] * 4, prompts=prompts, completion_ids=ids(1, 100, 2, 200))
    assert rewards == [0.5, 0.5, -0.5, -0.5]


def dict_copy(prompt: list[dict]) -> list[dict]:
    return [dict(reversed(message.items())) for message in prompt]


def test_without_token_ids_lengths_are_in_characters():
    assert len_reward([RIGHT, RIGHT + "."], solution=["3", "3"]) == [0.5, -0.5]
    cosine = get_cosine_scaled_reward(max_len=2 * len(RIGHT))
    assert cosine([RIGHT], solution=["3"]) == [pytest.approx(0.75)]


def test_a_gold_that_cannot_be_judged_gives_none_and_no_points():
    golds = [r"\boxed{1} or \boxed{2}", "3"]
    columns = {"solution": golds, "prompts": ["a", "b"], "completion_ids": ids(5, 5)}
    assert len_reward([RIGHT, RIGHT], **columns) == [None, 0.0]
    assert get_cosine_scaled_reward(max_len=5)([RIGHT, RIGHT], **columns) == [None, 0.5]


def test_the_order_of_completions_does_not_matter():
    rng = random.Random(3)
    rows = [(rng.choice([RIGHT, WRONG]), rng.choice("ab"), rng.randrange(1, 40)) for _ in range(30)]

    def rewards(rows: list[tuple]) -> list[float]:
        texts, prompts, lengths = zip(*rows, strict=True)
        columns = {"solution": ["3"] * len(rows), "prompts": prompts, "completion_ids": ids(*lengths)}
        cosine = get_cosine_scaled_reward(max_len=40)
        return list(zip(len_reward(texts, **columns), cosine(texts, **columns), strict=True))

    order = rng.sample(range(30), 30)
    straight = rewards(rows)
    assert rewards([rows[i] for i in order]) == [straight[i] for i in order]


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="completion_ids has 1 rows for 2 completions"):
        len_reward([RIGHT, RIGHT], solution=["3", "3"], completion_ids=ids(1))
    with pytest.raises(ValueError, match="prompts has 1 rows for 2 completions"):
        len_reward([RIGHT, RIGHT], solution=["3", "3"], prompts=["p"])


def test_no_completions_earn_no_rewards():
    assert len_reward([], solution=[], prompts=[], completion_ids=[]) == []
    assert get_cosine_scaled_reward()([], solution=[]) == []


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        (RIGHT, 0, 1.0),
        (RIGHT, 250, 0.75 + 0.25 * 0.5**0.5),  # cos(pi / 4) = 1 / sqrt(2)
        (RIGHT, 500, 0.75),
        (RIGHT, 1000, 0.5),
        (RIGHT, 1001, 0.5),
        (RIGHT, 10_000, 0.5),
        (WRONG, 0, -1.0),
        (WRONG, 250, -0.75 - 0.25 * 0.5**0.5),
        (WRONG, 500, -0.75),
        (WRONG, 1000, -0.5),
        (WRONG, 2000, -0.5),
    ],
)
def test_the_cosine_takes_its_published_values_and_stays_at_its_end(text, length, expected):
    reward = get_cosine_scaled_reward()
    assert reward([text], solution=["3"], completion_ids=ids(length)) == [pytest.approx(expected)]


def test_short_wrong_answers_are_punished_more_than_long_ones():
    reward = get_cosine_scaled_reward(min_value_wrong=-10, max_value_wrong=0, max_len=100)
    earned = reward([WRONG] * 5, solution=["3"] * 5, completion_ids=ids(0, 25, 50, 75, 100))
    assert earned == sorted(earned)
    assert (earned[0], earned[-1]) == (-10.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_value_wrong": 0.0}, "min_value_wrong is 0 and max_value_wrong is -0.5"),
        ({"min_value_correct": 2.0}, "min_value_correct is 2 and max_value_correct is 1"),
        ({"max_value_wrong": 0.75}, "max_value_wrong is 0.75 and min_value_correct is 0.5"),
        ({"max_len": 0}, "max_len is 0: allowed is a whole number of at least 1"),
        ({"max_len": 10.5}, "max_len is 10.5"),
        ({"max_value_correct": float("nan")}, "max_value_correct is nan: allowed is a finite number"),
        ({"max_value_correct": "1"}, "max_value_correct is '1'"),
    ],
)
def test_settings_that_would_invert_the_cosine_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_cosine_scaled_reward(**arguments)


def test_the_overlong_punishment_is_the_line_of_dapo():
    reward = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    lengths = (0, 79, 80, 81, 90, 99, 100, 101, 500)
    expected = [0.0, 0.0, 0.0, -0.05, -0.5, -0.95, -1.0, -1.0, -1.0]
    assert reward([""] * 9, completion_ids=ids(*lengths)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("limit", "cache", "message"),
    [
        (100, 100, "soft_punish_cache is 100: allowed is a whole number from 1 to 99"),
        (100, 4096, "soft_punish_cache is 4096"),
        (100, 0, "soft_punish_cache is 0"),
        (1, 1, "max_completion_len is 1"),
        (None, 1, "max_completion_len is None"),
        (True, 1, "max_completion_len is True"),
    ],
)
def test_an_overlong_punishment_that_cannot_be_is_refused(limit, cache, message):
    with pytest.raises(ValueError, match=message):
        get_soft_overlong_punishment(limit, cache)


def test_the_overlong_punishment_needs_token_ids():
    with pytest.raises(ValueError, match="needs completion_ids"):
        get_soft_overlong_punishment(100, 20)(["a" * 100])


def test_made_rewards_have_open_r1s_names_and_can_be_sent_to_another_process():
    """TRL reads __name__ for its metrics, and its asynchronous rollouts pickle the rewards."""
    made = [get_cosine_scaled_reward(), get_soft_overlong_punishment(100, 20)]
    names = [pickle.loads(pickle.dumps(reward)).__name__ for reward in made]
    assert names == ["cosine_scaled_reward", "soft_overlong_punishment_reward"]
