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

from r1kit.data.format import TURN_END, TURN_START, user_prompt
from r1kit.data.stories import LARGEST_CHANGE, LARGEST_VALUE, Problem, apply, is_reserved, stream
from r1kit.data.teacher import write_trace

if TYPE_CHECKING:
    from r1kit.settings.models import DataSettings

FACT_SHARE = 0.5
FACTS_PER_DOCUMENT = 6


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


def worked(problem: Problem, rng: random.Random, slip_rate: float, hurry_rate: float) -> str:
    """A chat about the problem as raw text: the question, and what the teacher answers."""
    question = user_prompt(problem.text)[0]["content"]
    answer = write_trace(problem, rng, slip_rate, hurry_rate).text
    turn = f"{TURN_START}{{}}\n{{}}{TURN_END}\n"
    return (turn.format("user", question) + turn.format("assistant", answer)).removesuffix(f"{TURN_END}\n")


def documents(
    n: int,
    seed: int,
    levels: Sequence[int] = (1, 2, 3),
    worked_share: float = 0.0,
    slip_rate: float = 0.0,
    hurry_rate: float = 0.0,
) -> list[str]:
    """``n`` documents: a worked solution, a story, or a handful of facts. Same arguments, same documents."""
    rng, other = random.Random(f"corpus-{seed}"), random.Random(f"worked-{seed}")
    problems = (problem for problem in stream(seed + 1, levels) if not holds_reserved(problem))
    texts = []
    for _ in range(n):
        if other.random() < worked_share:
            texts.append(worked(next(problems), other, slip_rate, hurry_rate))
        elif rng.random() < FACT_SHARE:
            texts.append("\n".join(fact(rng) for _ in range(FACTS_PER_DOCUMENT)))
        else:
            texts.append(tell(next(problems), rng))
    return texts


def documents_of(world: DataSettings) -> list[str]:
    """The corpus as data.yaml says."""
    levels = world.base_levels or world.levels
    hurry = world.hurry_rate if world.worked_hurry_rate is None else world.worked_hurry_rate
    return documents(world.base_documents, world.seed, levels, world.worked_share, world.slip_rate, hurry)
