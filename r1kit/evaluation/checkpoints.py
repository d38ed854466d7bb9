"""Evaluation of checkpoints: questions -> completions -> judges -> rows, one per completion.

Only the rows are stored; every table and figure is computed from them (`report.py`). The embedded world's
held-out problems and public benchmarks go through the same functions in lesson 05 (`judged`), in `r1kit eval`
(`evaluation_folder.py`), and in pipelines, whose `evaluate` stage is this program: `python -m
r1kit.evaluation.checkpoints JOB/resolved.yaml`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.benchmarks import Question, questions_of, story_questions
from r1kit.evaluation.judges import judge_rows
from r1kit.evaluation.report import render, scores
from r1kit.evaluation.sampler import (
    LocalSampler,
    Progress,
    Sampler,
    Samples,
    Sampling,
    load_checkpoint,
    now_and_then,
    weights_identity,
)
from r1kit.evaluation.server_sampler import answering_machine, sampler_at
from r1kit.machine import detect_device
from r1kit.rewards import format_reward
from r1kit.rewards.code import configure_by
from r1kit.runs import jsonl
from r1kit.runs.files import replacing
from r1kit.settings.evaluation import PROMPT_ROOM, BenchmarkSettings, EvaluationSettings
from r1kit.settings.profile import MachineSettings
from r1kit.training import program

if TYPE_CHECKING:
    import pandas as pd

# Sampling and judging


def judged(run: Any, name: str, checkpoint: Path, questions: Sequence[Question]) -> pd.DataFrame:
    """Evaluate a lesson's checkpoint and write the rows to `<name>.parquet` in the stage's folder.

    Args:
        run: the open `pipeline.stage.Stage`.
    """
    folder, settings, progress = run.folder / "answers" / name, run.settings.evaluation, run.counter(name)
    with sampler_of(folder, run.settings.machine, settings, checkpoint) as sampler:
        frame = evaluate_answering(sampler, questions, settings, folder=folder, progress=progress)
    save_results(frame, run.folder / f"{name}.parquet")
    return frame


def evaluate(
    checkpoint_path: str | Path,
    heldout: Iterable[Question | Mapping[str, Any]],
    settings: Any,
    *,
    device: str = "cpu",
    **options: Any,
) -> pd.DataFrame:
    """Load a checkpoint (weights and tokenizer in one folder) and judge its completions.

    Args:
        checkpoint_path: a folder written by `save_pretrained`.
        device: "cpu" computes in float32; "cuda" in bfloat16.

    Returns:
        See `evaluate_answering`, as for the other arguments.

    Raises:
        FileNotFoundError: there is no checkpoint at that path.
        ValueError: a level holds fewer than `problems_per_level` problems.
    """
    with local_sampler(checkpoint_path, settings, device) as sampler:
        return evaluate_answering(sampler, heldout, settings, **options)


def evaluate_model(
    model: Any, tokenizer: Any, heldout: Iterable[Question | Mapping[str, Any]], settings: Any, **options: Any
) -> pd.DataFrame:
    """Evaluate a model that is already in memory; see `evaluate_answering`."""
    sampler = LocalSampler(model, tokenizer, _getter(settings)("batch_size", 128))
    return evaluate_answering(sampler, heldout, settings, **options)


def evaluate_answering(
    sampler: Sampler,
    heldout: Iterable[Question | Mapping[str, Any]],
    settings: Any,
    *,
    greedy: bool | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Sample completions of the questions and judge them.

    Args:
        heldout: questions, or rows with `problem`, `solution`, `level` of which the first
            `problems_per_level` of each level are used.
        settings: evaluation.yaml, as the typed model or as a mapping.
        greedy: also sample one greedy completion per problem (rows with `greedy` True and sample 0); None
            takes the settings' value.
        folder: for the log of completions, from which the same call resumes after a kill; None keeps nothing.
        progress: called with (completions done, completions wanted).

    Returns:
        Rows (problem, solution, level, sample, greedy, completion, correct, form, tokens, finished, answer);
        `correct` is 1.0, 0.0 or NaN (gold unjudgeable). `frame.attrs["tokens_per_second"]` is the speed.
    """
    import pandas as pd

    get = _getter(settings)
    questions = list(heldout)
    if questions and not isinstance(questions[0], Question):
        questions = story_questions(questions, get("problems_per_level"))
    questions = [one if one.samples else replace(one, samples=get("samples")) for one in questions]
    prompts, counts = [one.prompt for one in questions], [one.samples for one in questions]
    greedy = get("greedy", True) if greedy is None else greedy
    folder = Path(folder) if folder else None
    sampling = Sampling(get("temperature"), get("top_p"), get("max_new_tokens"), get("seed"))
    wanted = sum(counts) + (len(questions) if greedy else 0)

    def report(done: int, _: int, before: int = 0) -> None:
        if progress:
            progress(before + done, wanted)

    samples = sampler.sample(prompts, sampling, counts, folder=folder, progress=report)
    rows = judged_rows(questions, samples, greedy=False)
    if greedy:
        best = sampler.sample(
            prompts, replace(sampling, temperature=0.0), folder=folder and folder / "greedy",
            progress=partial(report, before=sum(counts)),
        )  # fmt: skip
        rows += judged_rows(questions, best, greedy=True)
    frame = pd.DataFrame(rows).astype({"correct": float, "tokens": float})
    frame.attrs["tokens_per_second"] = samples.tokens_per_second
    return frame


