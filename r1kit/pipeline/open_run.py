"""Open a run and find the results that its stages depend on.

`new_run` checks the settings of everything that will run, then creates the run folder; `reopen_run` loads an
existing run with the settings it was started with. `find_or_run` returns an earlier lesson's result: this
run's own, else the newest equal one of another run, else one made now. Equal inputs have equal hashes, for
lessons and for stages of pipeline.yaml alike, so neither the run nor the stage's name matters.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1kit.machine import detect_device
from r1kit.pipeline import lineage
from r1kit.pipeline.stages import (
    StageSpec,
    is_runnable,
    lesson_hash,
    lesson_stage,
    pipeline_hash,
    pipeline_stages,
    second_trainings,
)
from r1kit.runs import folder as runs
from r1kit.runs import results
from r1kit.runs.files import read_json
from r1kit.runs.launch import supervise
from r1kit.settings import Problem, Profile, SettingsError, load_profile
from r1kit.settings.errors import display_path
from r1kit.settings.lessons import DEFAULT_PIPELINE, STAGES
from r1kit.settings.profile import CONFIG_ROOT, pipeline_profile

CURRENT_FILES = {"notebook.ipynb", "status.json"}
"""Files of the current attempt; everything else in a stage's folder is from the previous one."""


def new_run(
    profile: str,
    overrides: dict[str, Any],
    run_id: str | None = None,
    stages: Sequence[str] = (),
    pipeline: str | None = None,
) -> tuple[runs.Run, Profile]:
    """Check the settings, then create a run folder whose manifest records them and the device.

    Args:
        stages: what will run, so that a profile without the necessary settings is rejected now.
        pipeline: the run's pipeline; its `set` applies to all stages. Pipelines after a comma run and are
            plotted beside it.

    Raises:
        SettingsError: before anything is created.
        RunError: `run_id` is malformed or taken.
    """
    from r1kit.sandbox import tiers

    pipeline, *beside = split_pipelines(pipeline)
    settings = load_settings(profile, overrides, pipeline)
    check_stages(settings, stages)
    for name in (pipeline, *beside) if pipeline else ():
        pipeline_stages(profile, overrides, name)
    device, reason = detect_device()
    trainers = {"base": settings.base, "sft": settings.sft, "grpo": settings.grpo}
    seeds = {"data": settings.data.seed, "evaluation": settings.evaluation.seed}
    seeds |= {name: section.trl.get("seed", 42) for name, section in trainers.items() if section}
    run = runs.create_run(
        settings.name,
        argv=sys.argv,
        seeds=seeds,
        run_id=run_id,
        pipeline=pipeline or None,
        overrides=overrides,
        devices=[{"device": device, "reason": reason}],
    )
    sandbox = tiers.record(settings.machine.sandbox)
    run.update_manifest(profile_source=profile_source(settings), sandbox=sandbox, beside=beside)
    return run, settings


def reopen_run(run_id: str, profile: str, overrides: dict[str, Any]) -> tuple[runs.Run, Profile]:
    """Return an existing run and the settings it was started with, changed by `overrides`, which it keeps.

    Args:
        profile: empty for the run's own.

    Raises:
        RunError: there is no such run.
        SettingsError: bad settings, or the profile is not the run's.
    """
    run = runs.open_run(run_id)
    source = profile or run.manifest["profile_source"]
    settings = load_settings(source, run.manifest["overrides"] | overrides, run.manifest.get("pipeline"))
    if settings.name != run.manifest["profile"]:
        message = "A run keeps the profile it was started with."
        file, allowed = f"run {run.run_id}", run.manifest["profile"]
        raise SettingsError([Problem(file, "PROFILE", settings.name, allowed, message=message)])
    run.update_manifest(overrides=overrides)
    return run, settings


def lesson_in_run(run: runs.Run, name: str, settings: Profile, pipeline: str = "") -> StageSpec:
    """Return the lesson `name` in this run; the lesson that runs pipelines has its pipeline's hash.

    Args:
        pipeline: by default the run's own.

    Raises:
        SettingsError: the pipeline, or the settings of one of its stages, are wrong.
    """
    spec = lesson_stage(name, settings)
    if not STAGES[name].pipelines:
        return spec
    manifest = run.manifest
    pipeline = pipeline or manifest.get("pipeline") or DEFAULT_PIPELINE
    stages = pipeline_stages(profile_source(settings), manifest["overrides"], pipeline)
    return replace(spec, inputs_hash=pipeline_hash(pipeline, stages))


def split_pipelines(text: str | None) -> list[str]:
    """Split `r1,r1-zero` into the run's own pipeline ("" for none) and those that run beside it."""
    return [name.strip() for name in (text or "").split(",")]


def load_settings(source: str, overrides: dict[str, Any], pipeline: str | None) -> Profile:
    """Load the settings of a run's stages: the profile, changed as its pipeline says, if it has one."""
    return pipeline_profile(source, overrides, pipeline) if pipeline else load_profile(source, overrides)


