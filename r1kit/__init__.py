"""r1kit: see DeepSeek-R1's training happen.

The names that notebooks and scripts use most; the package's modules have the rest:

- `open_stage`, `watch`: open a notebook's run, and follow a training live.
- `load_profile`: the settings of a folder of configs/.
- `load_checkpoint`, `generate`: load a model, and sample answers from it.
- `get_rewards`, `score`: the reward functions of a recipe, and what they give to answers.
- `read_metrics`, `load_rollouts`, `figures`: a training's curves and rollouts, from its files.

Each is loaded when it is first used, so `import r1kit` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1kit.evaluation.sampler import generate, load_checkpoint
    from r1kit.pipeline.stage import open_stage
    from r1kit.rewards import get_rewards, score
    from r1kit.runs.jsonl import read as read_metrics
    from r1kit.settings import load_profile
    from r1kit.views import figures
    from r1kit.views.dashboard import watch
    from r1kit.views.rollouts import load_rollouts

__version__ = "0.1.0"
__all__ = [
    "figures",
    "generate",
    "get_rewards",
    "load_checkpoint",
    "load_profile",
    "load_rollouts",
    "open_stage",
    "read_metrics",
    "score",
    "watch",
]

_SOURCES = {
    "figures": "r1kit.views.figures",
    "generate": "r1kit.evaluation:generate",
    "get_rewards": "r1kit.rewards:get_rewards",
    "load_checkpoint": "r1kit.evaluation:load_checkpoint",
    "load_profile": "r1kit.settings:load_profile",
    "load_rollouts": "r1kit.views.rollouts:load_rollouts",
    "open_stage": "r1kit.pipeline.stage:open_stage",
    "read_metrics": "r1kit.runs.jsonl:read",
    "score": "r1kit.rewards:score",
    "watch": "r1kit.views.dashboard:watch",
}


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'r1kit' has no attribute {name!r}")
    module, _, attribute = _SOURCES[name].partition(":")
    value = import_module(module)
    return getattr(value, attribute) if attribute else value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
