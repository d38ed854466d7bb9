"""A pipeline of pipeline.yaml in a notebook: its plan, its stages as supervised jobs, its results.

    pipeline = run.pipeline("r1")
    await pipeline.run(watch=r1kit.watch)

Each stage has a folder `06_pipeline/<name>/` with the files of any stage; `result.json` comes last. A stage
that already has a result with equal inputs, in this run or another, is not run again; an interrupted one
resumes from its newest checkpoint. A pipeline beside the notebook's own has folders `<pipeline>.<name>/`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.server_sampler import answering_machine
from r1kit.pipeline import lineage, open_run
from r1kit.pipeline.jobs import launch_program, record
from r1kit.pipeline.stages import DATA_STAGE, StageSpec, lesson_stage, model_folder, pipeline_stages
from r1kit.runs import jsonl, results, status
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.launch import Job
from r1kit.settings.lessons import DEFAULT_PIPELINE, PIPELINE_STAGE
from r1kit.settings.pipelines import DATA_KINDS, GIVEN, PROMPT_KINDS
from r1kit.settings.profile import base_of, pipeline_of, pipeline_profile

if TYPE_CHECKING:
    import pandas as pd

ACCURACY, LENGTH = "rewards/accuracy_reward/mean", "completions/mean_length"


class Composition:
    """A pipeline in an open stage.

    Attributes:
        stages: its stages by name, in order.
        about: its purpose, in a sentence.
        profile: the settings of the whole pipeline.
        data: the folder with the result of its data stage.
    """

    def __init__(self, name: str, lesson: Any):
        """Plan the pipeline `name`, and make its data if no run has it.

        Args:
            lesson: the open `stage.Stage`. The pipeline's stages are folders in its folder; those of a
                pipeline other than the notebook's own have the pipeline's name in front.
        """
        source = open_run.profile_source(lesson.settings)
        overrides = lesson.run.manifest["overrides"]
        self.name, self.lesson = name, lesson
        self.stages = pipeline_stages(source, overrides, name)
        self.profile = pipeline_profile(source, overrides, name)
        self.about = pipeline_of(self.profile, name).about
        self.prefix = "" if name == (lesson.params.get("PIPELINE") or DEFAULT_PIPELINE) else f"{name}."
        self.data = open_run.find_or_run(lesson.run, lesson_stage(DATA_STAGE, self.profile), name)
        self._results_elsewhere: dict[str, Path | None] = {}

    def __str__(self) -> str:
        """Return the plan: every stage, its state and its inputs."""
        lines = [f"{self.name}: {self.about}"]
        for stage in self.stages.values():
            inputs = " + ".join(dict.fromkeys(source for _, source, _ in stage.inputs))
            lines.append(f"  {stage.name:12} {stage.kind:19} {self.state(stage.name):18} {inputs}")
        return "\n".join(lines)

    def state(self, name: str) -> str:
        """Return the state of a stage: `done`, `done in run X`, `resumes at step 40` or `to do`."""
        folder, finished = self._folder_here(name), self._finished(name)
        if finished is not None:
            return "done" if finished == folder else f"done in run {lineage.run_and_stage(finished)[0]}"
        equal = read_json(folder / "params.json", {}).get("inputs_hash") == self.stages[name].inputs_hash
        step = results.newest_step(folder) if equal else 0
        return f"resumes at step {step}" if step else "to do"

    def folder(self, name: str) -> Path:
        """Return the folder with a stage's result, in this run or another; before that, its folder here."""
        return self._finished(name) or self._folder_here(name)

    def artifact(self, name: str, artifact: str = "model") -> Path:
        """Return the path of a stage's artifact: `artifact("final")`, `artifact("traces", "traces")`.

        Raises:
            FileNotFoundError: the stage is not done.
        """
        folder = self.data if name in (*GIVEN, "heldout", "tokenizer") else self._finished(name)
        if folder is None:
            raise FileNotFoundError(f"the stage {name} of {self.name} is not done: {self._folder_here(name)}")
        return folder / results.read_result(folder)["artifacts"][artifact]

    async def run(self, watch: Callable[[Job], Awaitable[None]] | None = None) -> None:
        """Run the stages that are not done yet, in order, and print a line at the end of each.

        Args:
            watch: shows a job while it runs, such as `r1kit.watch`.

        Raises:
            JobFailed: a stage failed; the next `run` resumes there.
        """
        for position, stage in enumerate(self.stages.values(), start=1):
            where = f"{self.prefix}{stage.name} ({position} of {len(self.stages)})"
            if self._finished(stage.name) is not None:
                self._note_borrowed(stage.name)
                print(f"{where}: {self.state(stage.name)}", flush=True)
                continue
            status.update(self.lesson.folder, message=f"{where}: {stage.kind}")
            server = await self._start_server(stage)
            try:
                job = self.start(stage.name, server)
                await (watch(job) if watch else job.finished())
            except BaseException as error:
                stopped = isinstance(error, (asyncio.CancelledError, KeyboardInterrupt))
                state = "interrupted" if stopped else "failed"
                message = getattr(error, "message", None) or str(error) or type(error).__name__
                status.update(self._folder_here(stage.name), state=state, message=message)
                raise
            finally:
                if server is not None:
                    server.stop()
            seconds = results.read_result(self._folder_here(stage.name))["seconds"]
            print(f"{where}: done in {seconds:.0f} s", flush=True)

    def start(self, name: str, server: Any = None) -> Job:
        """Start a stage's program under a supervisor and return at once; success writes `result.json`.

        Args:
            server: a ready server, for a stage that generates through it. `run` starts one if machine.yaml
                has one.

        Raises:
            FileNotFoundError: an input's stage is not done.
        """
        stage, folder = self.stages[name], self._folder_here(name)
        inputs = self.inputs(name)
        if server is not None:
            inputs["server"] = server.folder
        open_run.archive_stale(folder, stage.inputs_hash)
        params = {"inputs_hash": stage.inputs_hash, "kind": stage.kind, "pipeline": self.name}
        params |= {"position": list(self.stages).index(name), "parameters": stage.parameters}
        write_json_atomic(folder / "params.json", params)
        status.update(folder, state="running")
        heading = {"profile": stage.profile.name, "stage": self._label(name)}
        heading["run_id"] = self.lesson.run.run_id
        job = launch_program(
            stage.program, folder, heading, inputs, stage.profile, stage.parameters, trains=stage.trains
        )
        job.after = lambda: self._record(stage, folder)
        self.lesson.jobs.append(job)
        return job

    def inputs(self, name: str) -> dict[str, Path | str]:
        """Return the paths that a stage's program reads.

        A base model from the hub is its name for a training, which downloads it itself, else its snapshot's
        folder.

        Raises:
            FileNotFoundError: an input's stage is not done.
        """
        stage, given = self.stages[name], results.read_result(self.data)["artifacts"]
        inputs: dict[str, Path | str] = {
            shared: self.data / given[shared] for shared in ("tokenizer", "heldout") if shared in given
        }
        for role, source, artifact in stage.inputs:
            if source == "base" and "model" not in given:
                model = base_of(self.profile)
                inputs[role] = model if stage.trains else model_folder(model)
            else:
                inputs[role] = self.artifact(source, artifact)
        return inputs

    def answers(self) -> dict[str, pd.DataFrame]:
        """Return the judged answers of every checkpoint that the pipeline's evaluations tested, by name."""
        return {
            name: frame
            for stage in self._evaluations()
            for name, frame in _judged_answers(stage, self.folder(stage.name)).items()
        }

    def table(self) -> pd.DataFrame:
        """Return pass@1 by level after each stage, with 95% intervals (`r1kit.evaluation.table`)."""
        from r1kit.evaluation import table

        return table(self.answers(), self.profile.evaluation.levels, self.profile.evaluation.k)

    def scores(self) -> dict[str, dict[str, float]]:
        """Return the headline pass@1 of each checkpoint in order of training, in summary.json's form."""
        return {
            f"{self.prefix}{name}": entry
            for stage in self._evaluations()
            for name, entry in results.read_result(self.folder(stage.name))["pass@1"].items()
        }

    def lineage(self) -> list[dict[str, Any]]:
        """Return the pipeline's finished stages and all their ancestors (see `lineage.family`)."""
        return lineage.ancestry([self.data, *filter(None, map(self._finished, self.stages))])

    def _folder_here(self, name: str) -> Path:
        return self.lesson.folder / f"{self.prefix}{name}"

    def _label(self, name: str) -> str:
        return f"{PIPELINE_STAGE}/{self.prefix}{name}"

    def _evaluations(self) -> list[StageSpec]:
        return [stage for stage in self.stages.values() if stage.kind == "evaluate"]

    def _finished(self, name: str) -> Path | None:
        """Return the folder with the stage's result: here, else in the newest run that has one."""
        folder, inputs_hash = self._folder_here(name), self.stages[name].inputs_hash
        if open_run.has_result(folder, inputs_hash):
            return folder
        if name not in self._results_elsewhere:
            self._results_elsewhere[name] = open_run.find_result(folder, inputs_hash)
        return self._results_elsewhere[name]

    def _note_borrowed(self, name: str) -> None:
        finished = self._finished(name)
        if finished != self._folder_here(name):
            source = "/".join(lineage.run_and_stage(finished))
            self.lesson.run.update_manifest(borrowed={self._label(name): source})

    async def _start_server(self, stage: StageSpec) -> Any:
        """Return the profile's server with the stage's model, ready; None if the stage does not use one."""
        machine = stage.profile.machine
        if stage.kind in ("rejection_sampling", "pass_rate"):
            longest = stage.profile.data.max_prompt_length + stage.settings.max_new_tokens
            machine = answering_machine(machine, longest)
        elif stage.kind != "grpo" or not stage.profile.grpo.trl.get("use_vllm"):
            return None
        if machine is None or machine.server is None:
            return None
        return await self.lesson.start_server(Path(self.inputs(stage.name)["model"]), machine).ready()

    def _record(self, stage: StageSpec, folder: Path) -> None:
        """Write the stage's result.json."""
        given = "model" in results.read_result(self.data)["artifacts"]
        sources: dict[str, Path | str] = {}
        for _, source, _ in stage.inputs:
            if source == "base" and not given:
                sources[source] = base_of(self.profile)
            else:
                sources[source] = self.data if source in GIVEN else self.folder(source)
        result = _scores(stage, folder) if stage.kind == "evaluate" else {"metrics": _metrics(stage, folder)}
        result["seconds"] = time.time() - status.read(folder)["started"]
        record(stage, folder, self._label(stage.name), sources, _artifacts(stage, folder), **result)


