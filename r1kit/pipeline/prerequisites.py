"""What a stage stands on: its run, the results of earlier stages, and whether those still match the settings.

A notebook may be run alone. What it needs is then taken from the same run, else from the newest run that made
it with the same inputs, else made now by running the earlier notebook.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.machine import detect_device
from r1kit.pipeline.real_data import base_model
from r1kit.pipeline.stages import DEFAULT_PIPELINE, STAGES, StageSpec, lacks
from r1kit.runs import folder as runs
from r1kit.runs import results
from r1kit.runs.files import read_json
from r1kit.runs.launch import supervise
from r1kit.sandbox import report
from r1kit.settings import Problem, Profile, SettingsError, load_profile, settings_hash
from r1kit.settings.composed import pipeline_profile
from r1kit.settings.errors import display_path
from r1kit.settings.profile import CONFIG_ROOT
from r1kit.settings.story_data import DataSettings

if TYPE_CHECKING:
    from r1kit.pipeline.stage import Stage

# Files of the attempt now being made; everything else in a stage's folder belongs to the one before it.
OF_THIS_ATTEMPT = {"notebook.ipynb", "status.json"}


def new_run(
    profile: str,
    overrides: dict[str, Any],
    run_id: str | None = None,
    stages: Sequence[str] = (),
    pipeline: str | None = None,
) -> tuple[runs.Run, Profile]:
    """Check the settings, then create a run folder whose manifest records them and the device.

    Args:
        stages: what will be run, so that a profile which cannot run them is refused now.
        pipeline: the composed training that the run is for; its `set` is in effect in all stages.

    Raises:
        SettingsError: before anything is created.
        RunError: `run_id` is malformed or taken.
    """
    settings = settings_of(profile, overrides, pipeline)
    refuse_what_it_has_no_settings_for(settings, stages)
    if pipeline:
        from r1kit.pipeline.composed import compose  # it stands on this module

        compose(profile, overrides, pipeline)
    device, reason = detect_device()
    trainers = {"base": settings.base, "sft": settings.sft, "grpo": settings.grpo}
    seeds = {"data": settings.data.seed, "evaluation": settings.evaluation.seed}
    seeds |= {name: section.trl.get("seed", 42) for name, section in trainers.items() if section}
    run = runs.create_run(
        settings.name,
        argv=sys.argv,
        seeds=seeds,
        run_id=run_id,
        pipeline=pipeline,
        overrides=overrides,
        devices=[{"device": device, "reason": reason}],
    )
    run.update_manifest(profile_source=source_of(settings), sandbox=report.record(settings.machine.sandbox))
    return run, settings


def reopen_run(run_id: str, profile: str, overrides: dict[str, Any]) -> tuple[runs.Run, Profile]:
    """An existing run and its settings: those it was started with, and `overrides` on top, which it keeps.

    Args:
        profile: empty for the run's own.

    Raises:
        RunError: there is no such run.
        SettingsError: bad settings, or the profile is not the run's.
    """
    run = runs.open_run(run_id)
    source = profile or run.manifest["profile_source"]
    settings = settings_of(source, run.manifest["overrides"] | overrides, run.manifest.get("pipeline"))
    if settings.name != run.manifest["profile"]:
        raise SettingsError(
            [
                Problem(
                    file=f"run {run.run_id}",
                    key="PROFILE",
                    found=settings.name,
                    allowed=run.manifest["profile"],
                    message="A run keeps the profile that it was started under.",
                )
            ]
        )
    run.update_manifest(overrides=overrides)
    return run, settings


def settings_of(source: str, overrides: dict[str, Any], pipeline: str | None) -> Profile:
    """The settings of a run's stages: those of the profile, changed as its pipeline says, if it has one."""
    return pipeline_profile(source, overrides, pipeline) if pipeline else load_profile(source, overrides)


def refuse_what_it_has_no_settings_for(settings: Profile, stages: Sequence[str]) -> None:
    """A stage that requires a part of the settings would otherwise stop in its middle, after hours perhaps.

    Raises:
        SettingsError: the profile leaves that part out.
    """
    for name in stages:
        if lacks(STAGES[name], settings):
            section, _, key = STAGES[name].requires.partition(".")
            others = ",".join(other for other in stages if not lacks(STAGES[other], settings))
            message = f"{name} cannot run without it."
            message += f" Leave that stage out: --stages {others}." if others else ""
            allowed = f"a section as in configs/cpu-tiny/{section}.yaml"
            file = display_path(settings.folder / f"{section}.yaml")
            raise SettingsError([Problem(file, key, "nothing", allowed, message=message)])


def source_of(settings: Profile) -> str:
    """What to give as PROFILE to load these settings again: the name of a shipped profile, else its path."""
    return settings.name if settings.folder.parent == CONFIG_ROOT else str(settings.folder)


def inputs_hash(spec: StageSpec, settings: Profile) -> str:
    """A hash of all that decides a stage's result: the settings that it and the stages before it read."""
    sections = {name: value for name, value in settings.dump().items() if name in spec.sections}
    if "data" in sections and not isinstance(settings.data, DataSettings):
        sections["model"] = base_model(settings)  # its tokenizer decides which prompts are too long
    upstream = {need: inputs_hash(STAGES[need], settings) for need in spec.needs}
    return settings_hash({"stage": spec.name, "settings": sections, "upstream": upstream})


