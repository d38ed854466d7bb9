"""A pipeline of pipeline.yaml in a notebook: its plan, its stages as supervised jobs, its results.

    pipeline = run.pipeline("r1")
    await pipeline.run(watch=r1kit.watch)

Every stage is a folder `06_pipeline/<name>/` with the files of any stage; `result.json` comes last. A stage
that was done with equal inputs, in this run or in any other, is not run again; one that was cut short resumes
from its newest checkpoint. A pipeline beside the notebook's own has folders `<pipeline>.<name>`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.server_sampler import answering_machine
from r1kit.pipeline import dependencies, lineage, open_run
from r1kit.pipeline.jobs import launch_program, record
from r1kit.pipeline.stages import DATA_STAGE, StageSpec, lesson_stage, model_folder, pipeline_stages
from r1kit.runs import jsonl as metrics_log
from r1kit.runs import results, status
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.folder import Run
from r1kit.runs.launch import Job
from r1kit.settings import Profile
from r1kit.settings.lessons import PIPELINE_STAGE
from r1kit.settings.pipelines import DATA_KINDS, GIVEN, PROMPT_KINDS
from r1kit.settings.profile import base_of, pipeline_of, pipeline_profile

if TYPE_CHECKING:
    import pandas as pd

ACCURACY, LENGTH = "rewards/accuracy_reward/mean", "completions/mean_length"


class Composition:
    """A pipeline in an open stage.

    Attributes:
        stages: its stages by name, in order.
        about: what it shows, in a sentence.
        profile: the settings under which all of it runs.
        data: the folder with the result of its data stage.
    """

    def __init__(
        self,
        name: str,
        own: str,
        run: Run,
        settings: Profile,
        folder: Path,
        jobs: list[Job],
        serve: Callable[..., Any],
    ):
        """Plan the pipeline `name`, and make its data if no run has them.

        Args:
            own: the notebook's own pipeline; others have folders with their name in front.
            folder: the stage's folder; each of the pipeline's stages is one in it.
            jobs: gets every job that is started.
            serve: starts the server of machine.yaml with a model: (model, machine) -> Server.
        """
        source, overrides = open_run.source_of(settings), run.manifest["overrides"]
        self.name, self.in_run, self.outer, self.jobs, self._serve = name, run, folder, jobs, serve
        self.stages = pipeline_stages(source, overrides, name)
        self.profile = pipeline_profile(source, overrides, name)
        self.about = pipeline_of(self.profile, name).about
        self.prefix = "" if name == own else f"{name}."
        self.data = dependencies.find_or_run(run, lesson_stage(DATA_STAGE, self.profile), name)
        self._elsewhere: dict[str, Path | None] = {}

    def __str__(self) -> str:
        """The plan: every stage, what it takes, and what is left to do."""
        lines = [f"{self.name}: {self.about}"]
        for stage in self.stages.values():
            inputs = " + ".join(dict.fromkeys(source for _, source, _ in stage.inputs))
            lines.append(f"  {stage.name:12} {stage.kind:19} {self.state(stage.name):18} {inputs}")
        return "\n".join(lines)

    def state(self, name: str) -> str:
        """Return what is left of a stage: `done`, `done in run X`, `goes on at step 40`, `to do`."""
        own, found = self._own(name), self._finished(name)
        if found is not None:
            return "done" if found == own else f"done in run {lineage.identity(found)[0]}"
        equal = read_json(own / "params.json", {}).get("inputs_hash") == self.stages[name].inputs_hash
        step = results.newest_step(own) if equal else 0
        return f"goes on at step {step}" if step else "to do"

    def folder(self, name: str) -> Path:
        """Return where a stage's files are, or will be: in this run, or in the one that made it before."""
        return self._finished(name) or self._own(name)

    def artifact(self, name: str, artifact: str = "model") -> Path:
        """Return what a stage made, or the data stage: `artifact("final")`, `artifact("traces", "traces")`.

        Raises:
            FileNotFoundError: the stage is not done.
        """
        folder = self.data if name in (*GIVEN, "heldout", "tokenizer") else self._finished(name)
        if folder is None:
            raise FileNotFoundError(f"the stage {name} of {self.name} is not done: {self._own(name)}")
        return folder / results.read_result(folder)["artifacts"][artifact]

    def label(self, name: str) -> str:
        """Return what a stage is called in its run: `06_pipeline/final`."""
        return f"{PIPELINE_STAGE}/{self.prefix}{name}"

    async def run(self, watch: Callable[[Job], Awaitable[None]] | None = None) -> None:
        """Run what is not done yet, in order, and print a line at each stage's end.

        Args:
            watch: shows a job while it runs, `r1kit.watch`; by default nothing does.

        Raises:
            JobFailed: a stage failed; run again, and it resumes there.
        """
        for position, stage in enumerate(self.stages.values(), start=1):
            where = f"{self.prefix}{stage.name} ({position} of {len(self.stages)})"
            if self._finished(stage.name) is not None:
                print(f"{where}: {self._borrowed(stage.name)}", flush=True)
                continue
            status.update(self.outer, message=f"{where}: {stage.kind}")
            server = await self._server_of(stage)
            try:
                job = self.start(stage.name, server)
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
            took = results.read_result(self._own(stage.name))["seconds"]
            print(f"{where}: done in {took:.0f} s", flush=True)

    def start(self, name: str, server: Any = None) -> Job:
        """Start a stage's program, supervised, and return at once; `result.json` follows its good end.

        Args:
            server: of `await run.serve(model).ready()`, for a stage that generates through it. `run` starts
                one where machine.yaml has one.

        Raises:
            FileNotFoundError: a stage that it takes something from is not done.
        """
        stage, folder, label = self.stages[name], self._own(name), self.label(name)
        inputs = self.inputs(name)
        if server is not None:
            inputs["server"] = server.folder
        dependencies.set_stale_aside(folder, stage.inputs_hash)
        params = {"inputs_hash": stage.inputs_hash, "kind": stage.kind, "pipeline": self.name}
        params |= {"position": list(self.stages).index(name), "parameters": stage.parameters}
        write_json_atomic(folder / "params.json", params)
        status.update(folder, state="running")
        heading = {"profile": stage.profile.name, "stage": label, "run_id": self.in_run.run_id}
        told = (stage.profile, stage.parameters)
        job = launch_program(stage.program, folder, heading, inputs, *told, trains=stage.trains)
        job.after = lambda: self._record(stage, folder)
        self.jobs.append(job)
        return job

    def inputs(self, name: str) -> dict[str, Path | str]:
        """Return the paths that a stage's program reads.

        A given model is its name on the hub for a training, which loads it by itself, else the hub's copy.

        Raises:
            FileNotFoundError: a stage that it takes something from is not done.
        """
        stage, given = self.stages[name], results.read_result(self.data)["artifacts"]
        found: dict[str, Path | str] = {
            shared: self.data / given[shared] for shared in ("tokenizer", "heldout") if shared in given
        }
        for role, source, artifact in stage.inputs:
            if source == "base" and "model" not in given:
                model = base_of(self.profile)
                found[role] = model if stage.trains else model_folder(model)
            else:
                found[role] = self.artifact(source, artifact)
        return found

    def answers(self) -> dict[str, pd.DataFrame]:
        """Return the judged answers of every checkpoint that the pipeline's evaluations asked, by name."""
        from r1kit.evaluation import load_results

        return {
            name: load_results(self.artifact(stage.name, name))
            for stage in self._evaluations()
            for name in stage.parameters["names"]
        }

    def table(self) -> pd.DataFrame:
        """Return pass@1 by level after each stage, with 95% intervals (`r1kit.evaluation.table`)."""
        from r1kit.evaluation import table

        return table(self.answers(), self.profile.evaluation.levels, self.profile.evaluation.k)

    def scores(self) -> dict[str, dict[str, float]]:
        """Return the headline pass@1 of each checkpoint, as summary.json has it, in order of training."""
        return {
            f"{self.prefix}{name}": entry
            for stage in self._evaluations()
            for name, entry in results.read_result(self.folder(stage.name))["pass@1"].items()
        }

    def lineage(self) -> list[dict[str, Any]]:
        """Return the pipeline's finished stages and all they come from (see `lineage.family`)."""
        done = filter(None, map(self._finished, self.stages))
        return lineage.ancestry([self.data, *done])

    def _own(self, name: str) -> Path:
        return self.outer / f"{self.prefix}{name}"

    def _evaluations(self) -> list[StageSpec]:
        return [stage for stage in self.stages.values() if stage.kind == "evaluate"]

    def _finished(self, name: str) -> Path | None:
        """The folder of a stage that is done with these inputs: here, else in the newest run that has it."""
        own, inputs_hash = self._own(name), self.stages[name].inputs_hash
        if dependencies.has_result(own, inputs_hash):
            return own
        if name not in self._elsewhere:
            self._elsewhere[name] = dependencies.find(own, inputs_hash)
        return self._elsewhere[name]

    def _borrowed(self, name: str) -> str:
        state = self.state(name)
        if state != "done":
            run, stage = lineage.identity(self._finished(name))
            self.in_run.update_manifest(borrowed={self.label(name): f"{run}/{stage}"})
        return state

    async def _server_of(self, stage: StageSpec) -> Any:
        """The profile's server with the stage's model, ready; None if the stage has no use for one."""
        machine = stage.profile.machine
        if stage.kind in ("rejection_sampling", "pass_rate"):
            longest = stage.profile.data.max_prompt_length + stage.settings.max_new_tokens
            machine = answering_machine(machine, longest)
        elif stage.kind != "grpo" or not stage.profile.grpo.trl.get("use_vllm"):
            return None
        if machine is None or machine.server is None:
            return None
        return await self._serve(Path(self.inputs(stage.name)["model"]), machine).ready()

    def _record(self, stage: StageSpec, folder: Path) -> None:
        """Write the stage's result.json."""
        given = "model" in results.read_result(self.data)["artifacts"]
        sources: dict[str, Path | str] = {}
        for _, source, _ in stage.inputs:
            if source == "base" and not given:
                sources[source] = base_of(self.profile)
            else:
                sources[source] = self.data if source in GIVEN else self.folder(source)
        result = {"metrics": metrics_of(stage, folder), "pass_at_1": pass_at_1_of(stage, folder)}
        result["seconds"] = time.time() - status.read(folder)["started"]
        record(stage, folder, self.label(stage.name), sources, artifacts_of(stage, folder), **result)