def _artifacts(stage: StageSpec, folder: Path) -> dict[str, str]:
    """Return name -> path inside the folder of the stage's artifacts."""
    if stage.kind == "evaluate":
        return {name: f"{name}.parquet" for name in stage.parameters["names"]}
    if not stage.trains:
        return {"data": "data"}
    rollouts = {"rollouts": "rollouts"} if (folder / "rollouts").is_dir() else {}
    return {"model": "model"} | rollouts


def _metrics(stage: StageSpec, folder: Path) -> dict[str, float]:
    """Return the ends of a training's curves, or a dataset's row counts by source."""
    if stage.kind in DATA_KINDS + PROMPT_KINDS:
        return read_json(folder / "counts.json", {})
    rows = jsonl.read(folder / "metrics.jsonl")
    metrics = {"steps": rows[-1]["step"]} if rows else {}
    names = {"loss": "loss"} if stage.kind == "sft" else {"accuracy": ACCURACY, "length": LENGTH}
    for name, key in names.items():
        values = [row[key] for row in rows if isinstance(row.get(key), (int, float))]
        if values:
            last = values[-3:]  # a single batch is noisy
            metrics |= {f"{name}_first": values[0], f"{name}_last": sum(last) / len(last)}
    return metrics


def _scores(stage: StageSpec, folder: Path) -> dict[str, Any]:
    """Return an evaluation's metrics by level, and the headline pass@1 of every checkpoint."""
    from r1kit.evaluation import level_metrics, pass1_entry, table

    settings, answers = stage.profile.evaluation, _judged_answers(stage, folder)
    headline = {name: pass1_entry(frame, settings.levels) for name, frame in answers.items()}
    return {"metrics": level_metrics(table(answers, settings.levels, settings.k)), "pass_at_1": headline}


def _judged_answers(stage: StageSpec, folder: Path) -> dict[str, pd.DataFrame]:
    from r1kit.evaluation import load_results

    return {name: load_results(folder / f"{name}.parquet") for name in stage.parameters["names"]}
