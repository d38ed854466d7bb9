"""Rules about the rewards of grpo.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r1kit.settings.checks import rule
from r1kit.settings.checks_trainer import generation_batch
from r1kit.settings.errors import Problem
from r1kit.settings.rewards import REWARDS, Reward
from r1kit.settings.view import View


def rewards(view: View) -> Iterator[tuple[str, Any]]:
    """(key, reward with its defaults) for each entry of `rewards`."""
    for position, reward in enumerate(view["grpo.rewards"]):
        yield f"grpo.rewards.{position}", REWARDS[reward["name"]].model_validate(reward)


def named(view: View, kind: type[Reward]) -> Iterator[tuple[str, Any]]:
    """Those of one kind."""
    return ((key, reward) for key, reward in rewards(view) if isinstance(reward, kind))


@rule
def rewards_are_named_once(view: View) -> Iterator[Problem]:
    """The second weight of a name would silently add to the first, and metrics would carry one name twice."""
    names = [reward.name for _, reward in rewards(view)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield view.problem("grpo.rewards", f"The reward {name} is named twice.", "each reward once")


@rule
def some_reward_has_weight(view: View) -> Iterator[Problem]:
    """With all weights zero every advantage is zero and nothing is learned."""
    if not any(reward.weight for _, reward in rewards(view)):
        yield view.problem(
            "grpo.rewards", "All weights are zero: there is nothing to learn.", "one weight that is not 0"
        )


@rule
def rewards_see_the_dataset(view: View) -> Iterator[Problem]:
    """The accuracy reward compares with the column `solution`, which would be dropped."""
    if view["grpo.remove_unused_columns"]:
        message = "The columns `solution` and `verification_info` would not reach the rewards."
        yield view.problem("grpo.remove_unused_columns", message, "false")


@rule
def cosine_punishes_short_wrong_answers_most(view: View) -> Iterator[Problem]:
    """With open-r1's own default (cosine_min_value_wrong 0.0) long wrong answers lost more than short ones: a
    model that is wrong learns to give up early, the opposite of what the reward is for."""
    for key, reward in named(view, REWARDS["cosine"]):
        if reward.min_value_wrong > reward.max_value_wrong:
            message = "Short wrong answers would lose less than long ones."
            allowed = f"at most max_value_wrong, {reward.max_value_wrong}"
            found = str(reward.min_value_wrong)
            yield view.problem(f"{key}.min_value_wrong", message, allowed, found=found)
        if reward.min_value_correct > reward.max_value_correct:
            message = "Long right answers would earn more than short ones."
            allowed = f"at most max_value_correct, {reward.max_value_correct}"
            found = str(reward.min_value_correct)
            yield view.problem(f"{key}.min_value_correct", message, allowed, found=found)


@rule
def overlong_line_fits_the_limit(view: View) -> Iterator[Problem]:
    """The punishment would begin before the first token, or never because completions end earlier."""
    limit = view["grpo.max_completion_length"]
    for key, reward in named(view, REWARDS["soft_overlong_punishment"]):
        longest = reward.max_completion_len or limit
        if longest > limit:
            message = "Completions end at max_completion_length: the punishment would never be whole."
            yield view.problem(f"{key}.max_completion_len", message, f"at most {limit}, or null")
        if reward.soft_punish_cache >= longest:
            message = "The line down to -1 would begin before the first token."
            yield view.problem(f"{key}.soft_punish_cache", message, f"less than {longest}")


@rule
def length_compares_whole_groups(view: View) -> Iterator[Problem]:
    """Each process rewards its own completions: a group cut by the end of its batch would be two groups."""
    group, steps = view["grpo.num_generations"], generation_batch(view)[1]
    own = view["grpo.per_device_train_batch_size"] * steps
    for key, _ in named(view, REWARDS["length"]):
        if own % group:
            message = f"The length reward compares a prompt's completions, but a process holds {own} at once."
            allowed = f"completions per process that are a multiple of {group}, num_generations"
            yield view.problem(key, message, allowed, found="name: length")
