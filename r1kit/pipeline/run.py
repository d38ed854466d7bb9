"""Run stages in order, headlessly: each notebook through the papermill engine, with resume and exit codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from r1kit.pipeline import engine, open_run
from r1kit.pipeline.notebook_errors import CellFailed, EngineError, Interrupted, Timeout
from r1kit.pipeline.stages import StageSpec
from r1kit.runs import results, status
from r1kit.runs.folder import Run
from r1kit.runs.launch import exit_code_in
from r1kit.runs.outcome import ExitCode
from r1kit.settings import Profile
from r1kit.settings.errors import shipped_folder
from r1kit.settings.lessons import STAGES

NOTEBOOKS = shipped_folder("notebooks")


class Reporter(Protocol):
    """Receives the events of a run; the command line prints them, tests collect them."""

    def stage_started(self, name: str, folder: Path, note: str) -> None:
        """Report that a notebook starts; `note` says whether at the beginning or at a checkpoint."""

    def stage_skipped(self, name: str, folder: Path) -> None:
        """Report that the stage has a result with unchanged inputs."""

    def stage_ended(self, name: str, folder: Path, error: str) -> None:
        """Report that a notebook ended; `error` is empty if it completed."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: an exit code of `r1kit run`, and one paragraph that says why (empty when done)."""

    code: int
    message: str = ""


def run_stages(run: Run, names: list[str], settings: Profile, reporter: Reporter) -> Outcome:
    """Run the named stages of a run in order and stop at the first that fails.

    A stage that has a result with unchanged inputs is skipped. The training program itself resumes an
    interrupted training from its newest complete checkpoint.
    """
    run.update_manifest(stages=sorted({*run.manifest.get("stages", []), *names}))
    outcome = Outcome(ExitCode.DONE)
    for name in names:
        folder, spec = run.stage(name), open_run.lesson_in_run(run, name, settings)
        if open_run.has_result(folder, spec.inputs_hash):
            reporter.stage_skipped(name, folder)
            continue
        open_run.archive_stale(folder, spec.inputs_hash)
        reporter.stage_started(name, folder, starting_point(folder))
        outcome = run_notebook(spec, folder, run)
        reporter.stage_ended(name, folder, outcome.message)
        if outcome.code != ExitCode.DONE:
            break
    interrupted = dict.fromkeys((ExitCode.INTERRUPTED, ExitCode.TERMINATED), "interrupted")
    states = {ExitCode.DONE: "completed", **interrupted}
    results.write_summary(run, states.get(outcome.code, "failed"))
    return outcome


def run_notebook(spec: StageSpec, folder: Path, run: Run) -> Outcome:
    """Execute one notebook into its stage's folder and translate how it ended into an outcome."""
    name, settings = spec.name, spec.profile
    parameters: dict[str, Any] = {"PROFILE": open_run.profile_source(settings), "RUN_ID": run.run_id}
    if STAGES[name].pipelines and run.manifest.get("pipeline"):
        parameters |= {"PIPELINE": run.manifest["pipeline"], "ALSO": run.manifest.get("beside", [])}
    try:
        engine.execute(
            NOTEBOOKS / spec.program,
            folder / "notebook.ipynb",
            parameters,
            cwd=NOTEBOOKS,
            environment=settings.machine.environment,
            # A training in the cell may use all its grace for a checkpoint, and its supervisor some seconds.
            grace=settings.machine.grace_seconds + 15,
        )
    except Interrupted as error:
        code = ExitCode.TERMINATED if error.signal == "SIGTERM" else ExitCode.INTERRUPTED
        state, message = "interrupted", str(error)
    except EngineError as error:
        code, state, message = exit_code(error), "failed", str(error)
    else:
        if results.read_result(folder) is not None:
            return Outcome(ExitCode.DONE)
        code, state = ExitCode.FAILED, "failed"
        message = f"{name} ran to its last cell but wrote no result.json: it must call run.finish(…)"
    status.update(folder, state=state, message=message)
    return Outcome(code, message)


def exit_code(error: EngineError) -> int:
    """Return the exit code of `r1kit run` for a failed notebook; a failed training's own code is kept."""
    if isinstance(error, Timeout):
        return ExitCode.HUNG
    if isinstance(error, CellFailed) and error.ename == "SettingsError":
        return ExitCode.BAD_INPUT
    if isinstance(error, CellFailed) and error.ename == "JobFailed":
        code = exit_code_in(error.evalue)
        return code if code in (ExitCode.OUT_OF_MEMORY, ExitCode.HUNG, ExitCode.GUARD) else ExitCode.FAILED
    return ExitCode.FAILED


def starting_point(folder: Path) -> str:
    """Say whether the stage starts at its beginning or one of its trainings continues from a checkpoint."""
    parts = {path.parent for path in folder.glob("*/params.json") if not path.match("stale-*/*")}
    done = [path for path in parts if results.read_result(path)]
    begun = next(filter(results.newest_step, sorted(parts - set(done))), None)
    finished = f"{len(done)} of its stages are done"
    if begun is not None:
        return f"{finished}, {begun.name} continues at step {results.newest_step(begun)}"
    if done:
        return finished
    step = results.newest_step(folder)
    return f"continues from its checkpoint at step {step}" if step else "starts at the beginning"


def unexpected_scores(run: Run, settings: Profile) -> list[str]:
    """Return a sentence for each checkpoint with pass@1 outside the range that evaluation.yaml expects."""
    scores = results.summarise(run)["pass@1"]
    return [
        f"pass@1 of {name} is {scores[name]['value']:.3f}; {settings.name} expects {low} to {high}"
        for name, (low, high) in settings.evaluation.expect.items()
        if name in scores and not low <= scores[name]["value"] <= high
    ]
