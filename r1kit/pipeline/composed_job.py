"""A composed stage as a supervised job: what its program reads, how it is started, what is recorded of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.pipeline import lineage
from r1kit.pipeline.composed import ComposedStage
from r1kit.pipeline.composed_results import artifacts_of, metrics_of, pass_at_1_of
from r1kit.pipeline.devices import device_mask
from r1kit.pipeline.real_data import model_folder
from r1kit.runs import results, status
from r1kit.runs.files import write_json_atomic, write_text_atomic
from r1kit.runs.launch import Job, launch
from r1kit.settings import yaml_dump
from r1kit.settings.composed import base_of
from r1kit.settings.pipelines import GIVEN

if TYPE_CHECKING:
    from r1kit.pipeline.composition import Composition

PROGRAMS = {
    "sft": "r1kit.training.sft",
    "grpo": "r1kit.training.grpo",
    "rejection_sampling": "r1kit.evaluation.rejection_sampling",
    "pass_rate": "r1kit.evaluation.rejection_sampling",
    "merge_data": "r1kit.training.merge_data",
    "evaluate": "r1kit.evaluation.checkpoints",
}
TRAININGS = ("sft", "grpo")
"""Kinds that leave a model, and that `accelerate launch` starts in several processes; others run in one."""


def launch_stage(composition: Composition, stage: ComposedStage, folder: Path) -> Job:
    """Write the stage's settings into its folder and start its program; the result follows its good end."""
    opened, label = composition.opened, composition.label(stage.name)
    told = stage.parameters()
    paths = inputs_of(composition, stage)
    position = list(composition.stages).index(stage.name)
    params = {"inputs_hash": stage.inputs_hash, "kind": stage.kind, "pipeline": composition.name}
    write_json_atomic(folder / "params.json", params | {"position": position, "parameters": told})
    heading = {"profile": stage.profile.name, "stage": label, "run_id": opened.run.run_id}
    relative = {
        role: os.path.relpath(path, folder) if isinstance(path, Path) else path
        for role, path in paths.items()
    }
    resolved = heading | {"inputs": relative, "parameters": told} | stage.profile.dump()
    write_text_atomic(folder / "resolved.yaml", yaml_dump(resolved))
    if stage.kind in TRAININGS:
        write_text_atomic(folder / "accelerate.yaml", stage.profile.accelerate_yaml(stage.kind))
    status.update(folder, state="running")
    machine = stage.profile.machine
    # What only writes answers has every device, or leaves them to a server of its own.
    masks = device_mask(stage.profile, stage.kind) if stage.kind in TRAININGS else {}
    job = launch(
        program_of(stage),
        folder,
        environment=machine.environment | masks,
        grace=machine.grace_seconds,
        accelerate=stage.kind in TRAININGS,
    )
    job.after = lambda: record(composition, stage, folder)
    opened.jobs.append(job)
    return job


def program_of(stage: ComposedStage) -> str:
    """The module that does a stage."""
    return PROGRAMS[stage.kind]


def inputs_of(composition: Composition, stage: ComposedStage) -> dict[str, Path | str]:
    """The paths that a stage's program reads.

    A given model is its name on the hub for a training, which loads it by itself, and else the hub's copy.

    Raises:
        FileNotFoundError: a stage that it stands on is not done.
    """
    given = results.read_result(composition.data)["artifacts"]
    everyone = ("tokenizer", "heldout")
    found: dict[str, Path | str] = {
        name: composition.data / given[name] for name in everyone if name in given
    }
    for role, source in stage.inputs.items():
        if source == "base" and "model" not in given:
            name = base_of(composition.profile)
            found[role] = name if stage.kind in TRAININGS else model_folder(name)
        elif source in GIVEN:
            found[role] = composition.data / given[_artifact(composition, source)]
        else:
            found[role] = composition.artifact(source, _artifact(composition, source))
    server = composition.opened.server
    if stage.kind in ("grpo", "rejection_sampling", "pass_rate") and getattr(server, "job", None) is not None:
        found["server"] = server.folder
    return found


def record(composition: Composition, stage: ComposedStage, folder: Path) -> None:
    """Write the stage's result.json, last of all."""
    artifacts = artifacts_of(stage, folder)
    parents = [parent_of(composition, role, source) for role, source in stage.inputs.items()]
    results.write_result(
        folder,
        stage=composition.label(stage.name),
        seconds=time.time() - status.read(folder)["started"],
        inputs_hash=stage.inputs_hash,
        metrics=metrics_of(stage, folder),
        artifacts=artifacts,
        pass_at_1=pass_at_1_of(stage, folder),
        origin=lineage.origin(stage.kind, folder, artifacts, parents, stage.profile),
    )


def parent_of(composition: Composition, role: str, source: str) -> dict[str, Any]:
    """An input of a stage, for its `origin`."""
    artifact = _artifact(composition, source)
    if source == "base" and composition.profile.base is None:
        return {"as": role, "run": None, "stage": base_of(composition.profile), "artifact": artifact}
    folder = composition.data if source in GIVEN else composition.folder(source)
    return lineage.parent(role, folder, artifact)


def _artifact(composition: Composition, source: str) -> str:
    """What a stage takes from a source: a model, a dataset."""
    if source in GIVEN:
        return "model" if source == "base" else source
    return "model" if composition.stages[source].kind in TRAININGS else "data"
