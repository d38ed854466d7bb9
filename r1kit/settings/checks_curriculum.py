"""Rules about how GRPO trains: its algorithm's name, its curriculum, the groups that are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from r1kit.settings.algorithms import DEFINING, same
from r1kit.settings.checks import advice, rule
from r1kit.settings.checks_cluster import processes_of_grpo
from r1kit.settings.checks_trainer import generation_batch
from r1kit.settings.curriculum import DynamicSamplingSettings
from r1kit.settings.errors import Problem
from r1kit.settings.view import View


@rule
def algorithm_is_what_its_name_says(view: View) -> Iterator[Problem]:
    """The file would name one paper's algorithm and train with another's."""
    name = view["grpo.algorithm"]
    for key, value in DEFINING.get(name, {}).items():
        if view.given(f"grpo.{key}") and not same(key, view[f"grpo.{key}"], value):
            allowed = f"{value}, or no such key, or another algorithm"
            yield view.problem(f"grpo.{key}", f"algorithm: {name} is {key}: {value}.", allowed)


@rule
def curriculum_reads_a_reward(view: View) -> Iterator[Problem]:
    """Pass rates would come from a reward that is not computed."""
    names = [entry["name"] for entry in view["grpo.rewards"]]
    strategy = view["grpo.curriculum.strategy"]
    if strategy in ("levels", "pass_rate") and (reward := _reward(view)) not in names:
        message = f"The curriculum reads pass rates from the reward {reward}, which grpo.yaml does not have."
        yield view.problem("grpo.curriculum.reward", message, ", ".join(names), found=reward)


@rule
def lengths_belong_to_their_strategy(view: View) -> Iterator[Problem]:
    """Stages without the strategy would have no effect; the strategy without stages would change nothing."""
    has = view.given("grpo.curriculum.lengths") and bool(view["grpo.curriculum.lengths"])
    if view["grpo.curriculum.strategy"] == "length" and not has:
        message = "strategy: length needs its stages."
        allowed = "lengths: [{step: 0, max_completion_length: ...}, ...]"
        yield view.problem("grpo.curriculum.lengths", message, allowed, found="nothing")
    if view["grpo.curriculum.strategy"] != "length" and has:
        yield view.problem("grpo.curriculum.lengths", "They have no effect.", "strategy: length")


@rule
def lengths_grow_to_the_limit(view: View) -> Iterator[Problem]:
    """Memory, context and the constant of dr_grpo are those of max_completion_length: the last stage's."""
    stages, limit = view["grpo.curriculum.lengths"], view["grpo.max_completion_length"]
    if not stages:
        return
    steps = [stage["step"] for stage in stages]
    lengths = [stage["max_completion_length"] for stage in stages]
    grow = all(a < b for numbers in (steps, lengths) for a, b in pairwise(numbers))
    if steps[0] != 0 or not grow:
        message = "Stages begin at step 0, one after the other, each with longer completions."
        yield view.problem("grpo.curriculum.lengths", message, "steps and lengths that rise, from step 0")
    if lengths[-1] != limit:
        message = f"The last stage is {lengths[-1]} tokens long and max_completion_length is {limit}."
        yield view.problem("grpo.curriculum.lengths", message, f"{limit} in the last stage, or another limit")
    if steps[-1] >= view["grpo.max_steps"] > 0:
        message = "The last stage would never begin."
        yield view.problem("grpo.curriculum.lengths", message, f"steps below {view['grpo.max_steps']}")


@rule
def extra_groups_have_prompts(view: View) -> Iterator[Problem]:
    """A step asks different prompts; the ones in addition must be there too."""
    if view["grpo.dynamic_sampling"] is None:
        return
    key = "grpo.dynamic_sampling.max_extra"
    extra = view[key] if view.given(key) else DynamicSamplingSettings().max_extra
    prompts = generation_batch(view)[0] // view["grpo.num_generations"]
    most = prompts + int(prompts * extra)
    if view["data.prompts"] < most:
        message = f"A step asks {prompts} prompts and up to {most - prompts} in addition."
        yield view.problem("data.prompts", message, f"at least {most}")


@rule
def each_process_chooses_whole_groups(view: View) -> Iterator[Problem]:
    """Groups are chosen, replaced and judged whole; the trainer refuses a group over two processes."""
    if view["grpo.curriculum"] is None and view["grpo.dynamic_sampling"] is None:
        return
    rows, group = generation_batch(view)[0] // processes_of_grpo(view), view["grpo.num_generations"]
    if rows % group:
        message = f"Each process holds {rows} completions of a generation: no whole groups of {group}."
        allowed = f"a batch that is a multiple of {group} on each process, or no curriculum"
        yield view.problem("grpo.per_device_train_batch_size", message, allowed)


@advice
def dr_grpo_at_stages_keeps_its_constant(view: View) -> Iterator[Problem]:
    """With a constant of the last stage, tokens of the short first stage weigh less than they would alone."""
    if view["grpo.curriculum.strategy"] == "length" and view["grpo.loss_type"] == "dr_grpo":
        message = (
            "dr_grpo divides by max_completion_length in all stages, so that a new stage does not change the "
            "step's size: a learning rate found at a shorter length must be scaled up."
        )
        yield view.problem("grpo.learning_rate", message, "a rate found at max_completion_length")


def _reward(view: View) -> str:
    key = "grpo.curriculum.reward"
    return view[key] if view.given(key) else "accuracy"
