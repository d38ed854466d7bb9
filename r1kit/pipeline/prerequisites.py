"""What a stage stands on: its run, the results of earlier stages, and whether those still match the settings.

A notebook may be run alone. What it needs is then taken from the same run, else from the newest run that made it with the same
inputs, else made now by running the earlier notebook.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.machine import detect_device
from r1kit.pipeline.stages import STAGES, StageSpec
from r1kit.runs import folder as runs
from r1kit.runs import results
from r1kit.runs.files import read_json
from r1kit.settings.profile import CONFIG_ROOT
from r1kit.settings import Problem, Profile, SettingsError, settings_hash

if TYPE_CHECKING:
    from r1kit.pipeline.stage import Stage

# Files that describe the attempt now being made; everything else in a stage's folder belongs to the attempt before it.
OF_THIS_ATTEMPT = {"notebook.ipynb", "status.json"}


def new_run(settings: Profile, overrides: dict[str, Any], run_id: str | None = None) -> runs.Run:
    """Create a run folder for the profile; the manifest records overrides and the device."""
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
    run.update_manifest(profile_source=source_of(settings))
    return run


def source_of(settings: Profile) -> str:
    """What to give as PROFILE to load these settings again: the name of a shipped profile, else its path."""
    return settings.name if settings.folder.parent == CONFIG_ROOT else str(settings.folder)


def require_same_profile(run: runs.Run, settings: Profile) -> None:
    """Refuse to go on in a run that was started under another profile.

    Raises:
        SettingsError: naming both profiles.
    """
    started_under = run.manifest["profile"]
    if started_under != settings.name:
        raise SettingsError(
            [
                Problem(
                    file="notebook parameters",
                    key="PROFILE",
                    found=settings.name,
                    allowed=started_under,
                    message=f"run {run.run_id} was started under {started_under}; a run keeps its profile",
                )
            ]
        )


def inputs_hash(spec: StageSpec, settings: Profile) -> str:
    """A hash of all that decides a stage's result: the settings that it and the stages before it read."""
    sections = {name: value for name, value in settings.dump().items() if name in spec.sections}
    upstream = {need: inputs_hash(STAGES[need], settings) for need in spec.needs}
    return settings_hash({"stage": spec.name, "settings": sections, "upstream": upstream})


def is_done(run: runs.Run, spec: StageSpec, settings: Profile) -> bool:
    """True where the run holds a result of this stage that was made with the inputs it would have now."""
    result = results.read_result(run.stage(spec.name))
    return result is not None and result["inputs_hash"] == inputs_hash(spec, settings)


def provide(run: runs.Run, spec: StageSpec, settings: Profile) -> Path:
    """The folder with the result of an earlier stage: this run's, else the newest equal one, else made now.

    Raises:
        RuntimeError: the earlier stage had to be run and failed; the message says where its log is.
    """
    if is_done(run, spec, settings):
        return run.stage(spec.name)
    for other in runs.list_runs():
        if other.run_id != run.run_id and is_done(other, spec, settings):
            print(f"{spec.name} comes from run {other.run_id}, which made it with the same settings")
            run.update_manifest(borrowed={spec.name: other.run_id})
            return other.stage(spec.name)
    print(f"{spec.name} has not been run with these settings: running it first", flush=True)
    command = [sys.executable, "-m", "r1kit", "run", "--resume", run.run_id, "--stages", spec.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout or ():
                print(" ", line, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise RuntimeError(f"{spec.name} ended with exit code {process.returncode}; see {run.stage(spec.name)}")
    return run.stage(spec.name)


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
    """What a training program reads: the whole profile, and the paths of its inputs relative to its own folder."""
    inputs: dict[str, str] = {}
    for name, folder in opened.sources.items():
        artifacts = results.read_result(folder)["artifacts"]
        inputs |= {label: relative_path(folder / path, job_folder) for label, path in artifacts.items()}
    inputs |= {label: relative_path(path, job_folder) for label, path in extra.items()}
    section = settings.dump().get(opened.spec.sections[0], {})
    model = section.get("model_name_or_path")
    if model in opened.sources:
        folder = opened.sources[model]
        inputs["model"] = relative_path(folder / results.read_result(folder)["artifacts"]["model"], job_folder)
    elif model:
        inputs["model"] = model
    heading = {"profile": settings.name, "stage": opened.name, "run_id": opened.run.run_id}
    return heading | {"inputs": inputs} | settings.dump()


def relative_path(path: Path, start: Path) -> str:
    """`path` as seen from `start`, so that a moved runs folder still resolves."""
    return os.path.relpath(path, start)


def write_summary(run: runs.Run) -> None:
    """Bring summary.json up to date after a stage: completed once every stage that was asked for has its result.

    Until then the status is `interrupted`, which is what it will be if nothing more happens.
    """
    done = all(results.read_result(run.stage(name)) for name in run.manifest.get("stages", []))
    results.write_summary(run, "completed" if done else "interrupted")
