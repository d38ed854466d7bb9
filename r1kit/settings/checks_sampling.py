"""Rules about rollouts that vLLM samples: what its sampler does to GRPO's ratios; vLLM inside the trainer.

TRL 1.16 runs with each of these mistakes, and learns less, nothing, or dies in its allocator after minutes.
"""

from __future__ import annotations

from collections.abc import Iterator

from r1kit.settings.checks import advice, rule
from r1kit.settings.checks_cluster import mode
from r1kit.settings.errors import Problem
from r1kit.settings.view import View

LONG = 1024  # tokens; from here on sequence-level correction silences completions (see the rule)


def corrected(view: View) -> bool:
    """Whether the trainer corrects for the difference to vLLM's log-probabilities."""
    return bool(mode(view)) and bool(view["grpo.vllm_importance_sampling_correction"])


@rule
def a_cpu_serves_from_a_server(view: View) -> Iterator[Problem]:
    """vLLM inside the trainer needs a GPU."""
    if mode(view) == "colocate" and view["machine.device"] == "cpu":
        yield view.problem("grpo.vllm_mode", "device: cpu has no GPU to share.", "server", "server")


@rule
def long_completions_keep_their_weight(view: View) -> Iterator[Problem]:
    """TRL's default sequence_mask weighs a completion by exp(sum of its tokens' differences): with 0.02 nats
    of noise a token the mean weight left is 0.92 at 1,000 tokens, 0.58 at 4,000, 0.18 at 16,000. They stop
    teaching.
    """
    how, length = view["grpo.vllm_importance_sampling_mode"], view["grpo.max_completion_length"]
    if corrected(view) and how.startswith("sequence_") and length > LONG:
        message = f"At {length} tokens the product of all ratios silences long completions."
        allowed = "token_truncate or token_mask"
        yield view.problem("grpo.vllm_importance_sampling_mode", message, allowed, "token_truncate")


@rule
def the_sampler_is_the_policy(view: View) -> Iterator[Problem]:
    """vLLM renormalises over the tokens it kept, the trainer does not: every ratio is off by the kept mass
    (0.896 on average at top_p 0.8; TRL issue 6789).
    """
    if not corrected(view):
        return
    off = {
        "top_p": (1.0, None),
        "top_k": (0, -1, None),
        "min_p": (0, None),
        "repetition_penalty": (1.0, None),
    }
    for name, values in off.items():
        if view[f"grpo.{name}"] not in values:
            message = "The trainer's log-probabilities know nothing of it: all importance ratios are biased."
            allowed = f"{values[0]:g}, or vllm_importance_sampling_correction: false"
            yield view.problem(f"grpo.{name}", message, allowed)


@rule
def only_vllm_inside_the_trainer_sleeps(view: View) -> Iterator[Problem]:
    """TRL puts vLLM to sleep only where it shares the trainer's GPU; elsewhere the memory stays taken."""
    if view["grpo.vllm_enable_sleep_mode"] and mode(view) != "colocate":
        message = "Only vLLM inside the trainer (vllm_mode: colocate) sleeps; here the key does nothing."
        yield view.problem("grpo.vllm_enable_sleep_mode", message, "false", "false")


@advice
def awake_is_faster_where_both_fit(view: View) -> Iterator[Problem]:
    """TRL sleeps at level 2, which throws the weights away: every generation begins with a transfer of all of
    them, even where nothing was trained in between. A 7B model and its training fit side by side into 141 GB.
    """
    if view["grpo.vllm_enable_sleep_mode"] and mode(view) == "colocate":
        message = "Each generation loads all weights again; leave it off where trainer and vLLM fit together."
        yield view.problem("grpo.vllm_enable_sleep_mode", message, "false, unless `r1kit plan` says no")
