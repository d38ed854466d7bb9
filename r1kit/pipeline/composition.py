"""A composed training in a notebook: its plan, its stages as supervised jobs, its results.

    pipeline = run.pipeline("r1")
    await pipeline.run(watch=r1kit.watch)

Every stage is a folder `06_pipeline/<name>/` with the files of any stage; `result.json` comes last. What is done
with equal inputs is not done again, in this run or in any other; what was cut short goes on from its newest
checkpoint. A pipeline drawn beside the notebook's own has folders `<pipeline>.<name>`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.pipeline import lineage, prerequisites
from r1kit.pipeline.composed import ComposedStage, compose
from r1kit.pipeline.composed_results import artifacts_of, metrics_of, pass_at_1_of
from r1kit.pipeline.devices import device_mask
from r1kit.pipeline.stages import COMPOSED, DEFAULT_PIPELINE, STAGES
from r1kit.runs import folder as runs
from r1kit.runs import results, status
from r1kit.runs.files import read_json, write_json_atomic, write_text_atomic
from r1kit.runs.launch import Job, launch
from r1kit.settings import yaml_dump
from r1kit.settings.composed import base_of, pipeline_of, pipeline_profile
from r1kit.settings.pipelines import GIVEN

if TYPE_CHECKING:
    import pandas as pd

    from r1kit.pipeline.stage import Stage

PROGRAMS = {
    "sft": "r1kit.training.sft",
    "grpo": "r1kit.training.grpo",
    "rejection_sampling": "r1kit.evaluation.rejection_sampling",
    "merge_data": "r1kit.training.merge_data",
    "evaluate": "r1kit.evaluation.checkpoints",
}
TRAININGS = ("sft", "grpo")
"""Kinds that `accelerate launch` starts in several processes; the others run in one."""


class Composition:
    """A pipeline of an open stage. `stages` are its composed stages by name, `about` what it shows."""

    def __init__(self, opened: Stage, name: str):
        source, overrides = prerequisites.source_of(opened.settings), opened.run.manifest["overrides"]
        self.opened, self.name = opened, name
        self.stages = {stage.name: stage for stage in compose(source, overrides, name)}
        self.profile = pipeline_profile(source, overrides, name)
        self.about = pipeline_of(self.profile, name).about
        own = opened.params.get("PIPELINE") or DEFAULT_PIPELINE
        self.prefix = "" if name == own else f"{name}."
        self.data = prerequisites.provide_for(opened.run, STAGES["01_data"], self.profile, name)
        self._elsewhere: dict[str, Path | None] = {}

    def __str__(self) -> str:
        """The plan: every stage, what it stands on, and what is left to do."""
        lines = [f"{self.name}: {self.about}"]
        for stage in self.stages.values():
            inputs = " + ".join(dict.fromkeys(stage.inputs.values()))
            lines.append(f"  {stage.name:12} {stage.kind:19} {inputs:34} {self.state(stage.name)}")
        return "\n".join(lines)

    def state(self, name: str) -> str:
        """What is left of a stage: `done`, `done in run X`, `goes on at step 40`, `to do`."""
        own, found = self._own(name), self._finished(name)
        if found is not None:
            return "done" if found == own else f"done in run {lineage.identity(found)[0]}"
        equal = read_json(own / "params.json", {}).get("inputs_hash") == self.stages[name].inputs_hash
        step = results.newest_step(own) if equal else 0
        return f"goes on at step {step}" if step else "to do"

    def folder(self, name: str) -> Path:
        """Where a stage's files are, or will be: in this run, or in the one that made it before."""
        return self._finished(name) or self._own(name)

    def artifact(self, name: str, artifact: str = "model") -> Path:
        """What a stage made, or the data stage: `artifact("final")`, `artifact("traces", "traces")`.

        Raises:
            FileNotFoundError: the stage is not done.
        """
        folder = self.data if name in (*GIVEN, "heldout", "tokenizer") else self._finished(name)
        if folder is None:
            raise FileNotFoundError(f"the stage {name} of {self.name} is not done: {self._own(name)}")
        return folder / results.read_result(folder)["artifacts"][artifact]

    async def run(self, watch: Callable[[Job], Awaitable[None]] | None = None) -> None:
        """Run what is not done yet, in order; each stage's end is a line.

        Args:
            watch: shows a job while it runs, `r1kit.watch`; by default nothing does.

        Raises:
            JobFailed: a stage failed; run again, and it goes on there.
        """
        for position, stage in enumerate(self.stages.values(), start=1):
            where = f"{self.prefix}{stage.name} ({position} of {len(self.stages)})"
            if self._finished(stage.name) is not None:
                print(f"{where}: {self._borrowed(stage.name)}", flush=True)
                continue
            status.update(self.opened.folder, message=f"{where}: {stage.kind}")
            server = await self._serve(stage)
            try:
                job = self.start(stage.name)
                await (watch(job) if watch else job.finished())
            except BaseException as error:
                stopped = isinstance(error, (asyncio.CancelledError, KeyboardInterrupt))
                state = "interrupted" if stopped else "failed"
                message = getattr(error, "message", None) or str(error) or type(error).__name__
                status.update(self._own(stage.name), state=state, message=message)
                raise
            finally:
                if server is not None:
                    server.stop()
                    self.opened.server = None
            took = results.read_result(self._own(stage.name))["seconds"]
            print(f"{where}: done in {took:.0f} s", flush=True)

    def start(self, name: str) -> Job:
        """Start a stage's program under a supervisor and return at once; its result is written when it ends well.

        Where machine.yaml has a server, a GRPO stage needs one: `await run.serve(model).ready()` before, which
        `run` does by itself.

        Raises:
            FileNotFoundError: a stage that it stands on is not done.
        """
        stage, folder, opened = self.stages[name], self._own(name), self.opened
        inputs = self.inputs(stage)
        prerequisites.set_stale_aside(folder, stage.inputs_hash)
        about = {"kind": stage.kind, "pipeline": self.name, "position": list(self.stages).index(name)}
        told = stage.parameters()
        write_json_atomic(
            folder / "params.json", {"inputs_hash": stage.inputs_hash, **about, "parameters": told}
        )
        heading = {"profile": stage.profile.name, "stage": self._label(name), "run_id": opened.run.run_id}
        relative = {role: self._relative(path, folder) for role, path in inputs.items()}
        resolved = heading | {"inputs": relative, "parameters": told} | stage.profile.dump()
        write_text_atomic(folder / "resolved.yaml", yaml_dump(resolved))
        training = stage.kind in TRAININGS
        if training:
            write_text_atomic(folder / "accelerate.yaml", stage.profile.accelerate_yaml(stage.kind))
        status.update(folder, state="running")
        machine = stage.profile.machine
        job = launch(
            PROGRAMS[stage.kind],
            folder,
            environment=machine.environment | device_mask(stage.profile, stage.kind),
            grace=machine.grace_seconds,
            accelerate=training,
        )
        job.after = lambda: self._record(name)
        opened.jobs.append(job)
        return job

    def inputs(self, stage: ComposedStage) -> dict[str, Path | str]:
        """The paths that a stage's program reads; a given model is its name on the hub."""
        given = results.read_result(self.data)["artifacts"]
        found: dict[str, Path | str] = {
            name: self.data / path for name, path in given.items() if name in ("tokenizer", "heldout")
        }
        for role, source in stage.inputs.items():
            if source == "base" and "model" not in given:
                found[role] = base_of(self.profile)
            elif source in GIVEN:
                found[role] = self.data / given["model" if source == "base" else source]
            else:
                makes = "model" if self.stages[source].kind in TRAININGS else "data"
                found[role] = self.artifact(source, makes)
        server = self.opened.server
        if stage.kind in ("grpo", "rejection_sampling") and getattr(server, "job", None) is not None:
            found["server"] = server.folder
        return found

    def answers(self) -> dict[str, pd.DataFrame]:
        """The judged answers of every checkpoint that the pipeline's evaluations asked, by its name."""
        from r1kit.evaluation.evaluate import load_results

        asked = [stage for stage in self.stages.values() if stage.kind == "evaluate"]
        return {
            name: load_results(self.artifact(stage.name, name)) for stage in asked for name in stage.inputs
        }

    def table(self) -> pd.DataFrame:
        """pass@1 by level after each stage, with 95% intervals: `r1kit.evaluation.table` of `answers`."""
        from r1kit.evaluation import table

        return table(self.answers(), self.profile.evaluation.levels, self.profile.evaluation.k)

    def scores(self) -> dict[str, dict[str, float]]:
        """The headline pass@1 of each checkpoint, as summary.json has it, in order of training."""
        asked = [stage for stage in self.stages.values() if stage.kind == "evaluate"]
        return {
            f"{self.prefix}{name}": entry
            for stage in asked
            for name, entry in results.read_result(self.folder(stage.name))["pass@1"].items()
        }

    def lineage(self) -> list[dict[str, Any]]:
        """The pipeline's finished stages and what they stand on (see `lineage.family`), ancestors first."""
        done = filter(None, map(self._finished, self.stages))
        return lineage.ancestry([self.data, *done])

    def _own(self, name: str) -> Path:
        return self.opened.folder / f"{self.prefix}{name}"

    def _label(self, name: str) -> str:
        return f"{COMPOSED}/{self.prefix}{name}"

    def _relative(self, path: Path | str, folder: Path) -> str:
        return os.path.relpath(path, folder) if isinstance(path, Path) else path

    def _finished(self, name: str) -> Path | None:
        """The folder of a stage that is done with these inputs: here, else in the newest run that has it."""
        digest = self.stages[name].inputs_hash
        if has(self._own(name), digest):
            return self._own(name)
        if name not in self._elsewhere:
            self._elsewhere[name] = made_before(digest)
        return self._elsewhere[name]

    def _borrowed(self, name: str) -> str:
        state = self.state(name)
        if state != "done":
            run, stage = lineage.identity(self._finished(name))
            self.opened.run.update_manifest(borrowed={self._label(name): f"{run}/{stage}"})
        return state

    async def _serve(self, stage: ComposedStage) -> Any:
        """The profile's server with the stage's model, ready; None where the stage or the profile has none."""
        wants = stage.kind == "rejection_sampling" or (
            stage.kind == "grpo" and stage.profile.grpo.trl.get("use_vllm")
        )
        if not wants or stage.profile.machine.server is None:
            return None
        return await self.opened.serve(Path(self.inputs(stage)["model"])).ready()

    def _record(self, name: str) -> None:
        """Write a stage's result.json, last of all."""
        stage, folder = self.stages[name], self._own(name)
        artifacts = artifacts_of(stage, folder)
        started = status.read(folder).get("started")
        parents = [self._parent(role, source) for role, source in stage.inputs.items()]
        results.write_result(
            folder,
            stage=self._label(name),
            seconds=time.time() - started,
            inputs_hash=stage.inputs_hash,
            metrics=metrics_of(stage, folder),
            artifacts=artifacts,
            pass_at_1=pass_at_1_of(stage, folder),
            origin=lineage.origin(stage.kind, folder, artifacts, parents, stage.profile),
        )

    def _parent(self, role: str, source: str) -> dict[str, Any]:
        if source not in GIVEN:
            makes = "model" if self.stages[source].kind in TRAININGS else "data"
            return lineage.parent(role, self.folder(source), makes)
        if source == "base" and self.profile.base is None:
            return {"as": role, "run": None, "stage": base_of(self.profile), "artifact": "model"}
        return lineage.parent(role, self.data, "model" if source == "base" else source)


def has(folder: Path, digest: str) -> bool:
    """Whether the folder holds a result that was made with these inputs."""
    result = results.read_result(folder)
    return result is not None and result["inputs_hash"] == digest


def made_before(digest: str) -> Path | None:
    """The composed stage with these inputs in the newest run that has one."""
    for run in runs.list_runs():
        for folder in results.stage_folders(run):
            if folder.parent.name == COMPOSED and has(folder, digest):
                return folder
    return None
