"""Rules about the rewards of grpo.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
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
def cosine_values_rise(view: View) -> Iterator[Problem]:
    """With the defaults of open-r1's config (cosine_min_value_wrong 0.0) long wrong answers lost more than
    short ones: a model that is wrong learns to give up early, the opposite of what the reward is for.
    """
    order = ("min_value_wrong", "max_value_wrong", "min_value_correct", "max_value_correct")
    for key, reward in named(view, REWARDS["cosine"]):
        for low, high in pairwise(order):
            value, bound = getattr(reward, low), getattr(reward, high)
            if value > bound:
                message = "Short wrong answers or long right ones would earn most."
                yield view.problem(f"{key}.{low}", message, f"at most {high}, {bound}", found=str(value))


@rule
def one_form_is_rewarded(view: View) -> Iterator[Problem]:
    """`<answer>` tags break R1's own form, so no completion could earn both."""
    names = {reward.name: key for key, reward in rewards(view)}
    other = next((name for name in ("format", "tag_count", "code_format") if name in names), None)
    if "think_format" in names and other:
        message = f"No completion can have both this form and that of {other}."
        yield view.problem(f"{names['think_format']}.name", message, "one of the two")


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
