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
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

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
