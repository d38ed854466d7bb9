"""Evaluation: samples from a checkpoint on held-out problems, and estimates with honest intervals."""

from __future__ import annotations

from r1kit.evaluation.estimators import mean_interval, pass_at_k
from r1kit.evaluation.evaluate import (
    evaluate,
    evaluate_answering,
    evaluate_model,
    load_results,
    save_results,
)
from r1kit.evaluation.questions import questions_of
from r1kit.evaluation.sampling import Samples, generate
from r1kit.evaluation.tables import level_metrics, pass1_entry, table

__all__ = [
    "Samples",
    "evaluate",
    "evaluate_answering",
    "evaluate_model",
    "generate",
    "level_metrics",
    "load_results",
    "mean_interval",
    "pass1_entry",
    "pass_at_k",
    "questions_of",
    "save_results",
    "table",
]