def profile_source(settings: Profile) -> str:
    """Return the PROFILE that loads these settings again: a shipped profile's name, else its path."""
    return settings.name if settings.folder.parent == CONFIG_ROOT else str(settings.folder)


def check_stages(settings: Profile, stages: Sequence[str]) -> None:
    """Reject stages that would fail half-way, perhaps after hours, because settings are missing or invalid.

    Raises:
        SettingsError: the profile leaves a required part out, or a later training of a stage could not run.
    """
    for name in stages:
        if not is_runnable(name, settings):
            section, _, key = STAGES[name].requires.partition(".")
            others = ",".join(other for other in stages if is_runnable(other, settings))
            message = f"{name} cannot run without it."
            message += f" Leave that stage out: --stages {others}." if others else ""
            allowed = f"a section as in configs/cpu-tiny/{section}.yaml"
            file = display_path(settings.folder / f"{section}.yaml")
            raise SettingsError([Problem(file, key, "nothing", allowed, message=message)])
    for name in stages:
        for training, changes in second_trainings(name, settings).items():
            try:
                load_profile(settings.folder, settings.overrides | changes)
            except SettingsError as error:
                where = f"(in {name}, whose training {training!r} has settings of its own)"
                problems = [replace(p, message=f"{p.message} {where}".strip()) for p in error.problems]
                raise SettingsError(problems, error.heading) from error


# Results that a stage depends on


def has_result(folder: Path, inputs_hash: str) -> bool:
    """Return whether the folder holds a result that was made with these inputs."""
    result = results.read_result(folder)
    return result is not None and result["inputs_hash"] == inputs_hash


def find_result(folder: Path, inputs_hash: str) -> Path | None:
    """Return the folder with the result of these inputs: `folder`, else in the newest run that has one."""
    if has_result(folder, inputs_hash):
        return folder
    folders = (stage for run in runs.list_runs() for stage in results.stage_folders(run))
    return next((stage for stage in folders if has_result(stage, inputs_hash)), None)


def find_or_run(run: runs.Run, spec: StageSpec, pipeline: str = "") -> Path:
    """Return the folder with the result of a lesson: this run's, else the newest equal one, else made now.

    Args:
        pipeline: `spec` has the settings of this pipeline. If they are not the run's, another run makes it.

    Raises:
        JobFailed: the lesson had to be run and failed; the message says where its log is.
    """
    folder = find_result(run.path / spec.name, spec.inputs_hash)
    if folder is None:
        manifest, options, description = run.manifest, ["--resume", run.run_id], "with these settings"
        source = profile_source(spec.profile)
        if pipeline:
            run_settings = load_settings(source, manifest["overrides"], manifest.get("pipeline"))
            if lesson_hash(spec.name, run_settings) != spec.inputs_hash:
                changes = [f"--set={key}={json.dumps(value)}" for key, value in manifest["overrides"].items()]
                options = ["--profile", source, "--pipeline", pipeline, *changes]
                description = f"with the settings of {pipeline}"
        print(f"{spec.name} has not been run {description}: running it first", flush=True)
        _run_first(run, spec, options)
        folder = find_result(run.path / spec.name, spec.inputs_hash) or run.stage(spec.name)
    source_run, _ = lineage.run_and_stage(folder)
    if source_run != run.run_id:
        print(f"{spec.name} comes from run {source_run}, which made it with the same settings")
        run.update_manifest(borrowed={spec.name: source_run})
    return folder


def _run_first(run: runs.Run, spec: StageSpec, options: Sequence[str]) -> None:
    """Run a lesson headlessly by `r1kit run` with these options, and echo what it prints."""
    folder = run.path / "before" / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "r1kit", "run", *options, "--stages", spec.name]
    grace = spec.profile.machine.grace_seconds + 30
    job = supervise(command, folder, name=f"stage {spec.name}", grace=grace)
    log, printed = folder / "train.log", job.log_offset
    try:
        while True:
            ended = job.poll() is not None
            text = log.read_text(errors="replace")[printed:] if log.exists() else ""
            print(text, end="", flush=True)
            printed += len(text)
            if ended:
                break
            time.sleep(0.5)
    finally:
        job.stop()
    job.wait()


def archive_stale(folder: Path, inputs_hash: str) -> bool:
    """Move the files of an earlier attempt with other inputs into `stale-<time>/` of the stage's folder.

    With equal inputs everything stays, so that a training resumes from its newest checkpoint. Stages of a
    pipeline inside the folder stay too: each has its own inputs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    previous = read_json(folder / "params.json", {}).get("inputs_hash")
    if previous in (None, inputs_hash):
        return False
    archive = folder / f"stale-{time.strftime('%Y%m%d-%H%M%S')}"
    archive.mkdir(exist_ok=True)
    for entry in folder.iterdir():
        is_stage = (entry / "params.json").exists()
        if entry.name not in CURRENT_FILES and not entry.name.startswith("stale-") and not is_stage:
            os.replace(entry, archive / entry.name)
    print(f"the inputs of {folder.name} changed: it starts again; the earlier attempt is in {archive.name}/")
    return True
