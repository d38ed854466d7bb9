"""`open_stage`: what the second cell of every notebook calls, and the `Stage` that it returns.

The stage checks the notebook's parameters, resolves the settings, opens the run folder and finds what earlier
stages made. It launches trainings as supervised subprocesses. At the end it writes `result.json`, which marks
the stage as done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.pipeline import lineage, opening, prerequisites
from r1kit.pipeline.devices import device_mask
from r1kit.pipeline.real_data import base_model, model_folder
from r1kit.pipeline.stages import CHECKPOINTS, DEFAULT_PIPELINE, STAGES, StageSpec, stage
from r1kit.rewards.shared_sandbox import configure_by
from r1kit.runs import folder as runs
from r1kit.runs import results, status
from r1kit.runs.files import shown, write_json_atomic, write_text_atomic
from r1kit.runs.launch import Job, launch
from r1kit.serving.server import NoServer, Server
from r1kit.serving.start import serve
from r1kit.settings import Profile, load_profile, yaml_dump
from r1kit.settings.parameters import check_parameters

if TYPE_CHECKING:
    from r1kit.pipeline.composition import Composition

LITERALS = (str, int, float, bool, list, dict, type(None))


@dataclass
class Stage:
    """An open stage of a run.

    Attributes:
        settings: the resolved profile; `settings.grpo.trl["learning_rate"]`, `settings.data.levels`, …
        params: the notebook's own parameters that are no settings.
        run: the run folder; `folder` is this stage's part of it.
        sources: for each earlier stage that this one needs, the folder that holds its result.
    """

    spec: StageSpec
    settings: Profile
    params: dict[str, Any]
    run: runs.Run
    folder: Path
    sources: dict[str, Path]
    inputs_hash: str
    opened: float = field(default_factory=time.monotonic)
    jobs: list[Job] = field(default_factory=list)
    server: Server | NoServer | None = None

    @property
    def name(self) -> str:
        """The stage's name, for example "04_grpo"."""
        return self.spec.name

    def artifact(self, stage_name: str, artifact: str) -> Path:
        """The path of what an earlier stage made, for example `artifact("01_data", "heldout")`."""
        source = self.sources[stage_name]
        made = results.read_result(source)["artifacts"]
        if artifact not in made and stage_name == "01_data" and artifact in ("model", "tokenizer"):
            return model_folder(base_model(self.settings))  # real data is made for somebody else's model
        return source / made[artifact]

    def checkpoints(self) -> dict[str, Path]:
        """The models of this run in order of training: base, sft, grpo."""
        return {
            CHECKPOINTS[name]: self.artifact(name, "model") for name in self.sources if name in CHECKPOINTS
        }

    def launch(
        self,
        program: str,
        name: str = "",
        *,
        inputs: dict[str, Path] | None = None,
        changes: dict[str, Any] | None = None,
    ) -> Job:
        """Start `accelerate launch -m r1kit.training.<program>` under a supervisor and return at once.

        Args:
            program: "pretrain", "sft" or "grpo".
            name: a second job of the same stage gets a folder of its own, `<stage>/<name>/`.
            inputs: paths that are no results of an earlier stage, for example a tokenizer made just now.
            changes: settings of this job alone, `{"grpo.learning_rate": 3e-3}`; checked like all settings.
        """
        job_folder = self.folder / name
        job_folder.mkdir(parents=True, exist_ok=True)
        settings = load_profile(self.settings.folder, self.settings.overrides | (changes or {}))
        if program == "grpo" and isinstance(self.server, Server):
            inputs = {**(inputs or {}), "server": self.server.folder}
        resolved = prerequisites.resolved(job_folder, self, settings, inputs or {})
        write_text_atomic(job_folder / "resolved.yaml", yaml_dump(resolved))
        write_text_atomic(job_folder / "accelerate.yaml", settings.accelerate_yaml(program))
        job = launch(
            f"r1kit.training.{program}",
            job_folder,
            environment=settings.machine.environment | device_mask(settings, program),
            grace=settings.machine.grace_seconds,
        )
        self.jobs.append(job)
        return job

    def serve(self, model: Path) -> Server | NoServer:
        """Start the profile's vLLM server with `model` and return at once: `await server.ready()`.

        Trainings launched from now on generate through it. It ends with the stage, or with this kernel. Where
        machine.yaml has no `server` nothing is started, and what is returned says so.
        """
        if self.settings.machine.server is None:
            self.server = NoServer(
                f"{self.settings.name} has no server in machine.yaml, so answers are written without vLLM. "
                'With it: `make setup-cluster`, then PROFILE = "cpu-cluster".'
            )
            return self.server
        heading = {"profile": self.settings.name, "stage": self.name, "run_id": self.run.run_id}
        self.server = serve(self.folder / "server", self.settings.machine, model, heading=heading)
        return self.server

    def pipeline(self, name: str) -> Composition:
        """The pipeline of that name in pipeline.yaml, ready to run in this stage; prints its plan.

        Raises:
            SettingsError: no such pipeline, or one of its stages has wrong settings.
            JobFailed: its data had to be made first, and that failed.
        """
        from r1kit.pipeline.composition import Composition

        composition = Composition(self, name)
        print(composition)
        return composition

    def counter(self, label: str) -> Callable[[int, int], None]:
        """A function of (done, wanted) that makes `r1kit run` say how far we are: `base: 160 of 2000`."""
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
        parents = lineage.parents_of(self.name, self.sources)
        results.write_result(
            self.folder,
            stage=self.name,
            seconds=time.monotonic() - self.opened,
            peak_rss_bytes=self._peak_rss_bytes(),
            inputs_hash=self.inputs_hash,
            metrics=metrics,
            artifacts=artifacts,
            pass_at_1=pass_at_1,
            origin=lineage.origin(self.name, self.folder, artifacts, parents, self.settings),
        )
        asked = self.run.manifest.get("stages", [])
        done = all(results.read_result(self.run.path / name) for name in asked)
        # Until all stages are done, "interrupted" is what the run will be if nothing more happens.
        results.write_summary(self.run, "completed" if done else "interrupted")
        print(f"{self.name} is done; its result is in {shown(self.folder)}")

    def _peak_rss_bytes(self) -> int:
        """Upper bound of the stage's memory in bytes: the peaks of kernel, largest job and server."""
        jobs = [peak_rss_bytes_of(job) for job in self.jobs]
        server = peak_rss_bytes_of(self.server.job) if isinstance(self.server, Server) else 0
        return own_peak_rss_bytes() + max(jobs, default=0) + server


