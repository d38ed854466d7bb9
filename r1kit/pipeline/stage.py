"""`open_stage`, which every notebook calls right after its parameters, and the `Stage` that it returns.

`open_stage` checks the notebook's parameters, resolves the settings, opens the run folder and finds or makes
the results of earlier stages. The stage launches trainings as supervised subprocesses (`launch`), starts a
vLLM server if the profile has one (`serve`), and writes `result.json` at the end (`finish`), which marks it
as done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.pipeline import open_run
from r1kit.pipeline.jobs import launch_program, record, write_resolved
from r1kit.pipeline.stages import (
    StageSpec,
    base_model,
    find_lesson,
    lesson_stage,
    model_folder,
    second_trainings,
)
from r1kit.runs import results, status
from r1kit.runs.files import shown, write_json_atomic
from r1kit.runs.folder import Run
from r1kit.runs.launch import Job
from r1kit.settings import Profile, load_profile
from r1kit.settings.lessons import DEFAULT_PIPELINE, STAGE_OF_SECTION, STAGES, check_parameters
from r1kit.settings.profile import MachineSettings

if TYPE_CHECKING:
    from r1kit.pipeline.composition import Composition
    from r1kit.serving.server import NoServer, Server

LITERALS = (str, int, float, bool, list, dict, type(None))


def open_stage(name: str, namespace: dict[str, Any]) -> Stage:
    """Check the notebook's parameters, resolve its settings and open its folder in a run.

    Args:
        name: the stage, which is the notebook's name.
        namespace: the notebook's `globals()`; its parameters are the upper-case names with literal values.

    Raises:
        SettingsError: a wrong parameter or setting; nothing was created or started.
        JobFailed: an earlier stage had to be run first, and failed.
    """
    lesson = find_lesson(name)
    parameters = {
        key: value for key, value in namespace.items() if key.isupper() and isinstance(value, LITERALS)
    }
    kinds = {"PROFILE": str, "RUN_ID": str} | {key: knob.kind for key, knob in lesson.knobs.items()}
    values = check_parameters(name, parameters, kinds)
    profile_name, run_id = values.pop("PROFILE"), values.pop("RUN_ID")
    changes = {
        knob.setting: values[key]
        for key, knob in lesson.knobs.items()
        if knob.setting and values.get(key) is not None
    }
    pipeline = (values.get("PIPELINE") or DEFAULT_PIPELINE) if lesson.pipelines else ""

    if run_id:
        run, settings = open_run.reopen_run(run_id, profile_name, changes)
        open_run.check_stages(settings, [name])
    else:
        run, settings = open_run.new_run(profile_name, changes, stages=[name], pipeline=pipeline or None)
        print(f"new run {run.run_id}")
    os.environ.update(settings.machine.environment)
    if lesson.programs:
        from r1kit.rewards.code import configure_by

        configure_by(settings.machine.sandbox)
    sources = {need: open_run.find_or_run(run, lesson_stage(need, settings)) for need in lesson.needs}
    spec, folder = open_run.lesson_in_run(run, name, settings, pipeline), run.stage(name)
    open_run.archive_stale(folder, spec.inputs_hash)
    params = {key: values[key] for key, knob in lesson.knobs.items() if not knob.setting}
    opened = Stage(spec, params, run, folder, sources)
    write_json_atomic(folder / "params.json", {"inputs_hash": spec.inputs_hash, "parameters": parameters})
    write_resolved(folder, opened.heading, opened.inputs(), settings)
    status.update(folder, state="running", message="", pid=os.getpid())
    print(f"{name} under {settings.name}, run {run.run_id}")
    return opened


@dataclass
class Stage:
    """An open lesson of a run.

    Attributes:
        spec: the lesson with its settings and inputs.
        params: the notebook's parameters that are not settings.
        run: the run folder; `folder` is this stage's part of it.
        sources: for each earlier stage that this one needs, the folder that holds its result.
        jobs: every job that was launched, in order.
    """

    spec: StageSpec
    params: dict[str, Any]
    run: Run
    folder: Path
    sources: dict[str, Path]
    opened: float = field(default_factory=time.monotonic)
    jobs: list[Job] = field(default_factory=list)
    server: Server | NoServer | None = None

    @property
    def name(self) -> str:
        """The stage's name, for example "04_grpo"."""
        return self.spec.name

    @property
    def settings(self) -> Profile:
        """The resolved profile; `settings.grpo.trl["learning_rate"]`, `settings.data.levels`, …"""
        return self.spec.profile

    @property
    def heading(self) -> dict[str, str]:
        """The first lines of resolved.yaml."""
        return {"profile": self.settings.name, "stage": self.name, "run_id": self.run.run_id}

    @property
    def trainings(self) -> dict[str, dict[str, Any]]:
        """The changed settings of each training of this lesson after its first, for `launch(changes=…)`."""
        return second_trainings(self.name, self.settings)

    def artifact(self, stage_name: str, artifact: str) -> Path:
        """Return the path of an earlier stage's result, for example `artifact("01_data", "heldout")`."""
        source = self.sources[stage_name]
        artifacts = results.read_result(source)["artifacts"]
        if artifact not in artifacts and stage_name == "01_data" and artifact in ("model", "tokenizer"):
            return model_folder(base_model(self.settings))  # real data uses a model from the hub
        return source / artifacts[artifact]

    def checkpoints(self) -> dict[str, Path]:
        """Return the models of this run in order of training: base, sft, grpo."""
        return {
            name: self.artifact(source, "model")
            for name, source in STAGE_OF_SECTION.items()
            if source in self.sources
        }

    def inputs(self) -> dict[str, Path | str]:
        """Return the inputs of this stage's trainings: all artifacts of the earlier stages, and the model."""
        inputs: dict[str, Path | str] = {}
        for folder in self.sources.values():
            artifacts = results.read_result(folder)["artifacts"]
            inputs |= {name: folder / path for name, path in artifacts.items()}
        section = self.settings.dump().get(next(iter(STAGES[self.name].sections), ""), {})
        model = section.get("model_name_or_path")
        if model in self.sources:
            inputs["model"] = self.artifact(model, "model")
        elif model:
            inputs["model"] = model
        return inputs

    def launch(
        self,
        program: str,
        name: str = "",
        *,
        inputs: Mapping[str, Path] | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Job:
        """Start `accelerate launch -m r1kit.training.<program>` under a supervisor and return at once.

        Args:
            program: "pretrain", "sft" or "grpo".
            name: a second job of the same stage gets its own folder, `<stage>/<name>/`.
            inputs: paths that are not results of an earlier stage, for example a tokenizer made just now.
            changes: settings of this job alone, `{"grpo.learning_rate": 3e-3}`; checked like all settings.
        """
        settings = load_profile(self.settings.folder, self.settings.overrides | dict(changes or {}))
        job_inputs = self.inputs() | dict(inputs or {})
        if program == "grpo" and getattr(self.server, "job", None) is not None:
            job_inputs["server"] = self.server.folder
        folder = self.folder / name
        job = launch_program(f"r1kit.training.{program}", folder, self.heading, job_inputs, settings)
        self.jobs.append(job)
        return job

    def serve(self, model: Path) -> Server | NoServer:
        """Start the profile's vLLM server with `model` and return at once: `await server.ready()`.

        Trainings launched from now on generate through it. It ends with the stage, or with this kernel. If
        machine.yaml has no `server`, nothing is started, and the returned `NoServer` says so.
        """
        if self.settings.machine.server is None:
            from r1kit.serving.server import NoServer

            self.server = NoServer(
                f"{self.settings.name} has no server in machine.yaml, so answers are written without vLLM. "
                'With it: `make setup-cluster`, then PROFILE = "cpu-cluster".'
            )
        else:
            self.server = self.start_server(model, self.settings.machine)
        return self.server

    def start_server(self, model: Path, machine: MachineSettings) -> Server:
        """Start the server of `machine` with `model`; trainings do not use it, unlike that of `serve`."""
        from r1kit.serving.server import serve

        return serve(self.folder / "server", machine, model, heading=self.heading)

    def pipeline(self, name: str) -> Composition:
        """Return a pipeline of pipeline.yaml, ready to run in this stage, and print its plan.

        Raises:
            SettingsError: there is no such pipeline, or one of its stages has wrong settings.
            JobFailed: its data had to be made first, and that failed.
        """
        from r1kit.pipeline.composition import Composition

        composition = Composition(name, self)
        print(composition)
        return composition

    def counter(self, label: str) -> Callable[[int, int], None]:
        """Return a function of (done, total) that makes `r1kit run` show progress: `base: 160 of 2000`."""
        return lambda done, total: status.update(self.folder, message=f"{label}: {done} of {total}")

    def finish(
        self, metrics: dict[str, float], artifacts: dict[str, str], pass_at_1: dict[str, dict] | None = None
    ) -> None:
        """Write `result.json` (last of all, atomically) and bring the run's `summary.json` up to date.

        Args:
            metrics: numbers worth comparing between runs.
            artifacts: name -> path relative to the stage's folder; each must exist.
            pass_at_1: for each checkpoint `{"value", "low", "high", "problems", "samples"}`.

        Raises:
            FileNotFoundError: an artifact does not exist; the stage is then not done.
        """
        if self.server is not None:
            self.server.stop()
        result = {"metrics": metrics, "pass_at_1": pass_at_1, "peak_rss_bytes": self._peak_rss_bytes()}
        result["seconds"] = time.monotonic() - self.opened
        record(self.spec, self.folder, self.name, self.sources, artifacts, **result)
        requested = self.run.manifest.get("stages", [])
        done = all(results.read_result(self.run.path / name) for name in requested)
        # Until all stages are done, a run that ends now counts as interrupted.
        results.write_summary(self.run, "completed" if done else "interrupted")
        print(f"{self.name} is done; its result is in {shown(self.folder)}")

    def _peak_rss_bytes(self) -> int:
        """Upper bound of the stage's memory in bytes: the peaks of kernel, largest job and server."""
        import resource

        def peak(job: Job | None) -> int:
            """Peak of a job's process tree, measured by its supervisor."""
            return (status.read(job.folder).get("job") or {}).get("peak_rss_bytes", 0) if job else 0

        kernel = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kernel *= 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        return kernel + max(map(peak, self.jobs), default=0) + peak(getattr(self.server, "job", None))
