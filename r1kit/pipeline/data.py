"""The data of a run: prepared real data, what the lesson 01_data makes, and the merge of several datasets.

`prepare_profile` prepares the real data that data.yaml names; runs share it. Notebook 01_data shows the small
embedded world (stories, a teacher who makes mistakes, a verifier) under every profile, because it takes only
seconds. `make_base` and `make_data` then make what the run trains on, from that world or from real data, so
no cell has to ask which.

As a program (`python -m r1kit.pipeline.data JOB/resolved.yaml`) it is the `merge_data` stage of pipelines:
R1's second SFT trains on the union of sampled answers and other data (arXiv 2501.12948, section 2.3.3).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data import card as cards
from r1kit.data import datasets
from r1kit.data.tokenizer import token_counter
from r1kit.machine.resources import cores
from r1kit.pipeline.stage import Stage
from r1kit.pipeline.stages import base_model
from r1kit.runs import jsonl
from r1kit.runs.files import write_json_atomic, write_text_atomic
from r1kit.runs.folder import runs_folder
from r1kit.settings import Problem, Profile, SettingsError, load_profile
from r1kit.settings.data import DataSettings, HubDataSettings
from r1kit.settings.errors import display_path

if TYPE_CHECKING:
    from r1kit.data.prepare import Progress
    from r1kit.training import program

STORE = "R1KIT_DATA"

EXAMPLE = "cpu-tiny"
"""The profile with the world that is shown if the run's data is real."""
EXAMPLE_CHANGES = {"data.base_documents": 1000, "data.traces": 2000, "data.prompts": 100}
MEASURED_TRACES = 2000  # kept traces whose tokens are counted

TRACE_COLUMNS = ("messages", "problem", "solution", "level")


# Real data


@dataclass(frozen=True)
class Prepared:
    """Prepared data: its folder, its card, and whether it was made just now."""

    folder: Path
    card: cards.Card
    fresh: bool


def prepare_profile(
    settings: Profile, workers: int = 1, progress: Progress = lambda name, done, rows: None
) -> Prepared:
    """Prepare a profile's data in `$R1KIT_DATA`, or in `prepared/` of the runs folder, unless it is there.

    The text of the data card is written again each time.

    Raises:
        SettingsError: the profile's data is the embedded world.
        NotThere, DatasetChanged, NotASet: a dataset cannot be read as it should; each is one message.
    """
    from r1kit.data import prepare as preparation  # loads Arrow, which the embedded world does not need

    if not isinstance(settings.data, HubDataSettings):
        file = display_path(settings.folder / "data.yaml")
        message = "The stage 01_data makes the stories in seconds; there is nothing to prepare."
        raise SettingsError([Problem(file, "source", found="stories", allowed="hub", message=message)])
    tokens = token_counter(base_model(settings))
    planned = preparation.plan(settings.data, tokens, settings.folder)
    store = Path(os.environ.get(STORE) or runs_folder() / "prepared").expanduser().resolve()
    folder = store / f"{settings.name}-{planned.digest}"
    fresh = preparation.finished(folder) is None
    card = preparation.prepare(planned, folder, workers, progress)
    text = cards.render(card, settings.in_effect("sft", "max_length"), estimate(settings, card))
    write_text_atomic(folder / cards.TEXT, text)
    return Prepared(folder, card, fresh)


def estimate(settings: Profile, card: cards.Card) -> dict[str, str]:
    """Return the estimate of `r1kit plan` for the prepared traces: tokens, epochs, steps, hours.

    If there is none, the only entry says why.
    """
    from r1kit.machine.plan import make_plan

    lengths = card.trace_lengths()
    if lengths is None:
        return {"no estimate": "there are no traces"}
    try:
        plan = make_plan(settings, lengths=lengths, documents=card.sets["traces"])
    except SettingsError as error:
        return {"no estimate": str(error).splitlines()[-1].strip()}
    sft = plan.sft
    return {
        "traces": f"{card.sets['traces']:,} of {lengths.mean:,.0f} tokens on average",
        "tokens": f"{sft.tokens:,} in {sft.epochs:.3g} epochs",
        "steps": f"{sft.steps:,} of {sft.step_seconds:.3g} s",
        "time": f"{sft.hours:.3g} hours on {plan.device.name}, an estimate (r1kit plan)",
    }


