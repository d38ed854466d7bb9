"""A stage's program as a supervised job: write its inputs, start it, record its result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1kit.machine.devices import mask
from r1kit.pipeline import lineage
from r1kit.pipeline.stages import LESSON, StageSpec
from r1kit.runs import results
from r1kit.runs.files import write_text_atomic
from r1kit.runs.launch import Job, launch
from r1kit.settings import Profile, yaml_dump

Inputs = Mapping[str, Path | str]
"""What a program reads, by the name it uses: a path, or the name of a model on the hub."""


def write_resolved(
    folder: Path, heading: Mapping[str, str], inputs: Inputs, profile: Profile, parameters: Any = None
) -> None:
    """Write resolved.yaml, which a program reads: the whole profile, and paths relative to `folder`.

    Args:
        heading: profile, stage and run_id, for people who read the file.
        parameters: values beside the profile; None for a lesson's training, which has none.
    """
    relative = {
        name: os.path.relpath(path, folder) if isinstance(path, Path) else path
        for name, path in inputs.items()
    }
    extra = {} if parameters is None else {"parameters": parameters}
    content = {**heading, "inputs": relative, **extra, **profile.dump()}
    write_text_atomic(folder / "resolved.yaml", yaml_dump(content))


def launch_program(
    program: str,
    folder: Path,
    heading: Mapping[str, str],
    inputs: Inputs,
    profile: Profile,
    parameters: Any = None,
    *,
    trains: bool = True,
) -> Job:
    """Write a program's resolved.yaml, start the program under a supervisor, and return at once.

    Args:
        trains: True for a training, which `accelerate launch` starts on the training's devices. Another
            program runs in one process that may use every device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_resolved(folder, heading, inputs, profile, parameters)
    environment = dict(profile.machine.environment)
    if trains:
        training = program.rpartition(".")[2]
        write_text_atomic(folder / "accelerate.yaml", profile.accelerate_yaml(training))
        environment |= device_mask(profile, training)
    grace = profile.machine.grace_seconds
    return launch(program, folder, environment=environment, grace=grace, accelerate=trains)


def device_mask(profile: Profile, training: str) -> dict[str, str]:
    """Return the environment that selects a training's GPUs by machine.yaml's layout; {} without a layout.

    GRPO uses `layout.train`. The other trainings run without a server, so they use all devices of the layout
    if accelerate.yaml starts that many processes.
    """
    layout = profile.machine.layout
    if layout is None:
        return {}
    section = getattr(profile, {"pretrain": "base"}.get(training, training), None)
    if section is not None and section.alone:
        return mask(layout.train[:1])
    all_devices = training != "grpo" and profile.accelerate.get("num_processes") != len(layout.train)
    return mask(sorted({*layout.serve, *layout.train}) if all_devices else layout.train)


def record(
    spec: StageSpec,
    folder: Path,
    label: str,
    sources: Mapping[str, Path | str],
    artifacts: Mapping[str, str],
    **result: Any,
) -> None:
    """Write the stage's result.json, which marks it as done.

    Args:
        label: the stage in its run: `02_sft`, `06_pipeline/final`.
        sources: for each source of its inputs the folder with that result, or a model's name on the hub.
        artifacts: name -> path relative to `folder`.
        result: seconds, metrics, pass_at_1 and peak_rss_bytes of `results.write_result`.

    Raises:
        FileNotFoundError: an artifact does not exist; the stage is then not done.
    """
    kind = spec.name if spec.kind == LESSON else spec.kind
    origin = lineage.origin(kind, folder, artifacts, spec.inputs, sources, spec.profile)
    results.write_result(
        folder, stage=label, inputs_hash=spec.inputs_hash, artifacts=artifacts, origin=origin, **result
    )
