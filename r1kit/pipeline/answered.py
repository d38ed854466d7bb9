"""A model asked and judged, whoever answers: this process, a server of ours, or one that runs already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.answering import Progress
from r1kit.evaluation.evaluate import evaluate, evaluate_answering, save_results
from r1kit.evaluation.questions import Question
from r1kit.evaluation.served import Served
from r1kit.machine import detect_device
from r1kit.pipeline.answering_server import answering_machine
from r1kit.runs.files import read_json
from r1kit.settings.benchmarks import PROMPT_ROOM, BenchmarkSettings
from r1kit.settings.generation import PatienceSettings
from r1kit.settings.models import MachineSettings

if TYPE_CHECKING:
    import pandas as pd

    from r1kit.pipeline.stage import Stage


class EvaluationError(ValueError):
    """An evaluation that cannot be started or gone on with; the command line exits with 2."""

    exit_code = 2


def judged(run: Stage, name: str, checkpoint: Path, questions: Sequence[Question]) -> pd.DataFrame:
    """A lesson's checkpoint asked and judged; the rows are kept as `<name>.parquet` in the stage's folder."""
    folder, settings = run.folder / "answers" / name, run.settings
    frame = answered(
        folder, settings.machine, settings.evaluation, checkpoint, questions, progress=run.counter(name)
    )
    save_results(frame, run.folder / f"{name}.parquet")
    return frame


def answered(
    folder: Path,
    machine: MachineSettings,
    settings: Any,
    model: str | Path,
    questions: Sequence[Question],
    *,
    server: str = "",
    progress: Progress | None = None,
    tell: Callable = print,
) -> pd.DataFrame:
    """A model asked and judged; what it wrote is kept in `folder`, so after a kill the same call goes on.

    Args:
        settings: evaluation.yaml, typed.
        model: a model folder; with a server also a hub id.
        server: a running one; "": see `answers_from`.
    """
    with answers_from(folder, machine, settings, str(model), server, tell) as source:
        if isinstance(source, str):
            return evaluate(model, questions, settings, device=source, folder=folder, progress=progress)
        return evaluate_answering(source, questions, settings, folder=folder, progress=progress)


@contextmanager
def answers_from(
    folder: Path, machine: MachineSettings, settings: Any, model: str, server: str, tell: Callable = print
) -> Iterator[Served | str]:
    """Who answers: the server at `server`, one of ours that is started and ended, or this process (its
    device).

    A server of ours is started for benchmarks where machine.yaml has a `server` or the device is a GPU with
    vLLM installed: transformers would write 32,768 tokens for days.
    """
    if server:
        yield served_at(server, settings)
        return
    own = None
    if isinstance(settings, BenchmarkSettings):
        own = answering_machine(machine, settings.max_new_tokens + PROMPT_ROOM)
    if own is None:
        yield detect_device()[0].split(":")[0]
        return
    from r1kit.serving.start import serve

    server_of_ours = serve(folder / "server", own, model, tell=tell)
    try:
        server_of_ours.wait_ready()
        yield served_at(str(server_of_ours.folder), settings)
    finally:
        server_of_ours.stop()


def served_at(server: str, settings: Any) -> Served:
    """The server at an address, or that of a folder which `r1kit serve` made (its key is read there).

    Raises:
        EvaluationError: the folder's server does not run.
    """
    patience = PatienceSettings(concurrency=settings.batch_size)
    if "://" in server:
        url = server.rstrip("/")
        return Served([url if url.endswith("/v1") else f"{url}/v1"], patience=patience)
    state, key = read_json(Path(server) / "server.json", {}), Path(server) / "api_key"
    if not state.get("urls"):
        raise EvaluationError(f"{server}: no running server; give an address, or a folder of `r1kit serve`")
    secret = key.read_text(encoding="utf-8").strip() if key.exists() else ""
    return Served([f"{url}/v1" for url in state["urls"]], key=secret, patience=patience)