def peak_rss_bytes_of(job: Job) -> int:
    """Peak resident memory of a job's process tree in bytes, as its supervisor saw it."""
    return (status.read(job.folder).get("job") or {}).get("peak_rss_bytes", 0)


def own_peak_rss_bytes() -> int:
    """Peak resident memory of this process in bytes (`ru_maxrss` counts KiB on Linux and bytes on macOS)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def open_stage(name: str, namespace: dict[str, Any]) -> Stage:
    """Check the notebook's parameters, resolve its settings and open its folder in a run.

    Args:
        name: the stage, which is the notebook's name.
        namespace: the notebook's `globals()`; parameters are its names in capitals that hold literals.

    Raises:
        SettingsError: a wrong parameter or setting; nothing was created or started.
    """
    spec = stage(name)
    given = {key: value for key, value in namespace.items() if key.isupper() and isinstance(value, LITERALS)}
    kinds = {"PROFILE": str, "RUN_ID": str} | {key: knob.kind for key, knob in spec.knobs.items()}
    values = check_parameters(name, given, kinds)
    profile_name, run_id = values.pop("PROFILE"), values.pop("RUN_ID")
    turned = {
        knob.setting: values[key]
        for key, knob in spec.knobs.items()
        if knob.setting and values.get(key) is not None
    }

    pipeline = (values.get("PIPELINE") or DEFAULT_PIPELINE) if spec.composed else None

    if run_id:
        run, settings = opening.reopen_run(run_id, profile_name, turned)
        opening.refuse_what_it_has_no_settings_for(settings, [name])
    else:
        run, settings = opening.new_run(profile_name, turned, stages=[name], pipeline=pipeline)
        print(f"new run {run.run_id}")
    os.environ.update(settings.machine.environment)
    configure_by(settings.machine.sandbox)
    sources = {need: prerequisites.provide(run, STAGES[need], settings) for need in spec.needs}
    inputs_hash = prerequisites.hash_in(run, spec, settings, pipeline)
    folder = run.stage(name)
    prerequisites.set_stale_aside(folder, inputs_hash)
    params = {key: values[key] for key, knob in spec.knobs.items() if not knob.setting}
    opened = Stage(spec, settings, params, run, folder, sources, inputs_hash)
    write_json_atomic(folder / "params.json", {"inputs_hash": inputs_hash, "parameters": given})
    write_text_atomic(
        folder / "resolved.yaml", yaml_dump(prerequisites.resolved(folder, opened, settings, {}))
    )
    status.update(folder, state="running", message="", pid=os.getpid())
    print(f"{name} under {settings.name}, run {run.run_id}")
    return opened
