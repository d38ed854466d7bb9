"""What a composed stage's result.json says: numbers worth comparing, artifacts, pass@1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.pipeline.composed import ComposedStage
from r1kit.runs import metrics as metrics_log
from r1kit.runs.files import read_json
from r1kit.settings.pipelines import DATA_KINDS, PROMPT_KINDS

ACCURACY, LENGTH = "rewards/accuracy_reward/mean", "completions/mean_length"


def artifacts_of(stage: ComposedStage, folder: Path) -> dict[str, str]:
    """Name -> path inside the folder of what the stage made."""
    if stage.kind == "evaluate":
        return {name: f"{name}.parquet" for name in stage.inputs}
    if stage.kind in DATA_KINDS + PROMPT_KINDS:
        return {"data": "data"}
    rollouts = {"rollouts": "rollouts"} if (folder / "rollouts").is_dir() else {}
    return {"model": "model"} | rollouts


def metrics_of(stage: ComposedStage, folder: Path) -> dict[str, float]:
    """Numbers of the stage: the ends of its curves, or how many rows came from where."""
    if stage.kind in DATA_KINDS + PROMPT_KINDS:
        return read_json(folder / "counts.json", {})
    if stage.kind == "evaluate":
        from r1kit.evaluation import level_metrics, table

        how = stage.profile.evaluation
        return level_metrics(table(_answers(stage, folder), how.levels, how.k))
    rows = metrics_log.read(folder / "metrics.jsonl")
    found = {"steps": rows[-1]["step"]} if rows else {}
    names = {"loss": "loss"} if stage.kind == "sft" else {"accuracy": ACCURACY, "length": LENGTH}
    for name, key in names.items():
        values = [row[key] for row in rows if isinstance(row.get(key), (int, float))]
        if values:
            found |= {f"{name}_first": values[0], f"{name}_last": mean(values[-3:])}
    return found


def pass_at_1_of(stage: ComposedStage, folder: Path) -> dict[str, Mapping[str, float]] | None:
    """The headline pass@1 of every checkpoint that the stage asked; None for the other kinds."""
    if stage.kind != "evaluate":
        return None
    from r1kit.evaluation import pass1_entry

    levels = stage.profile.evaluation.levels
    return {name: pass1_entry(frame, levels) for name, frame in _answers(stage, folder).items()}


def mean(values: Sequence[float]) -> float:
    """Of a few last values: one batch is noise."""
    return sum(values) / len(values)


def _answers(stage: ComposedStage, folder: Path) -> dict[str, Any]:
    from r1kit.evaluation import load_results

    return {name: load_results(folder / f"{name}.parquet") for name in stage.inputs}
