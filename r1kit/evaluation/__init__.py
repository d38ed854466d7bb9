"""Evaluation: completions of held-out problems and benchmarks, judged, with intervals.

Names are loaded on first use, so that importing the package is fast.
"""

from importlib import import_module

_MODULE_OF = {
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
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
