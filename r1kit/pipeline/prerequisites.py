"""What a stage stands on: its run, the results of earlier stages, and whether those still match the settings.

A notebook may be run alone. What it needs is then taken from the same run, else from the newest run that made
it with the same inputs, else made now by running the earlier notebook.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.machine import detect_device
from r1kit.pipeline.real_data import base_model
from r1kit.pipeline.stages import STAGES, StageSpec, lacks
from r1kit.runs import folder as runs
from r1kit.runs import results
from r1kit.runs.files import read_json
from r1kit.runs.launch import supervise
from r1kit.sandbox import report
from r1kit.settings import Problem, Profile, SettingsError, load_profile, settings_hash
from r1kit.settings.errors import display_path
from r1kit.settings.models import DataSettings
from r1kit.settings.profile import CONFIG_ROOT

if TYPE_CHECKING:
    from r1kit.pipeline.stage import Stage

# Files of the attempt now being made; everything else in a stage's folder belongs to the one before it.
OF_THIS_ATTEMPT = {"notebook.ipynb", "status.json"}


def new_run(
    profile: str, overrides: dict[str, Any], run_id: str | None = None, stages: Sequence[str] = ()
) -> tuple[runs.Run, Profile]:
    """Check the settings, then create a run folder whose manifest records them and the device.

    Args:
        stages: what will be run, so that a profile which cannot run them is refused now.

    Raises:
        SettingsError: before anything is created.
        RunError: `run_id` is malformed or taken.
    """
    settings = load_profile(profile, overrides)
    refuse_what_it_has_no_settings_for(settings, stages)
    device, reason = detect_device()
    trainers = {"base": settings.base, "sft": settings.sft, "grpo": settings.grpo}
    seeds = {"data": settings.data.seed, "evaluation": settings.evaluation.seed}
    seeds |= {name: section.trl.get("seed", 42) for name, section in trainers.items() if section}
    run = runs.create_run(
        settings.name,
        argv=sys.argv,
        seeds=seeds,
        run_id=run_id,
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
    settings = load_profile(profile or run.manifest["profile_source"], run.manifest["overrides"] | overrides)
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


def is_done(run: runs.Run, spec: StageSpec, settings: Profile) -> bool:
    """True where the run holds a result of this stage that was made with the inputs it would have now."""
    result = results.read_result(run.stage(spec.name))
    return result is not None and result["inputs_hash"] == inputs_hash(spec, settings)


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


def run_first(run: runs.Run, stage_name: str, settings: Profile) -> None:
    """Run an earlier stage of this run headlessly, supervised, and echo what it prints.

    Raises:
        JobFailed: it did not complete; what the stage itself left behind says why.
    """
    folder = run.path / "before" / stage_name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "r1kit", "run", "--resume", run.run_id, "--stages", stage_name]
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

    With equal inputs everything stays, so that a training goes on from its newest checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = read_json(folder / "params.json", {}).get("inputs_hash")
    if before in (None, new_hash):
        return False
    aside = folder / f"stale-{time.strftime('%Y%m%d-%H%M%S')}"
    aside.mkdir(exist_ok=True)
    for entry in folder.iterdir():
        if entry.name not in OF_THIS_ATTEMPT and not entry.name.startswith("stale-"):
            os.replace(entry, aside / entry.name)
    print(f"the inputs of {folder.name} changed: it starts again; the earlier attempt lies in {aside.name}/")
    return True


def resolved(job_folder: Path, opened: Stage, settings: Profile, extra: dict[str, Path]) -> dict[str, Any]:
    """What a training program reads: the whole profile, and its inputs as paths relative to its folder."""
    inputs: dict[str, str] = {}
    for folder in opened.sources.values():
        artifacts = results.read_result(folder)["artifacts"]
        inputs |= {label: os.path.relpath(folder / path, job_folder) for label, path in artifacts.items()}
    section = settings.dump().get(opened.spec.sections[0], {})
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