def artifacts_of(stage: StageSpec, folder: Path) -> dict[str, str]:
    """Return name -> path inside the folder of what the stage made."""
    if stage.kind == "evaluate":
        return {name: f"{name}.parquet" for name in stage.parameters["names"]}
    if not stage.trains:
        return {"data": "data"}
    rollouts = {"rollouts": "rollouts"} if (folder / "rollouts").is_dir() else {}
    return {"model": "model"} | rollouts


def metrics_of(stage: StageSpec, folder: Path) -> dict[str, float]:
    """Return numbers of the stage: the ends of its curves, or how many rows came from where."""
    if stage.kind in DATA_KINDS + PROMPT_KINDS:
        return read_json(folder / "counts.json", {})
    if stage.kind == "evaluate":
        from r1kit.evaluation import level_metrics, table

        how = stage.profile.evaluation
        return level_metrics(table(_answers(stage, folder), how.levels, how.k))
    rows = metrics_log.read(folder / "metrics.jsonl")
    found = {"steps": rows[-1]["step"]} if rows else {}
    names = {"loss": "loss"} if stage.kind == "sft" else {"accuracy": ACCURACY, "length": LENGTH}
    for name, key in names.items():
        values = [row[key] for row in rows if isinstance(row.get(key), (int, float))]
        if values:
            last = values[-3:]  # one batch is noise
            found |= {f"{name}_first": values[0], f"{name}_last": sum(last) / len(last)}
    return found


def pass_at_1_of(stage: StageSpec, folder: Path) -> dict[str, Mapping[str, float]] | None:
    """Return the headline pass@1 of every checkpoint that the stage asked; None for the other kinds."""
    if stage.kind != "evaluate":
        return None
    from r1kit.evaluation import pass1_entry

    levels = stage.profile.evaluation.levels
    return {name: pass1_entry(frame, levels) for name, frame in _answers(stage, folder).items()}


def _answers(stage: StageSpec, folder: Path) -> dict[str, Any]:
    from r1kit.evaluation import load_results

    return {name: load_results(folder / f"{name}.parquet") for name in stage.parameters["names"]}