def judged_rows(questions: Sequence[Question], samples: Samples, *, greedy: bool) -> list[dict[str, Any]]:
    """Return one row per completion; stories are judged by the same rewards as in training."""
    flat = [
        (question, sample, one)
        for question, row in zip(questions, samples.rows, strict=True)
        for sample, one in enumerate(row)
    ]
    texts = [one.text for *_, one in flat]
    verdicts, answers = judge_rows(texts, [row[0] for row in flat], [one.finished for *_, one in flat])
    return [
        {
            "problem": question.problem,
            # A program's test cases are megabytes and are left out.
            "solution": "" if question.judge == "code" else question.solution, "level": question.level,
            "sample": sample, "greedy": greedy, "completion": one.text, "correct": verdict, "form": form,
            "tokens": one.tokens, "finished": one.finished, "answer": answer,
        }
        for (question, sample, one), verdict, answer, form in zip(
            flat, verdicts, answers, format_reward(texts), strict=True
        )
    ]  # fmt: skip


def _getter(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return settings.get
    return lambda key, default=None: getattr(settings, key, default)


# Samplers


@contextmanager
def sampler_of(
    folder: Path,
    machine: MachineSettings,
    settings: Any,
    model: str | Path,
    *,
    server: str = "",
    device: str = "",
    tell: Callable[[str], None] = print,
) -> Iterator[Sampler]:
    """Yield the sampler of an evaluation: a running server, one started for the block, or this process.

    A server is started for benchmarks if machine.yaml has a `server`, or the device is a GPU and vLLM is
    installed: transformers would take days for answers of 32,768 tokens.

    Args:
        folder: of the evaluation; a server that is started gets `server` in it.
        settings: evaluation.yaml, typed.
        model: a model folder; with a server also a hub id.
        server: address of a running server, or its folder of `r1kit serve`.
        device: of this process, if it samples; "" detects it.
        tell: gets the lines that a starting server reports.

    Raises:
        ServerNotRunning: `server` is a folder without a running server.
    """
    served = None
    if not server and isinstance(settings, BenchmarkSettings):
        served = answering_machine(machine, settings.max_new_tokens + PROMPT_ROOM)
    if server:
        yield sampler_at(server, settings.batch_size)
    elif served is None:
        with local_sampler(model, settings, device or detect_device()[0].split(":")[0]) as sampler:
            yield sampler
    else:
        from r1kit.serving.server import serve

        started = serve(folder / "server", served, str(model), tell=tell)
        try:
            started.wait_ready()
            yield sampler_at(started.folder, settings.batch_size)
        finally:
            started.stop()


@contextmanager
def local_sampler(model: str | Path, settings: Any, device: str) -> Iterator[LocalSampler]:
    """Yield a checkpoint in this process, and free its memory afterwards."""
    loaded, tokenizer = load_checkpoint(model, device)
    sampler = LocalSampler(loaded, tokenizer, _getter(settings)("batch_size", 128), weights_identity(model))
    try:
        yield sampler
    finally:
        del loaded
        sampler.model = None
        gc.collect()  # before the next checkpoint is loaded


# Files


def save_results(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write rows as Parquet, atomically: readers see the whole file or none."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)
    return Path(path)


def load_results(path: str | Path) -> pd.DataFrame:
    """Read rows written by `save_results`."""
    import pandas as pd

    return pd.read_parquet(path)


# The `evaluate` stage of pipelines


def judge(job: program.Job) -> None:
    """Evaluate every checkpoint in `parameters.names` and write `<name>.parquet` for each.

    The checkpoints are evaluated one after the other; a server of one ends before the next one starts.

    Raises:
        BenchmarkError: a benchmark's dataset is missing or has changed.
        Unanswered, EndpointLost: the server refused requests, or is gone.
    """
    given, names = job.settings["evaluation"], job.settings["parameters"]["names"]
    settings = (BenchmarkSettings if "benchmarks" in given else EvaluationSettings).model_validate(given)
    machine = MachineSettings.model_validate(job.settings["machine"])
    configure_by(machine.sandbox)  # for LiveCodeBench's programs
    parts = parts_of(job, settings)
    each = sum(question.samples + settings.greedy for _, part in parts for question in part)
    say = partial(print, flush=True)
    jsonl.truncate_after(job.metrics, -1)  # the rows are appended anew, also for completions on disk
    for number, name in enumerate(names):
        path, folder = job.folder / f"{name}.parquet", job.folder / "answers" / name
        count = _counter(job, number * each, each, len(names) * each)
        if path.exists():
            count(each)
        else:
            model, device = job.inputs[name], job.device
            with sampler_of(folder, machine, settings, model, device=device, tell=say) as sampler:
                save_results(_evaluate_parts(sampler, parts, settings, folder, count), path)
        if job.watchdog:
            job.watchdog.finish()
        sampling = f"temperature {settings.temperature:g}, top_p {settings.top_p:g}"
        numbers = scores(load_results(path), settings.k, name)
        say(render({"model": name, "sampling": sampling, "scores": numbers}))


def parts_of(
    job: program.Job, settings: EvaluationSettings | BenchmarkSettings
) -> list[tuple[int, list[Question]]]:
    """Return the parts of an evaluation: what to add to the seed, and the questions.

    Benchmarks are one part. Held-out problems are split into batches of one level, so that a level's
    completions do not depend on the other levels.
    """
    if isinstance(settings, BenchmarkSettings):
        return [(0, questions_of(settings, mirror=job.settings["data"].get("mirror")))]
    questions = questions_of(settings, job.inputs["heldout"])
    size = max(1, settings.batch_size // settings.samples)
    parts = []
    for level in sorted({question.level for question in questions}):
        same = [question for question in questions if question.level == level]
        parts += [(1000 * level + i // size, same[i : i + size]) for i in range(0, len(same), size)]
    return parts


def _evaluate_parts(
    sampler: Sampler, parts: list[tuple[int, list[Question]]], settings: Any, folder: Path,
    count: Callable[[int], None],
) -> pd.DataFrame:  # fmt: skip
    import pandas as pd

    frames, before = [], 0
    for seed, questions in parts:
        seeded = settings.model_copy(update={"seed": settings.seed + seed})

        def progress(done: int, _: int, before: int = before) -> None:
            count(before + done)

        frames.append(evaluate_answering(sampler, questions, seeded, folder=folder, progress=progress))
        before += len(frames[-1])
    return pd.concat(frames, ignore_index=True)


def _counter(job: program.Job, before: int, each: int, total: int) -> Callable[[int], None]:
    """Return a function of one checkpoint's completions that appends to metrics.jsonl every few seconds.

    Args:
        before: completions of the checkpoints before it.
        each: completions per checkpoint.
        total: completions of all checkpoints.
    """

    def report(done: int, _: int, seconds_each: float | None) -> None:
        row = {"step": before + done, "total_steps": total}
        if seconds_each:
            row["seconds_left"] = seconds_each * (total - before - done)
        jsonl.append(job.metrics, row)

    progress = now_and_then(report)

    def count(done: int) -> None:
        if job.watchdog and done < each:
            job.watchdog.beat(before + done)
        progress(done, each)

    return count


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return program.run(judge, arguments)


if __name__ == "__main__":
    sys.exit(main())
