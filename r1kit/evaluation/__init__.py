"""Evaluation: completions of held-out problems and benchmarks, judged, with honest intervals.

Names are loaded when they are asked for, so that importing the package is light.
"""

from importlib import import_module

_WHERE = {
    "Samples": "r1kit.evaluation.sampler",
    "generate": "r1kit.evaluation.sampler",
    "load_checkpoint": "r1kit.evaluation.sampler",
    "evaluate": "r1kit.evaluation.checkpoints",
    "evaluate_answering": "r1kit.evaluation.checkpoints",
    "evaluate_model": "r1kit.evaluation.checkpoints",
    "judged": "r1kit.evaluation.checkpoints",
    "load_results": "r1kit.evaluation.checkpoints",
    "save_results": "r1kit.evaluation.checkpoints",
    "letter_after_reasoning": "r1kit.evaluation.judges",
    "mean_interval": "r1kit.evaluation.statistics",
    "pass_at_k": "r1kit.evaluation.statistics",
    "questions_of": "r1kit.evaluation.benchmarks",
    "level_metrics": "r1kit.evaluation.report",
    "pass1_entry": "r1kit.evaluation.report",
    "table": "r1kit.evaluation.report",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