# The lesson 01_data


@dataclass(frozen=True)
class Base:
    """The base model: trained in this stage (`folder`), or named by the profile."""

    name: str
    folder: Path | None
    losses: list[float]

    @property
    def metrics(self) -> dict[str, float]:
        """Its metrics for the stage's result."""
        return {"base_loss": self.losses[-1]} if self.losses else {}

    def describe(self, vocabulary: int) -> str:
        """Compare its loss with that of a uniform guess among `vocabulary` tokens."""
        if not self.folder:
            return f"{self.name} was trained elsewhere; its losses are not known here"
        return (
            f"blind guess {math.log(vocabulary):.2f}, first logged loss {self.losses[0]:.2f}, "
            f"last {self.losses[-1]:.2f}"
        )

    def continue_text(self, beginning: str, n: int = 3, max_new_tokens: int = 60) -> list[str]:
        """Return `n` continuations of `beginning`; none for a model that this stage did not make."""
        if not self.folder:
            return []
        from r1kit.evaluation import generate, load_checkpoint

        model, tokenizer = load_checkpoint(self.folder)
        samples = generate(model, tokenizer, [beginning], n=n, max_new_tokens=max_new_tokens)
        return samples.completions[0]


@dataclass(frozen=True)
class Made:
    """The datasets of a run.

    Attributes:
        rows: number of rows of each set.
        lengths: tokens of some traces, by source.
        limit: length in tokens at which SFT truncates; None if it is not set.
        text: a summary, or the data card.
        metrics: numbers for the stage's result.
        artifacts: name -> path for the stage's result.
    """

    rows: dict[str, int]
    lengths: dict[str, Sequence[int]]
    limit: int | None
    text: str
    metrics: dict[str, float]
    artifacts: dict[str, str]


def world(run: Stage) -> DataSettings:
    """Return the embedded world of this run, or a small example world if the run's data is real."""
    if isinstance(run.settings.data, DataSettings):
        return run.settings.data
    print(f"{run.settings.name} has real data; the stories below are an example, nothing is trained on them")
    return load_profile(EXAMPLE, EXAMPLE_CHANGES).data


async def make_base(
    run: Stage, tokenizer: Any, documents: Sequence[str], watch: Callable[[Any], Awaitable[None]]
) -> Base:
    """Train the embedded world's base model on plain text, or name the model that the profile starts from.

    Args:
        watch: shows the training until it ends; `r1kit.watch`.

    Raises:
        JobFailed: the training did not complete.
    """
    if run.settings.base is None:
        name = base_model(run.settings)
        print(f"{run.settings.name} starts from {name}: nothing is trained here")
        return Base(name, None, [])
    tokenizer.save_pretrained(run.folder / "tokenizer")
    text = datasets.save({"corpus": [{"text": text} for text in documents]}, run.folder / "datasets")
    job = run.launch("pretrain", inputs={"tokenizer": run.folder / "tokenizer", "corpus": text["corpus"]})
    await watch(job)
    history = jsonl.read(run.folder / "metrics.jsonl")
    return Base("base", run.folder / "model", [row["loss"] for row in history if "loss" in row])


def make_data(
    run: Stage, kept: Sequence[datasets.Row], removed: Sequence[datasets.Row], tokenizer: Any
) -> Made:
    """Write the sets that this run trains on.

    Args:
        kept: verified traces of the embedded world, and `removed` the others; real data uses neither.
        tokenizer: the embedded world's.

    Raises:
        LeakError: a held-out problem is also in the training data.
        NotThere, DatasetChanged, NotASet: a dataset cannot be read as it should.
    """
    if isinstance(run.settings.data, DataSettings):
        return _make_stories(run, kept, len(removed), tokenizer)
    return _link_real(run)


