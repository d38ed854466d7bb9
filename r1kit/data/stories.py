r"""The embedded world: story problems with exact answers, a rule-based teacher, and plain text about them.

**Problems.** A problem of level k is a story of k operations about one person and one kind of thing::

    Ann has 7 apples. Ann gives away 3. Ann gets 9 more. How many apples does Ann have?

All values stay between 0 and `LARGEST_VALUE`, so an untrained guess is right about once in twenty. Training
and held-out problems cannot overlap: a hash of the problem's normalised text decides whether the problem is
*reserved* for the held-out set, whatever the seed. `r1kit.data.datasets.check_disjoint` checks this again
before anything is saved.

**Traces.** DeepSeek-R1 collects traces from a model and keeps those with a right final answer (rejection
sampling, paper section 2.3.3). The teacher has one fault that such a check finds and one that it misses:

- In each step it miscalculates with probability `slip_rate` and continues with the wrong value. A verifier of
  answers removes such a trace, unless two slips cancel.
- With probability `hurry_rate` it writes no steps. A right answer passes the verifier, but a small student
  that imitates the hurry cannot calculate in its head. GRPO unlearns this habit: reasoning aloud is rewarded,
  and completions grow longer.

**Corpus.** The base model is trained from random weights on stories in prose, arithmetic facts and, if the
profile asks for them, worked solutions and chats. Its stories come from training problems only, and none of
them, cut off after any event, is a reserved problem.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from r1kit.data.format import TURN_END, TURN_START, write_completion

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

MISTAKES = (-2, -1, 1, 2)
"""Errors that a slip adds to a result."""
HURRIED = "I can see it."
"""The reasoning of a trace without steps."""

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
"""Text between a problem and its worked steps, of different lengths: with a single opening, a small model
learns the distance to the story's sentences instead of their order, and nothing transfers to the chat format.
"""


@dataclass(frozen=True)
class Problem:
    """One story problem: its text, and the operations that solve it.

    Attributes:
        sentences: the story without the question: one for the start, one per operation.
    """

    text: str
    name: str
    thing: str
    start: int
    operations: tuple[tuple[str, int], ...]
    sentences: tuple[str, ...]

    @property
    def level(self) -> int:
        """Number of operations."""
        return len(self.operations)

    @property
    def values(self) -> tuple[int, ...]:
        """Number of things at the start and after each operation (level + 1 numbers)."""
        values = [self.start]
        for sign, amount in self.operations:
            values.append(apply(values[-1], sign, amount))
        return tuple(values)

    @property
    def solution(self) -> str:
        """The exact answer as text."""
        return str(self.values[-1])


def generate(
    n: int, seed: int, levels: Sequence[int] = (1, 2, 3), *, reserved: bool = False
) -> list[Problem]:
    """Draw `n` problems, training problems by default; repeats are possible, but rare above level 1."""
    return list(islice(stream(seed, levels, reserved=reserved), n))


def stream(seed: int, levels: Sequence[int], *, reserved: bool = False) -> Iterator[Problem]:
    """Yield problems without end, all levels equally often.

    Raises:
        ValueError: `levels` is empty or contains a number below 1.
    """
    if not levels or min(levels) < 1:
        raise ValueError(f"levels must be a non-empty list of numbers from 1 on, found {list(levels)}")
    rng = random.Random(f"stories-{seed}-{reserved}")
    while True:
        problem = draw(rng, rng.choice(levels))
        if is_reserved(problem.text) == reserved:
            yield problem


def draw(rng: random.Random, level: int) -> Problem:
    """Draw one problem of the given level, reserved or not."""
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


def apply(value: int, sign: str, amount: int) -> int:
    """Add `amount` to `value`, or subtract it."""
    return value + amount if sign == "+" else value - amount


def normalise(text: str) -> str:
    """Reduce a text to lower-case words and numbers, so that case, spaces and punctuation do not count."""
    return " ".join(re.findall(r"[a-z]+|\d+", text.lower()))


def is_reserved(text: str) -> bool:
    """Tell by the normalised text alone whether this problem is reserved for the held-out set."""
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % RESERVED_SHARE == 0


class Trace(NamedTuple):
    """A completion of the teacher: its text, its number of wrong steps, and whether it skipped the steps."""

    text: str
    slips: int
    hurried: bool


def write_trace(
    problem: Problem, rng: random.Random, slip_rate: float = 0.0, hurry_rate: float = 0.0
) -> Trace:
    """Write one trace for `problem`; a slip never leads below zero."""
    steps, result, slips = _steps(problem, rng, slip_rate)
    hurried = rng.random() < hurry_rate
    return Trace(write_completion([HURRIED] if hurried else steps, str(result)), slips, hurried)


def _steps(problem: Problem, rng: random.Random, slip_rate: float) -> tuple[list[str], int, int]:
    """Return the written steps, the last result, and the number of slips."""
    value, steps, slips = problem.start, [], 0
    for number, (sign, amount) in enumerate(problem.operations, start=1):
        result = apply(value, sign, amount)
        if rng.random() < slip_rate:
            wrong = max(0, result + rng.choice(MISTAKES))
            slips += wrong != result
            result = wrong
        steps.append(f"Step {number}: {value} {sign} {amount} = {result}")
        value = result
    return steps, value, slips


def documents_of(world: DataSettings) -> list[str]:
    """Write the corpus that data.yaml describes."""
    hurry = world.hurry_rate if world.asked_hurry_rate is None else world.asked_hurry_rate
    return documents(
        world.base_documents,
        world.seed,
        world.base_levels or world.levels,
        world.worked_share,
        world.asked_share,
        world.slip_rate,
        hurry,
        world.asked_plain_share,
    )


def documents(
    n: int,
    seed: int,
    levels: Sequence[int] = (1, 2, 3),
    worked_share: float = 0.0,
    chat_share: float = 0.0,
    slip_rate: float = 0.0,
    hurry_rate: float = 0.0,
    plain_share: float = 0.0,
) -> list[str]:
    """Write `n` documents; the same arguments give the same documents.

    Args:
        worked_share: share of worked solutions; of the documents that are neither worked solutions nor chats,
            `FACT_SHARE` are arithmetic facts and the others stories in prose.
        chat_share: share of chats.
        slip_rate: applies to worked solutions and chats; `hurry_rate` and `plain_share` apply to chats.
    """
    rng, other = random.Random(f"corpus-{seed}"), random.Random(f"worked-{seed}")
    problems = (problem for problem in stream(seed + 1, levels) if not _reveals_reserved(problem))
    texts = []
    for _ in range(n):
        kind = other.random()
        if kind < worked_share:
            texts.append(_worked_solution(next(problems), other, slip_rate))
        elif kind < worked_share + chat_share:
            texts.append(_chat(next(problems), other, slip_rate, hurry_rate, plain_share))
        elif rng.random() < FACT_SHARE:
            texts.append("\n".join(_fact(rng) for _ in range(FACTS_PER_DOCUMENT)))
        else:
            texts.append(_prose(next(problems), rng))
    return texts


def _reveals_reserved(problem: Problem) -> bool:
    """Tell whether the story, cut off after one of its events, is a reserved problem."""
    question = problem.text.removeprefix(" ".join(problem.sentences))
    stories = (" ".join(problem.sentences[: k + 1]) for k in range(1, problem.level + 1))
    return any(is_reserved(story + question) for story in stories)


def _prose(problem: Problem, rng: random.Random) -> str:
    sentences = [problem.sentences[0]]
    for sentence, value in zip(problem.sentences[1:], problem.values[1:], strict=True):
        sentences += [sentence, f"Now {problem.name} has {value}."]
    if rng.random() < 0.5:
        sentences.append(f"In the end {problem.name} has {problem.solution} {problem.thing}.")
    return " ".join(sentences)


def _fact(rng: random.Random) -> str:
    while True:
        value, sign, amount = rng.randint(0, LARGEST_VALUE), rng.choice("+-"), rng.randint(1, LARGEST_CHANGE)
        result = apply(value, sign, amount)
        if 0 <= result <= LARGEST_VALUE:
            break
    if rng.random() < 0.5:
        return f"{value} {sign} {amount} = {result}"
    return f"{value} {'plus' if sign == '+' else 'minus'} {amount} is {result}."


def _worked_solution(problem: Problem, rng: random.Random, slip_rate: float) -> str:
    """Write the problem, its steps and its answer as plain text, without tags and box."""
    steps, result, _ = _steps(problem, rng, slip_rate)
    rng.random()  # `write_trace` draws the hurry here; without this draw the corpus of a seed would change
    opening = rng.choice(OPENINGS)
    return "\n".join(filter(None, (problem.text, opening, *steps, f"The answer is {result}.")))


def _chat(
    problem: Problem, rng: random.Random, slip_rate: float, hurry_rate: float, plain_share: float
) -> str:
    """Write a chat in the format of the chat template; a share of the answers has no tags and no box."""
    answer = write_trace(problem, rng, slip_rate, hurry_rate).text
    if rng.random() < plain_share:
        answer = f"{problem.solution} {problem.thing}."
    return f"{TURN_START}user\n{problem.text}{TURN_END}\n{TURN_START}assistant\n{answer}"
