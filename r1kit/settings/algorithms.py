"""GRPO's family by name: what `algorithm` in grpo.yaml stands for in TRL's keys."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Literal

AlgorithmName = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]

DEFINING: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "importance_sampling_level": "token", "scale_rewards": "group"},
    "dr_grpo": {"loss_type": "dr_grpo", "importance_sampling_level": "token", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "importance_sampling_level": "token"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "importance_sampling_level": "token"},
}
"""Keys without which it would be another algorithm: a file may repeat them and not contradict them."""

USUAL: dict[str, dict[str, Any]] = {
    "dapo": {"epsilon": 0.2, "epsilon_high": 0.28},
    "gspo": {"epsilon": 3e-4, "epsilon_high": 4e-4},
    "cispo": {"epsilon_high": 5.0},
}
"""The papers' bounds; a key in the file takes their place."""


def expand(algorithm: Any) -> dict[str, Any]:
    """Return TRL's keys for an algorithm; none for anything else, which leaves all to the file.

    Each paper changes one line of GRPO; what a file does not say stays as it is in TRL:

    - `grpo` (DeepSeekMath, arXiv:2402.03300, equation 3): the mean over each completion, then over
      completions; the advantage is divided by the group's standard deviation.
    - `dr_grpo` (arXiv:2503.20783, section 3.2): the sum over a completion's tokens over one constant length
      for all, and no standard deviation. A long wrong answer is no longer cheaper by the token than a short
      one.
    - `dapo` (arXiv:2503.14476, sections 3.1 and 3.3): the mean over all tokens of the batch, and more room
      upwards: a ratio may reach 1.28 and fall to 0.8. Its dynamic sampling is the key `dynamic_sampling`, its
      overlong penalty the reward `soft_overlong_punishment`.
    - `gspo` (arXiv:2507.18071, sections 4 and 5.1): one ratio per completion, the geometric mean of its
      tokens'; it moves little, so it is clipped at 3e-4 and 4e-4.
    - `cispo` (MiniMax-M1, arXiv:2506.13585, section 3.1): the ratio is a weight, clipped and without
      gradient, so no token is left out. 5.0 is the bound of ScaleRL (arXiv:2510.13786).
    """
    if not isinstance(algorithm, str):
        return {}
    return {**DEFINING.get(algorithm, {}), **USUAL.get(algorithm, {})}


def make_room(values: dict[str, Any], kept: Container[Any]) -> None:
    """Drop from grpo.yaml's values the keys of its own algorithm: an override names another.

    Args:
        kept: keys that were overridden as well.
    """
    for key in expand(values["algorithm"]):
        if key not in kept:
            values.pop(key, None)


def same(key: str, one: Any, other: Any) -> bool:
    """Whether two values of a TRL key mean the same: `scale_rewards` also takes true and false."""
    if key == "scale_rewards":
        one, other = ({True: "group", False: "none"}.get(v, v) for v in (one, other))
    return one == other