def _make_stories(run: Stage, kept: Sequence[datasets.Row], removed: int, tokenizer: Any) -> Made:
    data = run.settings.data
    sets = {
        "traces": kept,
        "prompts": datasets.prompts_of(data),
        "heldout": datasets.build_heldout(data.heldout_per_level, data.seed, data.heldout_levels),
    }
    datasets.save(sets, run.folder / "datasets")
    lengths: dict[str, list[int]] = {}
    for row in kept[:MEASURED_TRACES]:
        tokens = len(tokenizer.apply_chat_template(row["messages"])["input_ids"])
        lengths.setdefault(f"level {row['level']}", []).append(tokens)
    rows = {name: len(entries) for name, entries in sets.items()}
    counts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    return Made(
        rows=rows,
        lengths=dict(sorted(lengths.items())),
        limit=None,
        text=f"{counts}; this lesson made the stories, the teacher and the verifier itself",
        metrics={
            "traces_written": len(kept) + removed,
            "traces_kept": len(kept),
            "kept_with_slips": sum(row["slips"] > 0 for row in kept),
            "kept_hurried": sum(row["hurried"] for row in kept),
        },
        artifacts={"model": "model", "tokenizer": "tokenizer"}
        | {name: f"datasets/{name}" for name in ("corpus", *sets)},
    )


def _link_real(run: Stage) -> Made:
    count = run.counter("rows of real data")
    prepared = prepare_profile(run.settings, cores(), lambda name, done, rows: count(done, rows or done))
    card, folder = prepared.card, run.folder / "datasets"
    folder.mkdir(exist_ok=True)
    for name in card.sets:
        # All runs share one copy: a set of real traces takes gigabytes.
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(prepared.folder / name, target_is_directory=True)
    (folder / cards.CARD).write_bytes((prepared.folder / cards.CARD).read_bytes())
    metrics: dict[str, float] = {f"{name}_prepared": rows for name, rows in card.sets.items()}
    if measured := card.trace_lengths():
        metrics["mean_tokens"] = measured.mean
    return Made(
        rows=card.sets,
        lengths={name: lengths for name, lengths in card.lengths().items() if lengths},
        limit=run.settings.in_effect("sft", "max_length"),
        text=(prepared.folder / cards.TEXT).read_text(encoding="utf-8"),
        metrics=metrics,
        artifacts={name: f"datasets/{name}" for name in card.sets} | {"card": f"datasets/{cards.CARD}"},
    )


# The stage merge_data


def merge(sets: Mapping[str, Iterable[Mapping[str, Any]]]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Merge datasets of traces in the order given; a trace that occurs twice is kept once.

    Returns:
        (rows, number of rows by source and of duplicates); a row has the columns of a trace and `source`.
    """
    seen: set[tuple[str, ...]] = set()
    rows, counts = [], dict.fromkeys([*sets, "duplicates"], 0)
    for name, source in sets.items():
        for row in source:
            texts = tuple(" ".join(turn["content"].split()) for turn in row["messages"])
            if texts in seen:
                counts["duplicates"] += 1
                continue
            seen.add(texts)
            rows.append({key: row.get(key) for key in TRACE_COLUMNS} | {"source": name})
            counts[name] += 1
    return rows, counts


def write_merged(job: program.Job) -> None:
    """Merge the inputs in `parameters.names` into `data/`."""
    names = job.settings["parameters"]["names"]
    rows, counts = merge({name: datasets.load(job.inputs[name]) for name in names})
    datasets.save_atomically(rows, job.folder / "data")
    write_json_atomic(job.folder / "counts.json", counts | {"rows": len(rows)})
    jsonl.truncate_after(job.metrics, 0)
    jsonl.append(job.metrics, {"step": 1, "total_steps": 1})
    print(f"{len(rows)} traces: {counts}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the merge_data stage and return its exit code."""
    from r1kit.training import program

    return program.run(write_merged, arguments)


if __name__ == "__main__":
    sys.exit(main())
