"""Story problems with exact answers: the embedded world's unlimited supply of verifiable tasks.

A problem of level k is a story of k operations about one person and one kind of thing::

    Ann has 7 apples. Ann gives away 3. Ann gets 9 more. How many apples does Ann have?

All values stay between 0 and ``LARGEST_VALUE``, so an untrained guess is right about once in twenty.
DeepSeek-R1 used competition mathematics and code with checkable answers; here the checker is the arithmetic
that wrote the story.

Training and held-out problems cannot meet: whether a problem is *reserved* for the held-out set is a property
of its normalised text (a hash), so however many problems are drawn with whatever seed, no draw of one side
yields a problem of the other. ``r1kit.data.datasets.check_disjoint`` checks it all the same before anything
is saved.

A rule-based teacher: it writes reasoning traces, slips now and then, and is often in a hurry.

DeepSeek-R1's second stage collects traces from a model and keeps those whose final answer is right (paper
section 2.3.3, rejection sampling). This teacher gives that something to do, and something it cannot do:

- In each step it miscalculates with probability `slip_rate` and goes on from the wrong value. A verifier of
  answers removes such a trace, unless two slips cancel.
- With probability `hurry_rate` it writes no steps: it works the answer out in its head, slipping as often as
  on paper. When the answer is right no verifier of answers objects, but a small student that imitates the
  hurry has no such head. That habit is what GRPO unlearns: reasoning aloud pays, and completions grow longer.

Plain text for the base model: what a pretrained model has read before anybody taught it to reason aloud.

The embedded world has nothing to download, so its base model is trained here from random weights on little
stories told in prose and on arithmetic facts. The corpus holds no chat turns, no tags, no ``\boxed`` and no
numbered steps: a base model knows the language and some arithmetic, but not the task's form. Stories are told
of training problems only; a problem reserved for the held-out set never appears, not even with its question
left out.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from r1kit.data.format import THINK_CLOSE, THINK_OPEN, TURN_END, TURN_START, write_completion

if TYPE_CHECKING:
    from r1kit.settings.profile import DataSettings


NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June", "Kim", "Leo")
THINGS = ("apples", "books", "coins", "cards", "pens", "shells", "stamps", "stones")
GAINS = ("gets {n} more", "finds {n} more")
LOSSES = ("gives away {n}", "loses {n}")
LARGEST_VALUE = 20
LARGEST_CHANGE = 9
RESERVED_SHARE = 8
"""One problem in this many is reserved for the held-out set."""


@dataclass(frozen=True)
class Problem:
    """One story problem: what is asked (``text``), what is counted, and the operations that solve it."""

    text: str
    name: str
    thing: str
    start: int
    operations: tuple[tuple[str, int], ...]
    sentences: tuple[str, ...]
    """The story sentence by sentence, without the question: one for the start, one per operation."""

    @property
    def level(self) -> int:
        """Number of operations."""
        return len(self.operations)

    @property
    def values(self) -> tuple[int, ...]:
        """How many things there are at the start and after each operation (level + 1 numbers)."""
        values = [self.start]
        for sign, amount in self.operations:
            values.append(apply(values[-1], sign, amount))
        return tuple(values)

    @property
    def solution(self) -> str:
        """The exact answer as text."""
        return str(self.values[-1])


def apply(value: int, sign: str, amount: int) -> int:
    """``value + amount`` or ``value - amount``."""
    return value + amount if sign == "+" else value - amount


def normalise(text: str) -> str:
    """Lower-case words and numbers separated by single spaces: two texts that differ only in case, spaces or
    punctuation are the same problem.
    """
    return " ".join(re.findall(r"[a-z]+|\d+", text.lower()))


def is_reserved(text: str) -> bool:
    """Whether the problem with this text belongs to the held-out side; depends on nothing but
    ``normalise(text)``.
    """
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % RESERVED_SHARE == 0


def draw(rng: random.Random, level: int) -> Problem:
    """One problem of the given level, of either side."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    start = value = rng.randint(1, LARGEST_VALUE - 1)
    sentences, operations = [f"{name} has {start} {thing}."], []
    for _ in range(level):
        sign, amount = rng.choice("+-"), rng.randint(1, LARGEST_CHANGE)
        while not 0 <= apply(value, sign, amount) <= LARGEST_VALUE:
            sign, amount = rng.choice("+-"), rng.randint(1, LARGEST_CHANGE)
        verb = rng.choice(GAINS if sign == "+" else LOSSES).format(n=amount)
        sentences.append(f"{name} {verb}.")
        operations.append((sign, amount))
        value = apply(value, sign, amount)
    text = " ".join(sentences) + f" How many {thing} does {name} have?"
    return Problem(text, name, thing, start, tuple(operations), tuple(sentences))


def stream(seed: int, levels: Sequence[int], *, reserved: bool = False) -> Iterator[Problem]:
    """Endless problems, levels drawn evenly; ``reserved`` chooses the side (training by default)."""
    if not levels or min(levels) < 1:
        raise ValueError(f"levels must be a non-empty list of numbers from 1 on, found {list(levels)}")
    rng = random.Random(f"stories-{seed}-{reserved}")
    while True:
        problem = draw(rng, rng.choice(levels))
        if is_reserved(problem.text) == reserved:
            yield problem


def generate(
    n: int, seed: int, levels: Sequence[int] = (1, 2, 3), *, reserved: bool = False
) -> list[Problem]:
    """``n`` problems of one side. Same arguments, same problems; repeats are possible, rare above level 1."""
    return list(islice(stream(seed, levels, reserved=reserved), n))


MISTAKES = (-2, -1, 1, 2)
"""By how much a slipped result is off."""

HURRIED = "I can see it."
"""The whole thought of a trace without steps."""


class Trace(NamedTuple):
    """What the teacher wrote (`text`, a completion in the one format) and how it came about."""

    text: str
    slips: int
    """In how many operations it miscalculated."""
    hurried: bool
    """Whether it wrote no steps."""


def write_trace(
    problem: Problem, rng: random.Random, slip_rate: float = 0.0, hurry_rate: float = 0.0
) -> Trace:
    """One trace for `problem`; each operation is wrong with probability `slip_rate` (never below zero)."""
    value, steps, slips = problem.start, [], 0
    for number, (sign, amount) in enumerate(problem.operations, start=1):
        result = apply(value, sign, amount)
        if rng.random() < slip_rate:
            wrong = max(0, result + rng.choice(MISTAKES))
            slips += wrong != result
            result = wrong
        steps.append(f"Step {number}: {value} {sign} {amount} = {result}")
        value = result
    hurried = rng.random() < hurry_rate
    return Trace(write_completion([HURRIED] if hurried else steps, str(value)), slips, hurried)


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
