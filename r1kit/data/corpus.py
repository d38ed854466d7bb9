"""Plain text for the base model: what a pretrained model has read before anybody taught it to reason aloud.

The embedded world has nothing to download, so its base model is trained here from random weights on little
stories told in prose and on arithmetic facts. The corpus holds no chat turns, no tags, no ``\\boxed`` and no
numbered steps: a base model knows the language and some arithmetic, but not the task's form. Stories are told
of training problems only; a problem reserved for the held-out set never appears, not even with its question
left out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from r1kit.data.format import THINK_CLOSE, THINK_OPEN, TURN_END, TURN_START
from r1kit.data.stories import LARGEST_CHANGE, LARGEST_VALUE, Problem, apply, is_reserved, stream
from r1kit.data.teacher import write_trace

if TYPE_CHECKING:
    from r1kit.settings.models import DataSettings

FACT_SHARE = 0.5
FACTS_PER_DOCUMENT = 6

OPENINGS = (
    "",
    "Solution:",
    "Let us count.",
    "Step by step:",
    "We take one step after the other.",
    "This is how it goes:",
    "How many? We count:",
    "The answer, step by step, is this:",
)
"""Between a problem and its steps. They differ in length: with one alone, a small model learns at which
distance the story's sentences lie, not which one comes next, and nothing carries over to the chat format."""


def tell(problem: Problem, rng: random.Random) -> str:
    """The story in prose: after each event, mostly, how many things there are now."""
    told = [problem.sentences[0]]
    for sentence, value in zip(problem.sentences[1:], problem.values[1:], strict=True):
        told.append(sentence)
        told.append(f"Now {problem.name} has {value}.")
    if rng.random() < 0.5:
        told.append(f"In the end {problem.name} has {problem.solution} {problem.thing}.")
    return " ".join(told)


def holds_reserved(problem: Problem) -> bool:
    """Whether the story, broken off after one of its events, is a problem reserved for the held-out set."""
    question = problem.text.removeprefix(" ".join(problem.sentences))
    stories = (" ".join(problem.sentences[: k + 1]) for k in range(1, problem.level + 1))
    return any(is_reserved(story + question) for story in stories)


def fact(rng: random.Random) -> str:
    """One sum or difference within the world's range, in signs or in words."""
    while True:
        value, sign, amount = rng.randint(0, LARGEST_VALUE), rng.choice("+-"), rng.randint(1, LARGEST_CHANGE)
        result = apply(value, sign, amount)
        if 0 <= result <= LARGEST_VALUE:
            break
    if rng.random() < 0.5:
        return f"{value} {sign} {amount} = {result}"
    return f"{value} {'plus' if sign == '+' else 'minus'} {amount} is {result}."


def worked(problem: Problem, rng: random.Random, slip_rate: float) -> str:
    """A page of an exercise book: the problem, its steps, the answer; no tags and no box."""
    thoughts = write_trace(problem, rng, slip_rate).text.partition(f"{THINK_OPEN}\n")[2]
    steps = thoughts.partition(f"\n{THINK_CLOSE}")[0]
    opening = rng.choice(OPENINGS)
    return "\n".join(
        filter(None, (problem.text, opening, steps, f"The answer is {steps.rpartition(' = ')[2]}."))
    )


def asked(
    problem: Problem, rng: random.Random, slip_rate: float, hurry_rate: float, plain_share: float
) -> str:
    """A chat about the problem as raw text, in the format of the chat template, and what somebody answers.

    A share of the answers has no form that a reward could read: a model that has only read learns that too.
    """
    answer = write_trace(problem, rng, slip_rate, hurry_rate).text
    if rng.random() < plain_share:
        answer = f"{problem.solution} {problem.thing}."
    return f"{TURN_START}user\n{problem.text}{TURN_END}\n{TURN_START}assistant\n{answer}"


def documents(
    n: int,
    seed: int,
    levels: Sequence[int] = (1, 2, 3),
    worked_share: float = 0.0,
    asked_share: float = 0.0,
    slip_rate: float = 0.0,
    hurry_rate: float = 0.0,
    plain_share: float = 0.0,
) -> list[str]:
    """``n`` documents: worked solutions, chats, stories, handfuls of facts. Same arguments, same documents.

    Of what is neither worked nor a chat, FACT_SHARE are facts. `slip_rate` is of both, `hurry_rate` and
    `plain_share` are of chats.
    """
    rng, other = random.Random(f"corpus-{seed}"), random.Random(f"worked-{seed}")
    problems = (problem for problem in stream(seed + 1, levels) if not holds_reserved(problem))
    texts = []
    for _ in range(n):
        kind = other.random()
        if kind < worked_share:
            texts.append(worked(next(problems), other, slip_rate))
        elif kind < worked_share + asked_share:
            texts.append(asked(next(problems), other, slip_rate, hurry_rate, plain_share))
        elif rng.random() < FACT_SHARE:
            texts.append("\n".join(fact(rng) for _ in range(FACTS_PER_DOCUMENT)))
        else:
            texts.append(tell(next(problems), rng))
    return texts


def documents_of(world: DataSettings) -> list[str]:
    """The corpus as data.yaml says."""
    levels = world.base_levels or world.levels
    hurry = world.hurry_rate if world.asked_hurry_rate is None else world.asked_hurry_rate
    shares, slips = (world.worked_share, world.asked_share), world.slip_rate
    return documents(world.base_documents, world.seed, levels, *shares, slips, hurry, world.asked_plain_share)
