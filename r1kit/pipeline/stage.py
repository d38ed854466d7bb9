"""`open_stage`, which the second cell of every notebook calls, and the `Stage` that it returns.

The stage checks the notebook's parameters, resolves the settings, opens the run folder and finds what earlier
stages made. It launches trainings as supervised subprocesses. At the end it writes `result.json`, which marks
the stage as done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.pipeline import dependencies, open_run
from r1kit.pipeline.jobs import launch_program, record, write_resolved
from r1kit.pipeline.stages import StageSpec, base_model, lesson_stage, model_folder, second_trainings, stage
from r1kit.runs import folder as runs
from r1kit.runs import results, status
from r1kit.runs.files import shown, write_json_atomic
from r1kit.runs.launch import Job
from r1kit.settings import Profile, load_profile
from r1kit.settings.lessons import DEFAULT_PIPELINE, STAGE_OF_SECTION, STAGES, check_parameters
from r1kit.settings.profile import MachineSettings

if TYPE_CHECKING:
    from r1kit.pipeline.composition import Composition
    from r1kit.serving.server import NoServer, Server

LITERALS = (str, int, float, bool, list, dict, type(None))


@dataclass
class Stage:
    """An open lesson of a run.

    Attributes:
        spec: the lesson with its settings and inputs.
        params: the notebook's own parameters that are no settings.
        run: the run folder; `folder` is this stage's part of it.
        sources: for each earlier stage that this one needs, the folder that holds its result.
    """

    spec: StageSpec
    params: dict[str, Any]
    run: runs.Run
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
        """What resolved.yaml says first."""
        return {"profile": self.settings.name, "stage": self.name, "run_id": self.run.run_id}

    @property
    def trainings(self) -> dict[str, dict[str, Any]]:
        """What changes in the settings for each training of this lesson but its first."""
        return second_trainings(self.name, self.settings)

    def artifact(self, stage_name: str, artifact: str) -> Path:
        """Return the path of what an earlier stage made, for example `artifact("01_data", "heldout")`."""
        source = self.sources[stage_name]
        made = results.read_result(source)["artifacts"]
        if artifact not in made and stage_name == "01_data" and artifact in ("model", "tokenizer"):
            return model_folder(base_model(self.settings))  # real data is made for somebody else's model
        return source / made[artifact]

    def checkpoints(self) -> dict[str, Path]:
        """Return the models of this run in order of training: base, sft, grpo."""
        return {
            name: self.artifact(source, "model")
            for name, source in STAGE_OF_SECTION.items()
            if source in self.sources
        }

    def inputs(self) -> dict[str, Path | str]:
        """Return what a training of this stage reads: all that earlier stages made, and its model."""
        inputs: dict[str, Path | str] = {}
        for folder in self.sources.values():
            made = results.read_result(folder)["artifacts"]
            inputs |= {name: folder / path for name, path in made.items()}
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
            name: a second job of the same stage gets a folder of its own, `<stage>/<name>/`.
            inputs: paths that are no results of an earlier stage, for example a tokenizer made just now.
            changes: settings of this job alone, `{"grpo.learning_rate": 3e-3}`; checked like all settings.
        """
        settings = load_profile(self.settings.folder, self.settings.overrides | dict(changes or {}))
        read = self.inputs() | dict(inputs or {})
        if program == "grpo" and getattr(self.server, "job", None) is not None:
            read["server"] = self.server.folder
        job = launch_program(f"r1kit.training.{program}", self.folder / name, self.heading, read, settings)
        self.jobs.append(job)
        return job

    def serve(self, model: Path, machine: MachineSettings | None = None) -> Server | NoServer:
        """Start the profile's vLLM server with `model` and return at once: `await server.ready()`.

        Trainings launched from now on generate through it. It ends with the stage, or with this kernel. Where
        machine.yaml has no `server` nothing is started, and what is returned says so.

        Args:
            machine: in place of the profile's machine.yaml.
        """
        machine = machine or self.settings.machine
        if machine.server is None:
            from r1kit.serving.server import NoServer

            self.server = NoServer(
                f"{self.settings.name} has no server in machine.yaml, so answers are written without vLLM. "
                'With it: `make setup-cluster`, then PROFILE = "cpu-cluster".'
            )
            return self.server
        self.server = self._start_server(model, machine)
        return self.server

    def pipeline(self, name: str) -> Composition:
        """Return the pipeline of that name in pipeline.yaml, ready to run in this stage; print its plan.

        Raises:
            SettingsError: no such pipeline, or one of its stages has wrong settings.
            JobFailed: its data had to be made first, and that failed.
        """
        from r1kit.pipeline.composition import Composition

        own = self.params.get("PIPELINE") or DEFAULT_PIPELINE
        composition = Composition(
            name, own, self.run, self.settings, self.folder, self.jobs, self._start_server
        )
        print(composition)
        return composition

    def counter(self, label: str) -> Callable[[int, int], None]:
        """Return a function of (done, wanted) that makes `r1kit run` show progress: `base: 160 of 2000`."""
        return lambda done, wanted: status.update(self.folder, message=f"{label}: {done} of {wanted}")

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
        asked = self.run.manifest.get("stages", [])
        done = all(results.read_result(self.run.path / name) for name in asked)
        # Until all stages are done, "interrupted" is what the run will be if nothing more happens.
        results.write_summary(self.run, "completed" if done else "interrupted")
        print(f"{self.name} is done; its result is in {shown(self.folder)}")

    def _start_server(self, model: Path, machine: MachineSettings) -> Server:
        from r1kit.serving.server import serve

        return serve(self.folder / "server", machine, model, heading=self.heading)

    def _peak_rss_bytes(self) -> int:
        """Upper bound of the stage's memory in bytes: the peaks of kernel, largest job and server."""
        jobs = [peak_rss_bytes_of(job) for job in self.jobs]
        served = getattr(self.server, "job", None)
        return own_peak_rss_bytes() + max(jobs, default=0) + (peak_rss_bytes_of(served) if served else 0)


