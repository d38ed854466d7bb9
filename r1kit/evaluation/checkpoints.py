"""The one evaluator of checkpoints: questions -> completions -> judges -> rows, one per completion.

The rows are what is stored; every table and figure is computed from them (`tables.py`). The embedded world's
held-out problems and public benchmarks go the same way, in lesson 05, in `r1kit eval`, and in pipelines,
whose `evaluate` stage is this program: `python -m r1kit.evaluation.checkpoints JOB/resolved.yaml`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.benchmarks import (
    Question,
    choose_problems,
    questions_of,
    story_question,
    story_questions,
)
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


def judged(run: Any, name: str, checkpoint: Path, questions: Sequence[Question]) -> pd.DataFrame:
    """Evaluate a lesson's checkpoint; the rows are kept as `<name>.parquet` in the stage's folder.

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
    greedy: bool | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
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
        return evaluate_answering(sampler, heldout, settings, greedy=greedy, folder=folder, progress=progress)


def evaluate_model(
    model: Any, tokenizer: Any, heldout: Iterable[Question | Mapping[str, Any]], settings: Any, **options: Any
) -> pd.DataFrame:
    """`evaluate_answering` for a model that is already in memory."""
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
        greedy: also one greedy completion per problem (rows with `greedy` True and sample 0); None: as the
            settings say.
        folder: keeps the completions, so that after a kill the same call goes on; None keeps nothing.
        progress: called with (completions done, completions wanted).

    Returns:
        Rows (problem, solution, level, sample, greedy, completion, correct, form, tokens, finished, answer);
        `correct` is 1.0, 0.0 or NaN (gold unjudgeable). `frame.attrs["tokens_per_second"]` is the speed.
    """
    import pandas as pd

    get = _getter(settings)
    questions = _questions(heldout, get)
    prompts, counts = [question.prompt for question in questions], [q.samples for q in questions]
    greedy = get("greedy", True) if greedy is None else greedy
    folder = Path(folder) if folder else None
    sampling = Sampling(get("temperature"), get("top_p"), get("max_new_tokens"), get("seed"))
    first = sum(counts)
    wanted = first + (len(questions) if greedy else 0)

    def tell(done: int, _: int, before: int = 0) -> None:
        if progress:
            progress(before + done, wanted)

    sampled = sampler.sample(prompts, sampling, counts, folder=folder, progress=tell)
    rows = judged_rows(questions, sampled, greedy=False)
    if greedy:
        best = sampler.sample(
            prompts, replace(sampling, temperature=0.0), folder=folder and folder / "greedy",
            progress=lambda done, of: tell(done, of, first),
        )  # fmt: skip
        rows += judged_rows(questions, best, greedy=True)
    frame = pd.DataFrame(rows)
    frame["correct"] = frame["correct"].astype(float)
    frame["tokens"] = frame["tokens"].astype(float)
    frame.attrs["tokens_per_second"] = sampled.tokens_per_second
    return frame


def judged_rows(questions: Sequence[Question], samples: Samples, *, greedy: bool) -> list[dict[str, Any]]:
    """One row per completion; stories are judged by the same rewards as in training."""
    asked = [
        (question, sample, one)
        for question, row in zip(questions, samples.rows, strict=True)
        for sample, one in enumerate(row)
    ]
    texts = [one.text for *_, one in asked]
    verdicts, finals = judge_rows(texts, [row[0] for row in asked], [one.finished for *_, one in asked])
    return [
        {
            "problem": question.problem,
            # A program's test cases are megabytes and are left out.
            "solution": "" if question.judge == "code" else question.solution, "level": question.level,
            "sample": sample, "greedy": greedy, "completion": one.text, "correct": verdict, "form": form,
            "tokens": one.tokens, "finished": one.finished, "answer": final,
        }
        for (question, sample, one), verdict, final, form in zip(
            asked, verdicts, finals, format_reward(texts), strict=True
        )
    ]  # fmt: skip


@contextmanager
def sampler_of(
    folder: Path,
    machine: MachineSettings,
    settings: Any,
    model: str | Path,
    *,
    server: str = "",
    device: str = "",
    tell: Callable = print,
) -> Iterator[Sampler]:
    """The sampler of an evaluation: a running server, one of ours that is started and ended, or this process.

    A server of ours is started for benchmarks where machine.yaml has a `server` or the device is a GPU with
    vLLM installed: transformers would take days for answers of 32,768 tokens.

    Args:
        folder: of the evaluation; a server of ours gets `server` in it.
        settings: evaluation.yaml, typed.
        model: a model folder; with a server also a hub id.
        server: address of a running server, or its folder of `r1kit serve`.
        device: of this process, if it samples; "": what there is.
        tell: gets a line whenever a server of ours has news.

    Raises:
        ServerNotRunning: `server` is a folder without a running server.
    """
    if server:
        yield sampler_at(server, settings.batch_size)
        return
    own = None
    if isinstance(settings, BenchmarkSettings):
        own = answering_machine(machine, settings.max_new_tokens + PROMPT_ROOM)
    if own is None:
        with local_sampler(model, settings, device or detect_device()[0].split(":")[0]) as sampler:
            yield sampler
        return
    from r1kit.serving.server import serve

    server_of_ours = serve(folder / "server", own, str(model), tell=tell)
    try:
        server_of_ours.wait_ready()
        yield sampler_at(server_of_ours.folder, settings.batch_size)
    finally:
        server_of_ours.stop()


@contextmanager
def local_sampler(model: str | Path, settings: Any, device: str) -> Iterator[LocalSampler]:
    """A checkpoint in this process, for as long as the `with` lasts."""
    loaded, tokenizer = load_checkpoint(model, device)
    sampler = LocalSampler(loaded, tokenizer, _getter(settings)("batch_size", 128), weights_identity(model))
    try:
        yield sampler
    finally:
        del loaded
        sampler.model = None
        gc.collect()  # the next checkpoint should not find this one's weights in memory


def save_results(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write rows as parquet, atomically: readers see the whole file or none."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)
    return Path(path)


def load_results(path: str | Path) -> pd.DataFrame:
    """Read rows written by `save_results`."""
    import pandas as pd

    return pd.read_parquet(path)


def judge(job: program.Job) -> None:
    """Evaluate every checkpoint in `parameters.names` and write `<name>.parquet` for each.

    One checkpoint follows the other, each with a server of its own that ends before the next one starts.

    Raises:
        BenchmarkError: a benchmark's rows are not there, or not what is expected.
        Unanswered, EndpointLost: the server refused or is gone.
    """
    how, names = job.settings["evaluation"], job.settings["parameters"]["names"]
    settings = (BenchmarkSettings if "benchmarks" in how else EvaluationSettings).model_validate(how)
    machine = MachineSettings.model_validate(job.settings["machine"])
    configure_by(machine.sandbox)  # LiveCodeBench's programs
    parts = parts_of(job, settings)
    each = sum(question.samples + settings.greedy for _, part in parts for question in part)
    jsonl.truncate_after(job.metrics, -1)  # what is on disk already is counted again, in a moment
    for number, name in enumerate(names):
        path, folder = job.folder / f"{name}.parquet", job.folder / "answers" / name
        count = counter(job, number * each, len(names) * each)
        if path.exists():
            count(each, each)
        else:
            with sampler_of(
                folder, machine, settings, job.inputs[name], device=job.device, tell=say
            ) as sampler:
                save_results(evaluate_parts(sampler, parts, settings, folder, count), path)
        if job.watchdog:
            job.watchdog.finish()
        sampling = f"temperature {settings.temperature:g}, top_p {settings.top_p:g}"
        found = scores(load_results(path), settings.k, name)
        say(render({"model": name, "sampling": sampling, "scores": found}))


def parts_of(
    job: program.Job, settings: EvaluationSettings | BenchmarkSettings
) -> list[tuple[int, list[Question]]]:
    """(what to add to the seed, questions) of each part of an evaluation.

    Benchmarks are one part. Held-out problems are asked in batches of one level, so that a level's answers do
    not depend on which other levels are asked.
    """
    if isinstance(settings, BenchmarkSettings):
        return [(0, questions_of(settings, mirror=job.settings["data"].get("mirror")))]
    from r1kit.data import datasets

    rows = choose_problems(datasets.load(job.inputs["heldout"]), settings.problems_per_level)
    questions = [replace(story_question(row), samples=settings.samples) for row in rows]
    size = max(1, settings.batch_size // settings.samples)
    parts = []
    for level in sorted({question.level for question in questions}):
        own = [question for question in questions if question.level == level]
        parts += [(1000 * level + i // size, own[i : i + size]) for i in range(0, len(own), size)]
    return parts


def evaluate_parts(
    sampler: Sampler, parts: list[tuple[int, list[Question]]], settings: Any, folder: Path, count: Progress
) -> pd.DataFrame:
    """`evaluate_answering` of each part with a seed of its own; all rows together."""
    import pandas as pd

    frames, done = [], 0
    each = sum(question.samples + settings.greedy for _, part in parts for question in part)
    for seed, part in parts:
        own = settings.model_copy(update={"seed": settings.seed + seed})
        frames.append(
            evaluate_answering(
                sampler,
                part,
                own,
                folder=folder,
                progress=lambda now, _, before=done: count(before + now, each),
            )
        )
        done += len(frames[-1])
    return pd.concat(frames, ignore_index=True)


def counter(job: program.Job, before: int, total: int) -> Progress:
    """A function of (answers done, wanted) of one checkpoint that adds a row to metrics.jsonl now and then.

    Args:
        before: answers of the checkpoints before it.
        total: of all checkpoints.
    """

    def tell(done: int, wanted: int, seconds_each: float | None) -> None:
        row = {"step": before + done, "total_steps": total}
        if seconds_each:
            # Of the checkpoints to come nothing is known but that they are asked as much.
            row["seconds_left"] = seconds_each * (total - before - done)
        jsonl.append(job.metrics, row)

    told = now_and_then(tell)

    def count(done: int, wanted: int) -> None:
        if job.watchdog and done < wanted:
            job.watchdog.beat(before + done)
        told(done, wanted)

    return count


def say(line: str) -> None:
    """Write a line into train.log, at once."""
    print(line, flush=True)


def _questions(heldout: Iterable[Question | Mapping[str, Any]], get: Any) -> list[Question]:
    """Questions with their number of samples; rows of the embedded world are made into questions."""
    rows = list(heldout)
    if rows and not isinstance(rows[0], Question):
        rows = story_questions(rows, get("problems_per_level"))
    return [question if question.samples else replace(question, samples=get("samples")) for question in rows]


def _getter(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return settings.get
    return lambda key, default=None: getattr(settings, key, default)


def main(arguments: list[str] | None = None) -> int:
    """Program entry; returns the exit code."""
    return program.run(judge, arguments)


if __name__ == "__main__":
    sys.exit(main())
