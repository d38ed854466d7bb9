"""The prepared data of a profile: where it lies, and making it where it is not there.

The stage 01_data for both kinds of data: the embedded world is made in the lesson, real data is prepared.

The lesson's small world (stories, a teacher who slips, a verifier) is shown under every profile: what it
teaches holds for real traces, and it costs seconds. What a run trains on is the profile's: `make_base` and
`make_data` know the difference, so that no cell has to ask.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data import card as cards
from r1kit.data import datasets
from r1kit.data.tokenizer import token_counter
from r1kit.machine.plan.inputs import given
from r1kit.machine.resources import cores
from r1kit.pipeline.stage import Stage
from r1kit.pipeline.stages import base_model
from r1kit.runs import jsonl
from r1kit.runs.files import write_text_atomic
from r1kit.runs.folder import runs_folder
from r1kit.settings import Problem, Profile, SettingsError, load_profile
from r1kit.settings.data import DataSettings, HubDataSettings
from r1kit.settings.errors import display_path

if TYPE_CHECKING:
    from r1kit.data.prepare import Progress


STORE = "R1KIT_DATA"


@dataclass(frozen=True)
class Prepared:
    """Prepared data: its folder, its card, and whether it was made just now."""

    folder: Path
    card: cards.Card
    fresh: bool


def prepared_folder() -> Path:
    """Where prepared data lies: `$R1KIT_DATA`, or `prepared/` in the runs folder. Runs share it."""
    return Path(os.environ.get(STORE) or runs_folder() / "prepared").expanduser().resolve()


def estimate(settings: Profile, card: cards.Card) -> dict[str, str]:
    """Say what `r1kit plan` makes of the prepared traces: tokens, epochs, steps, hours; or why it cannot."""
    from r1kit.machine.plan import make_plan

    lengths = card.trace_lengths()
    if lengths is None:
        return {"no estimate": "there are no traces"}
    try:
        made = make_plan(settings, lengths=lengths, documents=card.sets["traces"])
    except SettingsError as error:
        return {"no estimate": str(error).splitlines()[-1].strip()}
    sft = made.sft
    return {
        "traces": f"{card.sets['traces']:,} of {lengths.mean:,.0f} tokens on average",
        "tokens": f"{sft.tokens:,} in {sft.epochs:.3g} epochs",
        "steps": f"{sft.steps:,} of {sft.step_seconds:.3g} s",
        "time": f"{sft.hours:.3g} hours on {made.device.name}, an estimate (r1kit plan)",
    }


def prepare_profile(
    settings: Profile, workers: int = 1, progress: Progress = lambda name, done, rows: None
) -> Prepared:
    """The data of a profile, prepared now unless it is there; writes the card's text anew.

    Raises:
        SettingsError: the profile's data are stories.
        NotThere, DatasetChanged, NotASet: a dataset cannot be read as it should; each is one message.
    """
    from r1kit.data import prepare as preparation  # loads Arrow, which stories do without

    if not isinstance(settings.data, HubDataSettings):
        file = display_path(settings.folder / "data.yaml")
        message = "The stories are made by the stage 01_data, in seconds; nothing is prepared."
        raise SettingsError([Problem(file, "source", found="stories", allowed="hub", message=message)])
    tokens = token_counter(base_model(settings))
    planned = preparation.plan(settings.data, tokens, settings.folder)
    folder = prepared_folder() / f"{settings.name}-{planned.digest}"
    fresh = preparation.finished(folder) is None
    card = preparation.prepare(planned, folder, workers, progress)
    text = cards.render(card, given(settings, "sft", "max_length"), estimate(settings, card))
    write_text_atomic(folder / cards.TEXT, text)
    return Prepared(folder, card, fresh)


EXAMPLE = "cpu-tiny"
"""The profile whose world is shown where the data is real."""
SMALL = {"data.base_documents": 1000, "data.traces": 2000, "data.prompts": 100}
MEASURED = 2000  # kept traces whose tokens are counted


@dataclass(frozen=True)
class Base:
    """The model before anybody taught it: made in this stage (`folder`), or named by the profile."""

    name: str
    folder: Path | None
    losses: list[float]

    @property
    def metrics(self) -> dict[str, float]:
        """What the stage records of it."""
        return {"base_loss": self.losses[-1]} if self.losses else {}

    def describe(self, vocabulary: int) -> str:
        """Its loss beside that of a blind guess among `vocabulary` tokens."""
        if not self.folder:
            return f"{self.name} was trained by others; what it lost on the way is not known here"
        return (
            f"blind guess {math.log(vocabulary):.2f}, first logged loss {self.losses[0]:.2f}, "
            f"last {self.losses[-1]:.2f}"
        )

    def go_on(self, beginning: str, n: int = 3, max_new_tokens: int = 60) -> list[str]:
        """`n` texts that go on where `beginning` ends; none from a model that this stage did not make."""
        if not self.folder:
            return []
        from r1kit.evaluation import generate, load_checkpoint

        model, tokenizer = load_checkpoint(self.folder)
        samples = generate(model, tokenizer, [beginning], n=n, max_new_tokens=max_new_tokens)
        return samples.completions[0]


@dataclass(frozen=True)
class Made:
    """The sets of a run: rows of each, tokens of some traces by source, and what to record of them."""

    rows: dict[str, int]
    lengths: dict[str, Sequence[int]]
    limit: int | None
    text: str
    jsonl: dict[str, float]
    artifacts: dict[str, str]


def world(run: Stage) -> DataSettings:
    """The embedded world of this run, or where its data is real, a small one to look at."""
    if isinstance(run.settings.data, DataSettings):
        return run.settings.data
    print(f"{run.settings.name} has real data; the stories below are an example, nothing is trained on them")
    return load_profile(EXAMPLE, SMALL).data


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
        return _stories(run, kept, len(removed), tokenizer)
    return _real(run)


def _stories(run: Stage, kept: Sequence[datasets.Row], removed: int, tokenizer: Any) -> Made:
    data = run.settings.data
    sets = {
        "traces": kept,
        "prompts": datasets.prompts_of(data),
        "heldout": datasets.build_heldout(data.heldout_per_level, data.seed, data.heldout_levels),
    }
    datasets.save(sets, run.folder / "datasets")
    lengths: dict[str, list[int]] = {}
    for row in kept[:MEASURED]:
        tokens = len(tokenizer.apply_chat_template(row["messages"])["input_ids"])
        lengths.setdefault(f"level {row['level']}", []).append(tokens)
    rows = {name: len(found) for name, found in sets.items()}
    text = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    artifacts = {"model": "model", "tokenizer": "tokenizer"}
    artifacts |= {name: f"datasets/{name}" for name in ("corpus", *sets)}
    text = f"{text}; stories, teacher and verifier are this lesson's own"
    figures = {
        "traces_written": len(kept) + removed,
        "traces_kept": len(kept),
        "kept_with_slips": sum(row["slips"] > 0 for row in kept),
        "kept_hurried": sum(row["hurried"] for row in kept),
    }
    return Made(rows, dict(sorted(lengths.items())), None, text, figures, artifacts)


def _real(run: Stage) -> Made:
    count = run.counter("rows of real data")

    def progress(name: str, done: int, rows: int | None) -> None:
        count(done, rows or done)

    prepared = prepare_profile(run.settings, cores(), progress)
    card = prepared.card
    folder = run.folder / "datasets"
    folder.mkdir(exist_ok=True)
    for name in card.sets:
        # One copy for all runs: a set of real traces takes gigabytes.
        link = folder / name
        if link.is_symlink():
            link.unlink()
        os.symlink(prepared.folder / name, link, target_is_directory=True)
    (folder / cards.CARD).write_bytes((prepared.folder / cards.CARD).read_bytes())
    lengths = {name: found for name, found in card.lengths().items() if found}
    measured = card.trace_lengths()
    figures: dict[str, float] = {f"{name}_prepared": rows for name, rows in card.sets.items()}
    if measured:
        figures["mean_tokens"] = measured.mean
    return Made(
        rows=card.sets,
        lengths=lengths,
        limit=given(run.settings, "sft", "max_length"),
        text=(prepared.folder / cards.TEXT).read_text(encoding="utf-8"),
        metrics=figures,
        artifacts={name: f"datasets/{name}" for name in card.sets} | {"card": f"datasets/{cards.CARD}"},
    )