def peak_rss_bytes_of(job: Job) -> int:
    """Return the peak resident memory of a job's process tree in bytes, as its supervisor saw it."""
    return (status.read(job.folder).get("job") or {}).get("peak_rss_bytes", 0)


def own_peak_rss_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def open_stage(name: str, namespace: dict[str, Any]) -> Stage:
    """Check the notebook's parameters, resolve its settings and open its folder in a run.

    Args:
        name: the stage, which is the notebook's name.
        namespace: the notebook's `globals()`; parameters are its names in capitals that hold literals.

    Raises:
        SettingsError: a wrong parameter or setting; nothing was created or started.
    """
    lesson = stage(name)
    given = {key: value for key, value in namespace.items() if key.isupper() and isinstance(value, LITERALS)}
    kinds = {"PROFILE": str, "RUN_ID": str} | {key: knob.kind for key, knob in lesson.knobs.items()}
    values = check_parameters(name, given, kinds)
    profile_name, run_id = values.pop("PROFILE"), values.pop("RUN_ID")
    changes = {
        knob.setting: values[key]
        for key, knob in lesson.knobs.items()
        if knob.setting and values.get(key) is not None
    }
    pipeline = (values.get("PIPELINE") or DEFAULT_PIPELINE) if lesson.pipelines else ""

    if run_id:
        run, settings = open_run.reopen_run(run_id, profile_name, changes)
        open_run.refuse_what_it_has_no_settings_for(settings, [name])
    else:
        run, settings = open_run.new_run(profile_name, changes, stages=[name], pipeline=pipeline or None)
        print(f"new run {run.run_id}")
    os.environ.update(settings.machine.environment)
    if lesson.programs:
        from r1kit.rewards.code import configure_by

        configure_by(settings.machine.sandbox)
    sources = {need: dependencies.find_or_run(run, lesson_stage(need, settings)) for need in lesson.needs}
    spec, folder = open_run.stage_in(run, name, settings, pipeline), run.stage(name)
    dependencies.set_stale_aside(folder, spec.inputs_hash)
    params = {key: values[key] for key, knob in lesson.knobs.items() if not knob.setting}
    opened = Stage(spec, params, run, folder, sources)
    write_json_atomic(folder / "params.json", {"inputs_hash": spec.inputs_hash, "parameters": given})
    write_resolved(folder, opened.heading, opened.inputs(), settings)
    status.update(folder, state="running", message="", pid=os.getpid())
    print(f"{name} under {settings.name}, run {run.run_id}")
    return opened
