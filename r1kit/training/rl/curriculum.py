"""Which prompts GRPO samples: difficulty measured by the model's pass rate, not by the label alone.

A group gives a gradient only if some of its completions are right and some are wrong. With pass rate p the
variance of a right-or-wrong reward is p (1 - p); prompts are drawn with that weight ("Learning to Reason at
the Frontier of Learnability", arXiv:2502.12272, also draws by it). A prompt that is always right or always
wrong has weight 0 and is only drawn within the share of `revisit`. A prompt without a group so far borrows
the estimate of its pool: its level, or its tenth of an offline `pass_rate`. So prompts of a pool are drawn as
soon as it is sometimes solved, and no longer once it is solved.

DeepSeek-R1 orders nothing; Kimi k1.5 (arXiv:2501.12599) samples by 1 - p, which favours prompts that are
never solved.

The choice depends only on seed, step and the groups so far: every process makes the same one, and a resumed
training continues it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from r1kit.settings.training import CurriculumSettings, LengthStage

UNKNOWN_PASS_RATE = 0.5
"""Assumed for a pool without groups: the rate with the largest weight, so that the pool is sampled early."""
MIN_WEIGHT = 1 - 1 / math.e
"""Weight of 1 / (1 - memory) groups in an estimate; a memory of 0 has all of it at once."""


class Curriculum:
    """Pass-rate estimates of N prompts, and the choice of prompts that follows from them.

    Attributes:
        pools: the pool of each prompt [N].
        order: the pools, easiest first.
        reached: strategy `levels`: index in `order` of the newest open pool.
        pass_rates: prompt -> pass rate of its newest group.
    """

    def __init__(self, settings: CurriculumSettings, pools: Sequence[Any], seed: int):
        self.settings, self.seed = settings, seed
        self.pools = [str(pool) for pool in pools]
        self.order = sorted(set(self.pools))
        self.reached = 0 if settings.strategy == "levels" else len(self.order) - 1
        self.pass_rates: dict[int, float] = {}
        self._sums: dict[str, list[float]] = {}  # pool -> weighted sum of its groups' pass rates, of weights

    def choose(self, count: int, step: int, part: int = 0, without: Sequence[int] = ()) -> list[int]:
        """Choose `count` different prompts for the groups of `step`.

        Args:
            part: number of the choice within this step; each draws other prompts.
            without: prompts that were chosen in this step already.

        Raises:
            ValueError: fewer than `count` prompts are left.
        """
        generator = random.Random(f"curriculum-{self.seed}-{step}-{part}")
        left = sorted(set(range(len(self.pools))) - set(without))
        if count > len(left):
            raise ValueError(f"{count} prompts are to be chosen and {len(left)} are left")
        if self.settings.strategy in ("none", "length"):
            return generator.sample(left, count)
        weights = self.weights(left)
        revisited = sum(generator.random() < self.settings.revisit for _ in range(count))
        # Weighted sampling without replacement: the largest u^(1/w) (Efraimidis and Spirakis, 2006), by
        # logarithm, since the power of a small weight is 0 for any u.
        keys = {prompt: -math.log(1 - generator.random()) / w for prompt, w in weights.items() if w > 0}
        chosen = sorted(keys, key=keys.get)[: count - revisited]
        rest, open_pools = sorted(set(left) - set(chosen)), set(self.open_pools)
        in_open_pools = [prompt for prompt in rest if self.pools[prompt] in open_pools]
        chosen += generator.sample(in_open_pools, min(count - len(chosen), len(in_open_pools)))
        others = sorted(set(rest) - set(in_open_pools))  # only if the open pools hold too few prompts
        return [*chosen, *generator.sample(others, count - len(chosen))]

    def weights(self, prompts: Sequence[int]) -> dict[int, float]:
        """Return p (1 - p) of each prompt, 0 to 0.25; times `focus` in the newest pool, 0 in closed ones."""
        estimates, open_pools = self.estimates, set(self.open_pools)
        newest = self.order[self.reached] if self.settings.strategy == "levels" else None
        found = {}
        for prompt in prompts:
            pool = self.pools[prompt]
            rate = self.pass_rates.get(prompt, estimates.get(pool, UNKNOWN_PASS_RATE))
            emphasis = self.settings.focus if pool == newest else 1.0
            found[prompt] = emphasis * rate * (1 - rate) if pool in open_pools else 0.0
        return found

    @property
    def open_pools(self) -> list[str]:
        """The pools that prompts are drawn from."""
        return self.order[: self.reached + 1]

    @property
    def estimates(self) -> dict[str, float]:
        """Pool -> mean pass rate of its groups, older groups with less weight; only pools with groups."""
        return {pool: rates / weights for pool, (rates, weights) in sorted(self._sums.items())}

    def update(self, prompts: Sequence[int], rates: Sequence[float]) -> None:
        """Take in the pass rates of groups, 0 to 1, and open pools; prompts [G], rates [G].

        A pool opens once the newest one is solved, judged by as many groups as its estimate remembers, 1 /
        (1 - memory). It stays open: an estimate of so few groups is noisy, and prompts that the model has
        forgotten gain weight anyway.
        """
        keep = self.settings.memory
        for prompt, rate in zip(prompts, rates, strict=True):
            self.pass_rates[prompt] = rate
            total, weight = self._sums.get(self.pools[prompt], (0.0, 0.0))
            self._sums[self.pools[prompt]] = [keep * total + (1 - keep) * rate, keep * weight + 1 - keep]
        while self.reached < len(self.order) - 1:
            total, weight = self._sums.get(self.order[self.reached], (0.0, 0.0))
            if weight < MIN_WEIGHT or total / weight < self.settings.promote:
                return
            self.reached += 1

    def metrics(self, prompts: Sequence[int]) -> dict[str, float]:
        """Return shares of the sampled `prompts` and estimates by pool, and the number of retired prompts."""
        sampled = [self.pools[prompt] for prompt in prompts]
        found = {f"curriculum/share/{pool}": sampled.count(pool) / len(sampled) for pool in self.order}
        found |= {f"curriculum/pass_rate/{pool}": rate for pool, rate in self.estimates.items()}
        retired = sum(rate in (0.0, 1.0) for rate in self.pass_rates.values())
        return found | {"curriculum/retired": float(retired)}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON."""
        return {"met": self._sums, "solved": self.pass_rates, "reached": self.reached}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self._sums = {pool: list(sums) for pool, sums in state["met"].items()}
        self.pass_rates = {int(prompt): rate for prompt, rate in state["solved"].items()}
        self.reached = state["reached"]


def pools_of(columns: dict[str, Sequence[Any]], count: int) -> list[str]:
    """Return the pool of each prompt: its tenth of `pass_rate` (hardest last), its `level`, or "all"."""
    if "pass_rate" in columns:
        return [f"{round(10 * (1 - min(max(rate, 0.0), 1.0))):02d}" for rate in columns["pass_rate"]]
    return [str(level) for level in columns["level"]] if "level" in columns else ["all"] * count


def length_limit(stages: Sequence[LengthStage], step: int) -> int:
    """Return the longest completion at `step`, in tokens; stages are in order, the first from step 0."""
    return [stage.max_completion_length for stage in stages if stage.step <= step][-1]
