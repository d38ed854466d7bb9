"""Plain text for the base model: what a pretrained model has read before anybody taught it to reason aloud.

The embedded world has nothing to download, so its base model is trained here from random weights on little
stories told in prose and on arithmetic facts. The corpus holds no chat turns, no tags, no ``\\boxed`` and no
numbered steps: a base model knows the language and some arithmetic, but not the task's form. Stories are told
of training problems only; a problem reserved for the held-out set never appears, not even with its question
left out.
"""

from __future__ import annotations

import random

from r1kit.data.stories import LARGEST_CHANGE, LARGEST_VALUE, Problem, apply, is_reserved, stream

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


def documents(n: int, seed: int, levels: tuple[int, ...] = (1, 2, 3)) -> list[str]:
    """``n`` short documents: a story, or a handful of facts. Same arguments, same documents."""
    rng = random.Random(f"corpus-{seed}")
    problems = (problem for problem in stream(seed + 1, levels) if not holds_reserved(problem))
    return [
        "\n".join(fact(rng) for _ in range(FACTS_PER_DOCUMENT))
        if rng.random() < FACT_SHARE
        else tell(next(problems), rng)
        for _ in range(n)
    ]
