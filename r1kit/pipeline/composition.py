"""A composed training in a notebook: its plan, its stages as supervised jobs, its results.

    pipeline = run.pipeline("r1")
    await pipeline.run(watch=r1kit.watch)

Every stage is a folder `06_pipeline/<name>/` with the files of any stage; `result.json` comes last. What is
done with equal inputs is not done again, in this run or in any other; what was cut short goes on from its
newest checkpoint. A pipeline drawn beside the notebook's own has folders `<pipeline>.<name>`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.server_sampler import answering_machine
from r1kit.pipeline import lineage, opening, prerequisites
from r1kit.pipeline.composed import ComposedStage, compose
from r1kit.pipeline.composed_job import inputs_of, launch_stage
from r1kit.pipeline.stages import COMPOSED, DEFAULT_PIPELINE, STAGES
from r1kit.runs import folder as runs
from r1kit.runs import results, status
from r1kit.runs.files import read_json
from r1kit.runs.launch import Job
from r1kit.settings.composed import pipeline_of, pipeline_profile
from r1kit.settings.pipelines import GIVEN

if TYPE_CHECKING:
    import pandas as pd

    from r1kit.pipeline.stage import Stage


class Composition:
    """A pipeline of an open stage. `stages` are its composed stages by name, `about` what it shows."""

    def __init__(self, opened: Stage, name: str):
        source, overrides = opening.source_of(opened.settings), opened.run.manifest["overrides"]
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
            lines.append(f"  {stage.name:12} {stage.kind:19} {self.state(stage.name):18} {inputs}")
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

    def label(self, name: str) -> str:
        """What a stage is called in its run: `06_pipeline/final`."""
        return f"{COMPOSED}/{self.prefix}{name}"

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
        """Start a stage's program, supervised, and return at once; `result.json` follows its good end.

        Where machine.yaml has a server, a GRPO stage that generates through it needs one before:
        `await run.serve(model).ready()`. `run` does that by itself.

        Raises:
            FileNotFoundError: a stage that it stands on is not done.
        """
        stage, folder = self.stages[name], self._own(name)
        inputs_of(self, stage)
        prerequisites.set_stale_aside(folder, stage.inputs_hash)
        return launch_stage(self, stage, folder)

    def answers(self) -> dict[str, pd.DataFrame]:
        """The judged answers of every checkpoint that the pipeline's evaluations asked, by its name."""
        from r1kit.evaluation import load_results

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
            self.opened.run.update_manifest(borrowed={self.label(name): f"{run}/{stage}"})
        return state

    async def _serve(self, stage: ComposedStage) -> Any:
        """The profile's server with the stage's model, ready; None where there is no use for one."""
        machine = stage.profile.machine
        if stage.kind in ("rejection_sampling", "pass_rate"):
            longest = stage.profile.data.max_prompt_length + stage.settings.max_new_tokens
            machine = answering_machine(machine, longest)
        elif stage.kind != "grpo" or not stage.profile.grpo.trl.get("use_vllm"):
            return None
        if machine is None or machine.server is None:
            return None
        return await self.opened.serve(Path(inputs_of(self, stage)["model"]), machine).ready()


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
