"""Results of earlier stages: find one that was made with the same inputs, or run the stage that makes it.

A result is looked for in its own folder, then in the runs, newest first. Equal inputs have equal hashes, for
lessons and for stages of pipeline.yaml alike, so neither the run nor the name of a stage matters.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from r1kit.pipeline import lineage
from r1kit.pipeline.open_run import settings_of, source_of
from r1kit.pipeline.stages import StageSpec, lesson_hash
from r1kit.runs import folder as runs
from r1kit.runs import results
from r1kit.runs.files import read_json
from r1kit.runs.launch import supervise

OF_THIS_ATTEMPT = {"notebook.ipynb", "status.json"}
"""Files of the attempt now being made; everything else in a stage's folder is the previous attempt's."""


def has_result(folder: Path, inputs_hash: str) -> bool:
    """Return whether the folder holds a result that was made with these inputs."""
    result = results.read_result(folder)
    return result is not None and result["inputs_hash"] == inputs_hash


def find(own: Path, inputs_hash: str) -> Path | None:
    """Return the folder with the result of these inputs: `own`, else in the newest run that has one."""
    if has_result(own, inputs_hash):
        return own
    folders = (folder for run in runs.list_runs() for folder in results.stage_folders(run))
    return next((folder for folder in folders if has_result(folder, inputs_hash)), None)


def find_or_run(run: runs.Run, spec: StageSpec, pipeline: str = "") -> Path:
    """Return the folder with the result of a lesson: this run's, else the newest equal one, else made now.

    Args:
        pipeline: `spec` has the settings of this pipeline, which may not be the run's; then another run
            makes it.

    Raises:
        JobFailed: the lesson had to be run and failed; the message says where its log is.
    """
    folder = find(run.path / spec.name, spec.inputs_hash)
    if folder is None:
        manifest, where, wanted = run.manifest, ["--resume", run.run_id], "with these settings"
        source = source_of(spec.profile)
        if pipeline:
            own = settings_of(source, manifest["overrides"], manifest.get("pipeline"))
            if lesson_hash(spec.name, own) != spec.inputs_hash:
                changes = [f"--set={key}={json.dumps(value)}" for key, value in manifest["overrides"].items()]
                where = ["--profile", source, "--pipeline", pipeline, *changes]
                wanted = f"as {pipeline} wants it"
        print(f"{spec.name} has not been run {wanted}: running it first", flush=True)
        run_first(run, spec, where)
        folder = find(run.path / spec.name, spec.inputs_hash) or run.stage(spec.name)
    maker, _ = lineage.identity(folder)
    if maker != run.run_id:
        print(f"{spec.name} comes from run {maker}, which made it with the same settings")
        run.update_manifest(borrowed={spec.name: maker})
    return folder


def run_first(run: runs.Run, spec: StageSpec, where: Sequence[str]) -> None:
    """Run a lesson headlessly, supervised, and echo what it prints.

    Args:
        where: options of `r1kit run` that say which run.

    Raises:
        JobFailed: it did not complete; what the stage itself left behind says why.
    """
    folder = run.path / "before" / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "r1kit", "run", *where, "--stages", spec.name]
    grace = spec.profile.machine.grace_seconds + 30
    job = supervise(command, folder, name=f"stage {spec.name}", grace=grace)
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


def set_stale_aside(folder: Path, inputs_hash: str) -> bool:
    """Move what an earlier attempt with other inputs left in the stage's folder into `stale-<time>/`.

    With equal inputs everything stays, so that a training resumes from its newest checkpoint. Stages of a
    pipeline inside the folder stay too: each has inputs of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = read_json(folder / "params.json", {}).get("inputs_hash")
    if before in (None, inputs_hash):
        return False
    aside = folder / f"stale-{time.strftime('%Y%m%d-%H%M%S')}"
    aside.mkdir(exist_ok=True)
    for entry in folder.iterdir():
        inner = (entry / "params.json").exists()
        if entry.name not in OF_THIS_ATTEMPT and not entry.name.startswith("stale-") and not inner:
            os.replace(entry, aside / entry.name)
    print(f"the inputs of {folder.name} changed: it starts again; the earlier attempt is in {aside.name}/")
    return True
