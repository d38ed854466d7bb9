"""r1kit: see DeepSeek-R1's training happen.

Notebooks need two names: `open_stage`, which checks a notebook's parameters and opens its run folder, and
`watch`, which follows a training live. Both are loaded when first used, so `import r1kit` stays fast.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["open_stage", "watch"]


def __getattr__(name: str):
    if name == "open_stage":
        from r1kit.pipeline.stage import open_stage

        return open_stage
    if name == "watch":
        from r1kit.views.dashboard import watch

        return watch
    raise AttributeError(f"module 'r1kit' has no attribute {name!r}")
