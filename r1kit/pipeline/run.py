"""Run stages in order, headlessly: each notebook through our papermill engine, with resume and exit codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from r1kit.pipeline import dependencies, engine, open_run
from r1kit.pipeline.notebook_errors import CellFailed, EngineError, Interrupted, Timeout
from r1kit.pipeline.stages import StageSpec
from r1kit.runs import results, status
from r1kit.runs.folder import PROJECT, Run
from r1kit.runs.launch import exit_code_in
from r1kit.runs.outcome import ExitCode
from r1kit.settings import Profile
from r1kit.settings.lessons import STAGES

NOTEBOOKS = PROJECT / "notebooks"


class Reporter(Protocol):
    """Who is told what happens; the command line prints it, tests collect it."""

    def stage_started(self, name: str, folder: Path, note: str) -> None:
        """A notebook starts; `note` says whether from the beginning or from a checkpoint."""

    def stage_skipped(self, name: str, folder: Path) -> None:
        """The stage's result is there and its inputs have not changed."""

    def stage_ended(self, name: str, folder: Path, error: str) -> None:
        """A notebook ended; `error` is empty where it completed."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: an exit code of the contract, and one paragraph that says why (empty when done)."""

    code: int
    message: str = ""


def run_stages(run: Run, names: list[str], settings: Profile, reporter: Reporter) -> Outcome:
    """Run the named stages of a run in order and stop at the first that fails.

    A stage whose result is there and whose inputs are unchanged is skipped. A training that was cut short
    goes on from its newest complete checkpoint (the training program itself finds it).
    """
    run.update_manifest(stages=sorted({*run.manifest.get("stages", []), *names}))
    outcome = Outcome(ExitCode.DONE)
    for name in names:
        folder, spec = run.stage(name), open_run.stage_in(run, name, settings)
        if dependencies.has_result(folder, spec.inputs_hash):
            reporter.stage_skipped(name, folder)
            continue
        dependencies.set_stale_aside(folder, spec.inputs_hash)
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
    """Execute one notebook into its stage's folder and translate its end into an outcome."""
    name, settings = spec.name, spec.profile
    parameters: dict[str, Any] = {"PROFILE": open_run.source_of(settings), "RUN_ID": run.run_id}
    if STAGES[name].pipelines and run.manifest.get("pipeline"):
        parameters |= {"PIPELINE": run.manifest["pipeline"], "ALSO": run.manifest.get("beside", [])}
    try:
        engine.execute(
            NOTEBOOKS / spec.program,
            folder / "notebook.ipynb",
            parameters,
            cwd=NOTEBOOKS,
            environment=settings.machine.environment,
            # A training in the cell may take all its grace for a checkpoint, and its supervisor some seconds.
            grace=settings.machine.grace_seconds + 15,
        )
    except Interrupted as error:
        code = ExitCode.TERMINATED if error.signal == "SIGTERM" else ExitCode.INTERRUPTED
        outcome = Outcome(code, str(error))
        status.update(folder, state="interrupted", message=outcome.message)
        return outcome
    except EngineError as error:
        outcome = Outcome(exit_code(error), str(error))
        status.update(folder, state="failed", message=outcome.message)
        return outcome
    if results.read_result(folder) is None:
        message = f"{name} ran to its last cell but wrote no result.json: it must call run.finish(…)"
        status.update(folder, state="failed", message=message)
        return Outcome(ExitCode.FAILED, message)
    return Outcome(ExitCode.DONE)


def exit_code(error: EngineError) -> int:
    """Return the exit code of `r1kit run` for a failed notebook; a failed training says its own."""
    if isinstance(error, Timeout):
        return ExitCode.HUNG
    if isinstance(error, CellFailed) and error.ename == "SettingsError":
        return ExitCode.BAD_INPUT
    if isinstance(error, CellFailed) and error.ename == "JobFailed":
        code = exit_code_in(error.evalue)
        return code if code in (ExitCode.OUT_OF_MEMORY, ExitCode.HUNG, ExitCode.GUARD) else ExitCode.FAILED
    return ExitCode.FAILED


def starting_point(folder: Path) -> str:
    """Whether the stage starts at its beginning or a training of it goes on from a checkpoint."""
    parts = {path.parent for path in folder.glob("*/params.json") if not path.match("stale-*/*")}
    done = [path for path in parts if results.read_result(path)]
    begun = next(filter(results.newest_step, sorted(parts - set(done))), None)
    if begun is not None:
        return (
            f"{len(done)} of its stages are done, {begun.name} continues at step {results.newest_step(begun)}"
        )
    if done:
        return f"{len(done)} of its stages are done"
    step = results.newest_step(folder)
    return f"continues from its checkpoint at step {step}" if step else "starts at the beginning"


def surprises(run: Run, settings: Profile) -> list[str]:
    """One sentence for each checkpoint whose pass@1 lies outside the range that evaluation.yaml expects."""
    scores = results.summarise(run)["pass@1"]
    return [
        f"pass@1 of {name} is {scores[name]['value']:.3f}; {settings.name} expects {low} to {high}"
        for name, (low, high) in settings.evaluation.expect.items()
        if name in scores and not low <= scores[name]["value"] <= high
    ]