def hash_in(run: runs.Run, spec: StageSpec, settings: Profile, pipeline: str | None = None) -> str:
    """`inputs_hash` of a stage of this run; that of the composed stage holds the whole pipeline's.

    Args:
        pipeline: which; by default the run's own.
    """
    if not spec.composed:
        return inputs_hash(spec, settings)
    from r1kit.pipeline.composed import pipeline_hash  # it stands on this module

    name = pipeline or run.manifest.get("pipeline") or DEFAULT_PIPELINE
    return pipeline_hash(source_of(settings), run.manifest["overrides"], name)


def is_done(run: runs.Run, spec: StageSpec, settings: Profile) -> bool:
    """True where the run holds a result of this stage that was made with the inputs it would have now."""
    result = results.read_result(run.stage(spec.name))
    return result is not None and result["inputs_hash"] == hash_in(run, spec, settings)


def provide(run: runs.Run, spec: StageSpec, settings: Profile) -> Path:
    """The folder with the result of an earlier stage: this run's, else the newest equal one, else made now.

    Raises:
        JobFailed: the earlier stage had to be run and failed; the message says where its log is.
    """
    if is_done(run, spec, settings):
        return run.stage(spec.name)
    for other in runs.list_runs():
        if other.run_id != run.run_id and is_done(other, spec, settings):
            print(f"{spec.name} comes from run {other.run_id}, which made it with the same settings")
            run.update_manifest(borrowed={spec.name: other.run_id})
            return other.stage(spec.name)
    print(f"{spec.name} has not been run with these settings: running it first", flush=True)
    run_first(run, spec.name, settings)
    return run.stage(spec.name)


def provide_for(run: runs.Run, spec: StageSpec, settings: Profile, pipeline: str) -> Path:
    """As `provide`, with the settings of a pipeline that may not be the run's: then another run makes it.

    Raises:
        JobFailed: the stage had to be run and failed.
    """
    manifest = run.manifest
    own = settings_of(source_of(settings), manifest["overrides"], manifest.get("pipeline"))
    found = next((other for other in runs.list_runs() if is_done(other, spec, settings)), None)
    if found is None and inputs_hash(spec, own) != inputs_hash(spec, settings):
        print(f"{spec.name} has not been run as {pipeline} wants it: running it first", flush=True)
        changes = [f"--set={key}={json.dumps(value)}" for key, value in manifest["overrides"].items()]
        beside = ["--profile", source_of(settings), "--pipeline", pipeline, *changes]
        run_first(run, spec.name, settings, beside)
    return provide(run, spec, settings)


def run_first(run: runs.Run, stage_name: str, settings: Profile, where: Sequence[str] = ()) -> None:
    """Run an earlier stage of this run headlessly, supervised, and echo what it prints.

    Args:
        where: options of `r1kit run` that say which run; by default this one.

    Raises:
        JobFailed: it did not complete; what the stage itself left behind says why.
    """
    folder = run.path / "before" / stage_name
    folder.mkdir(parents=True, exist_ok=True)
    where = where or ["--resume", run.run_id]
    command = [sys.executable, "-m", "r1kit", "run", *where, "--stages", stage_name]
    job = supervise(command, folder, name=f"stage {stage_name}", grace=settings.machine.grace_seconds + 30)
    log, seen = folder / "train.log", job.log_offset
    try:
        while True:
            ended = job.poll() is not None
            text = log.read_text(errors="replace")[seen:] if log.exists() else ""
            print(text, end="", flush=True)
            seen += len(text)
            if ended:
                break
            time.sleep(0.5)
    finally:
        job.stop()
    job.wait()


def set_stale_aside(folder: Path, new_hash: str) -> bool:
    """Move what an earlier attempt with other inputs left in the stage's folder into `stale-<time>/`.

    With equal inputs everything stays, so that a training goes on from its newest checkpoint. Composed stages
    inside stay too: each has inputs of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = read_json(folder / "params.json", {}).get("inputs_hash")
    if before in (None, new_hash):
        return False
    aside = folder / f"stale-{time.strftime('%Y%m%d-%H%M%S')}"
    aside.mkdir(exist_ok=True)
    for entry in folder.iterdir():
        composed = (entry / "params.json").exists()
        if entry.name not in OF_THIS_ATTEMPT and not entry.name.startswith("stale-") and not composed:
            os.replace(entry, aside / entry.name)
    print(f"the inputs of {folder.name} changed: it starts again; the earlier attempt lies in {aside.name}/")
    return True


def resolved(job_folder: Path, opened: Stage, settings: Profile, extra: dict[str, Path]) -> dict[str, Any]:
    """What a training program reads: the whole profile, and its inputs as paths relative to its folder."""
    inputs: dict[str, str] = {}
    for folder in opened.sources.values():
        artifacts = results.read_result(folder)["artifacts"]
        inputs |= {label: os.path.relpath(folder / path, job_folder) for label, path in artifacts.items()}
    section = settings.dump().get(next(iter(opened.spec.sections), ""), {})
    model = section.get("model_name_or_path")
    if model in opened.sources:
        folder = opened.sources[model]
        inputs["model"] = os.path.relpath(
            folder / results.read_result(folder)["artifacts"]["model"], job_folder
        )
    elif model:
        inputs["model"] = model
    inputs |= {label: os.path.relpath(path, job_folder) for label, path in extra.items()}
    heading = {"profile": settings.name, "stage": opened.name, "run_id": opened.run.run_id}
    return heading | {"inputs": inputs} | settings.dump()
