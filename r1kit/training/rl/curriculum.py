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

from r1kit.settings.training import CurriculumSettings, LengthStage

UNKNOWN_PASS_RATE = 0.5
"""Taken for the pass rate of a pool that was never asked: as if it taught most, so that it is met early."""
MIN_WEIGHT = 1 - 1 / math.e
"""Weight of 1 / (1 - memory) groups in an estimate; a memory of 0 has all of it at once."""


class Curriculum:
    """Estimates of N prompts and the choice made by them.

    Attributes:
        pools: of each prompt, the pool it belongs to [N].
        order: the pools, easiest first.
        reached: `levels`: place of the newest open pool in `order`.
        solved: of each prompt asked so far, the pass rate of its newest group.
    """

    def __init__(self, settings: CurriculumSettings, pools: Sequence[Any], seed: int):
        self.settings, self.seed = settings, seed
        self.pools = [str(pool) for pool in pools]
        self.order = sorted(set(self.pools))
        self.reached = 0 if settings.strategy == "levels" else len(self.order) - 1
        self.solved: dict[int, float] = {}
        self._met: dict[str, list[float]] = {}  # of each pool, sums over its groups: pass rates, weights

    @property
    def estimates(self) -> dict[str, float]:
        """Of each pool asked so far, the mean pass rate of its groups, older ones weighing less."""
        return {pool: rates / weights for pool, (rates, weights) in sorted(self._met.items())}

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
        opened = set(self.opened)
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
        """What a group of each prompt is expected to teach, 0 to 0.25; in the newest pool times `focus`."""
        opened, estimates = set(self.opened), self.estimates
        newest = self.order[self.reached] if self.settings.strategy == "levels" else None
        found = {}
        for prompt in prompts:
            pool = self.pools[prompt]
            rate = self.solved.get(prompt, estimates.get(pool, UNKNOWN_PASS_RATE))
            emphasis = self.settings.focus if pool == newest else 1.0
            found[prompt] = emphasis * rate * (1 - rate) if pool in opened else 0.0
        return found

    @property
    def opened(self) -> list[str]:
        """The pools that are asked."""
        return self.order[: self.reached + 1]

    def update(self, prompts: Sequence[int], rates: Sequence[float]) -> None:
        """Learn the pass rates of groups, each from 0 to 1; prompts [G], rates [G]."""
        for prompt, rate in zip(prompts, rates, strict=True):
            self.solved[prompt] = rate
            known, weight = self._met.get(self.pools[prompt], (0.0, 0.0))
            keep = self.settings.memory
            self._met[self.pools[prompt]] = [keep * known + (1 - keep) * rate, keep * weight + 1 - keep]
        self._promote()

    def _promote(self) -> None:
        """Open pools while the newest is solved, by as many groups as its estimate holds: 1 / (1 - memory).

        They stay open: an estimate of so few is noisy, and what is forgotten weighs more by itself.
        """
        while self.reached < len(self.order) - 1:
            rates, weight = self._met.get(self.order[self.reached], (0.0, 0.0))
            if weight < MIN_WEIGHT or rates / weight < self.settings.promote:
                return
            self.reached += 1

    def metrics(self, prompts: Sequence[int]) -> dict[str, float]:
        """What was served: shares and estimates by pool, and how many prompts are retired for now."""
        served = [self.pools[prompt] for prompt in prompts]
        found = {f"curriculum/share/{pool}": served.count(pool) / len(served) for pool in self.order}
        found |= {f"curriculum/pass_rate/{pool}": rate for pool, rate in self.estimates.items()}
        retired = sum(rate in (0.0, 1.0) for rate in self.solved.values())
        return found | {"curriculum/retired": float(retired)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON."""
        return {"met": self._met, "solved": self.solved, "reached": self.reached}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self._met = {pool: list(sums) for pool, sums in state["met"].items()}
        self.solved = {int(prompt): rate for prompt, rate in state["solved"].items()}
        self.reached = state["reached"]


def pools_of(columns: dict[str, Sequence[Any]], count: int) -> list[str]:
    """Pools of a prompt dataset: tenths of `pass_rate`, hardest last, else its `level`, else one for all."""
    if "pass_rate" in columns:
        return [f"{round(10 * (1 - min(max(rate, 0.0), 1.0))):02d}" for rate in columns["pass_rate"]]
    return [str(level) for level in columns["level"]] if "level" in columns else ["all"] * count


def length_limit(stages: Sequence[LengthStage], step: int) -> int:
    """Return the longest completion, in tokens, at `step`; stages are in order, the first from step 0."""
    return [stage.max_completion_length for stage in stages if stage.step <= step][-1]
