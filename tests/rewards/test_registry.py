"""Rewards by name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from r1kit.rewards import NAMES, accuracy_reward, format_reward, get_rewards
from r1kit.settings.rewards import REWARDS


def test_rewards_and_weights_come_in_the_order_of_the_settings():
    functions, weights = get_rewards([{"name": "format", "weight": 0.2}, {"name": "accuracy"}])
    assert functions == [format_reward, accuracy_reward]
    assert weights == [0.2, 1.0]
    assert get_rewards([SimpleNamespace(name="accuracy", weight=2)]) == ([accuracy_reward], [2.0])


def test_functions_keep_the_public_names_under_which_trl_logs_them():
    functions, _ = get_rewards([{"name": name} for name in NAMES])
    assert [f.__name__ for f in functions] == [f"{name}_reward" for name in NAMES]
    assert NAMES == ("accuracy", "format", "tag_count")


def test_the_settings_know_exactly_the_rewards_there_are():
    """settings lies below rewards and cannot import it, so it holds the names as a literal."""
    assert set(NAMES) <= set(REWARDS)


def test_an_unknown_reward_names_the_nearest_known_one():
    with pytest.raises(ValueError, match=r"unknown reward 'acuracy'.*did you mean 'accuracy'"):
        get_rewards([{"name": "acuracy"}])


def test_a_reward_listed_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        get_rewards([{"name": "format"}, {"name": "format"}])
