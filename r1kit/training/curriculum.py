"""Which prompts GRPO asks: difficulty by what the model gets right, not by the label alone.

A group gives a gradient only if some of its completions are right and some are wrong. With pass rate p the
variance of a right-or-wrong reward is p (1 - p); prompts are drawn with that weight ("Learning to Reason at
the Frontier of Learnability", arXiv:2502.12272, draws by it too). What is always right or always wrong has
weight 0 and is no longer asked, but for a share of `revisit`. A prompt that was never asked borrows the
estimate of its pool: its level, or its tenth of an offline `pass_rate`. So a pool is entered as soon as it is
sometimes solved, and left once it is solved.

DeepSeek-R1 orders nothing; Kimi k1.5 (arXiv:2501.12599) samples by 1 - p, which favours what is never solved.

The choice depends on seed, step and the groups so far, so every process of a training makes the same one, and
a resumed training goes on with it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from r1kit.settings.curriculum import CurriculumSettings

UNKNOWN = 0.5
"""Taken for the pass rate of a pool that was never asked: as if it taught most, so that it is met early."""


class Curriculum:
    """Estimates of N prompts and the choice made by them.

    Attributes:
        pools: of each prompt, the pool it belongs to [N].
        estimates: of each pool asked so far, its pass rate.
        solved: of each prompt asked so far, the pass rate of its newest group.
    """

    def __init__(self, settings: CurriculumSettings, pools: Sequence[Any], seed: int):
        self.settings, self.seed = settings, seed
        self.pools = [str(pool) for pool in pools]
        self.order = sorted(set(self.pools))
        self.estimates: dict[str, float] = {}
        self.solved: dict[int, float] = {}

    def choose(self, count: int, step: int, part: int = 0, without: Sequence[int] = ()) -> list[int]:
        """`count` different prompts for the groups of `step`.

        Args:
            part: which choice of this step it is; another one draws others.
            without: prompts that were asked in this step already.

        Raises:
            ValueError: there are fewer prompts than asked for.
        """
        generator = random.Random(f"curriculum-{self.seed}-{step}-{part}")
        left = sorted(set(range(len(self.pools))) - set(without))
        if count > len(left):
            raise ValueError(f"{count} prompts are to be chosen and {len(left)} are left")
        if self.settings.strategy in ("none", "length"):
            return generator.sample(left, count)
        opened = set(self.opened())
        weights = self.weights(left)
        fresh = sum(generator.random() < self.settings.revisit for _ in range(count))
        # Drawing by weight without putting back: the largest u^(1/w) (Efraimidis and Spirakis, 2006), by
        # logarithm, since the power of a small weight is 0 for any u.
        keys = {prompt: -math.log(1 - generator.random()) / w for prompt, w in weights.items() if w > 0}
        chosen = sorted(keys, key=keys.get)[: count - fresh]
        rest = sorted(set(left) - set(chosen))
        inside = [prompt for prompt in rest if self.pools[prompt] in opened]
        chosen += generator.sample(inside, min(count - len(chosen), len(inside)))
        outside = sorted(set(rest) - set(inside))  # only where the opened levels hold too few prompts
        return [*chosen, *generator.sample(outside, count - len(chosen))]

    def weights(self, prompts: Sequence[int]) -> dict[int, float]:
        """How much a group of each prompt is expected to teach, 0 to 0.25."""
        opened = set(self.opened())
        found = {}
        for prompt in prompts:
            pool = self.pools[prompt]
            rate = self.solved.get(prompt, self.estimates.get(pool, UNKNOWN))
            found[prompt] = rate * (1 - rate) if pool in opened else 0.0
        return found

    def opened(self) -> list[str]:
        """The pools that are asked: all, or by `levels` those before the first unsolved one, and that one."""
        if self.settings.strategy != "levels":
            return self.order
        for index, pool in enumerate(self.order):
            if self.estimates.get(pool, 0.0) < self.settings.promote:
                return self.order[: index + 1]
        return self.order

    def update(self, prompts: Sequence[int], rates: Sequence[float]) -> None:
        """Learn the pass rates of groups, each from 0 to 1; prompts [G], rates [G]."""
        met: dict[str, list[float]] = {}
        for prompt, rate in zip(prompts, rates, strict=True):
            self.solved[prompt] = rate
            met.setdefault(self.pools[prompt], []).append(rate)
        for pool, found in met.items():
            new = sum(found) / len(found)
            keep = self.settings.memory ** len(found)
            self.estimates[pool] = keep * self.estimates.get(pool, new) + (1 - keep) * new

    def metrics(self, prompts: Sequence[int]) -> dict[str, float]:
        """What was served: shares and estimates by pool, and how many prompts are retired for now."""
        served = [self.pools[prompt] for prompt in prompts]
        found = {f"curriculum/share/{pool}": served.count(pool) / len(served) for pool in self.order}
        found |= {f"curriculum/pass_rate/{pool}": rate for pool, rate in sorted(self.estimates.items())}
        retired = sum(rate in (0.0, 1.0) for rate in self.solved.values())
        return found | {"curriculum/retired": float(retired)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON."""
        return {"estimates": self.estimates, "solved": self.solved}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.estimates = dict(state["estimates"])
        self.solved = {int(prompt): rate for prompt, rate in state["solved"].items()}


def pools_of(columns: dict[str, Sequence[Any]], count: int) -> list[str]:
    """Pools of a prompt dataset: tenths of `pass_rate`, hardest last, else its `level`, else one for all."""
    if "pass_rate" in columns:
        return [f"{round(10 * (1 - min(max(rate, 0.0), 1.0))):02d}" for rate in columns["pass_rate"]]
    return [str(level) for level in columns["level"]] if "level" in columns else ["all"] * count
