"""What a stage stands on: the results of earlier stages, and whether those still match the settings.

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

from r1kit.pipeline.opening import settings_of, source_of
from r1kit.pipeline.real_data import base_model
from r1kit.pipeline.stages import DEFAULT_PIPELINE, STAGES, StageSpec
from r1kit.runs import folder as runs
from r1kit.runs import results
from r1kit.runs.files import read_json
from r1kit.runs.launch import supervise
from r1kit.settings import Profile, settings_hash
from r1kit.settings.story_data import DataSettings

if TYPE_CHECKING:
    from r1kit.pipeline.stage import Stage

# Files of the attempt now being made; everything else in a stage's folder belongs to the one before it.
OF_THIS_ATTEMPT = {"notebook.ipynb", "status.json"}


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
