"""Prepare real data: write the datasets that `data.yaml` names as sets with the embedded world's columns.

`plan` opens and checks the datasets, `prepare` writes the sets. Datasets are read in steps, converted on all
cores, and written in shards of 10,000 rows. A shard that exists is complete and is not written again, so a
preparation that was killed resumes and ends with the same rows. The shards are the files of the finished
sets, which trainings open with `datasets.load_from_disk`. The data card is written last: a folder with a card
is complete. The folder's name has a hash of everything that decides its content.

A weight, a cap and a seed decide which rows are drawn. open-r1 takes `int(rows * weight)` rows of the
shuffled dataset, so its weights above 1 have no effect. Here 2.5 takes each row twice and half of them a
third time. Rows keep the dataset's order: trainers shuffle them anyway, and an order that depends only on the
source makes resuming possible.

A hash of a problem's words and the seed decides whether it is held out, as in the embedded world, so it is on
the same side in all datasets that contain it.

Why not `Dataset.map(num_proc=N)`: a kill costs up to 1/N of a dataset instead of a shard, Parquet is first
copied into its cache and the result copied out again (three times the disk), streams cannot resume, and rows
that are held out or dropped would have to pass through the same table.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from r1kit.data.card import CARD, Card, SourceCard
from r1kit.data.row_files import in_steps, map_in_order, open_rows
from r1kit.data.sources import (
    FLAG,
    INTEGER,
    STRING,
    TURNS,
    Entry,
    Opened,
    columns_read,
    open_source,
    reader_of,
    source_of,
)
from r1kit.data.texts import problem_text, words
from r1kit.data.tokenizer import TokenCounter
from r1kit.runs.files import folder_lock, read_json, replacing, write_json_atomic
from r1kit.settings.data import HubDataSettings, HubPrompts

if TYPE_CHECKING:
    import numpy as np

FORM = 1
"""Version of the result; increased if the same settings and datasets give other rows."""
STEP_ROWS, SHARD_ROWS = 500, 10_000
"""Source rows that a worker gets at once (10 MB of traces), and that become one shard."""
TRACES, PROMPTS, HELDOUT = "traces", "prompts", "heldout"
SETS = {
    TRACES: pa.schema(
        {"messages": TURNS, "problem": STRING, "solution": STRING, "verified": FLAG, "source": STRING}
    ),
    PROMPTS: pa.schema(
        {"prompt": TURNS, "problem": STRING, "solution": STRING, "verification_info": STRING,
         "source": STRING}
    ),
    HELDOUT: pa.schema(
        {"problem": STRING, "solution": STRING, "verification_info": STRING, "level": INTEGER,
         "source": STRING}
    ),
}  # fmt: skip
"""Columns of the prepared sets. `level` is 0: real problems have none, but the lessons' tables use it."""
TALLIES = "tallies"
OPTIONAL = ("finish_reason", "problem", "solution", "verified", "verification_info")
"""Columns that readers use if they exist."""
HELD_OUT = "held out"
EXAMPLE_CHARACTERS = 160
"""Length of a dropped row's text on the card."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Plan:
    """A preparation that was checked but not started.

    Attributes:
        opened: (set, dataset, copies of each of its rows: see `copies_of_rows`).
        folder: the profile's folder.
        digest: a hash of everything that decides the content.
    """

    data: HubDataSettings
    opened: tuple[tuple[str, Opened, np.ndarray | None], ...]
    tokens: TokenCounter
    folder: Path
    digest: str


def plan(data: HubDataSettings, tokens: TokenCounter, folder: str | Path = ".") -> Plan:
    """Open and check every dataset, without writing anything.

    Args:
        tokens: counts the tokens of prompts and of some traces (`token_counter`).
        folder: the profile's folder; local paths are relative to it.

    Raises:
        NotThere, DatasetChanged, NotASet: see `open_source`.
    """
    entries = [(TRACES, entry) for entry in data.traces_from]
    entries += [(PROMPTS, entry) for entry in data.prompts_from]
    opened = [(name, open_source(entry, data, folder)) for name, entry in entries]
    decides = data.model_dump(mode="json", exclude={"mirror", "stream", "excerpt", "prompts"})
    facts = [decides, [source.identity for _, source in opened], FORM]
    facts += [_sha256(tokens.json), tokens.prompt_overhead, tokens.conversation_overhead]
    for _, entry in entries:
        rates = _measured_rates(entry, Path(folder))
        facts.append(_sha256(json.dumps(rates, sort_keys=True)) if rates else "")
    digest = _sha256(json.dumps(facts, sort_keys=True))[:12]
    drawn = tuple((name, source, copies_of_rows(source, data.seed)) for name, source in opened)
    return Plan(data, drawn, tokens, Path(folder), digest)


def copies_of_rows(opened: Opened, seed: int) -> np.ndarray | None:
    """Draw how often each row is taken, by the entry's `weight` and `most`.

    Returns:
        int array [rows up to the last one taken]; None takes every row once.

    Raises:
        ValueError: there is a weight for a stream that does not state its number of rows.
    """
    import numpy as np

    entry, rows = opened.entry, opened.data.rows
    if rows is None:
        if entry.weight != 1:
            message = f"{opened.name}: a weight needs the number of rows, which this stream does not state"
            raise ValueError(f"{message}; write most: instead, or stream: false")
        return None if entry.most is None else np.ones(entry.most, dtype=np.int64)
    wanted = int(rows * entry.weight)
    wanted = min(wanted, entry.most or wanted)
    copies = np.full(rows, wanted // max(1, rows), dtype=np.int64)
    rng = np.random.default_rng([seed, zlib.crc32(opened.name.encode())])
    copies[rng.permutation(rows)[: wanted - int(copies.sum())]] += 1
    return np.trim_zeros(copies, "b")


def prepare(
    planned: Plan,
    out: str | Path,
    workers: int = 1,
    progress: Progress = lambda name, done, rows: None,
) -> Card:
    """Write `traces`, `prompts`, `heldout` and `card.json` into `out`, or return the existing card.

    Args:
        out: a folder for this plan only.
        workers: processes that convert rows; 1 converts in this process.
        progress: called with a dataset's name, its rows read so far, and all its rows (None: unknown).
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        card = finished(out)
        if card is None:
            sources = []
            for position, (name, opened, copies) in enumerate(planned.opened):
                prefix = f"{name}-{position:02d}"
                _write_shards(planned, prefix, opened, copies, out, workers, progress)
                sources.append(_source_card(name, opened, _tally(out, prefix)))
            card = Card(
                digest=planned.digest,
                sets={name: _complete_set(out, name, planned.digest) for name in SETS},
                sources=sources,
                tokenizer=planned.tokens.model,
                counted=planned.tokens.counted,
                why=planned.tokens.why,
                seed=planned.data.seed,
                heldout_share=planned.data.heldout_share,
                planned_prompts=planned.data.prompts,
                settings=planned.data.model_dump(mode="json"),
            )
            write_json_atomic(out / CARD, asdict(card))
        shutil.rmtree(out / TALLIES, ignore_errors=True)
    return card


def finished(out: str | Path) -> Card | None:
    """Return the card of a prepared folder, None if the preparation is not complete."""
    content = read_json(Path(out) / CARD)
    return Card.from_dict(content) if isinstance(content, dict) else None


@dataclass
class Tally:
    """Counts of what happened to rows; `lengths` are the tokens of the measured rows."""

    drawn: int = 0
    written: int = 0
    heldout: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another tally; the first example of each reason is kept."""
        self.drawn += other.drawn
        self.written += other.written
        self.heldout += other.heldout
        self.dropped = dict(Counter(self.dropped) + Counter(other.dropped))
        self.examples = other.examples | self.examples
        self.lengths += other.lengths


@dataclass(frozen=True)
class Step:
    """Rows `start` to `end` of a dataset: those that are drawn, their numbers, and the copies of each."""

    start: int
    end: int
    rows: pa.RecordBatch
    numbers: list[int]
    copies: list[int]


@dataclass(frozen=True)
class Converted:
    """The result of a step: rows of its set, and rows of the held-out set."""

    start: int
    end: int
    rows: pa.RecordBatch
    heldout: list[dict[str, Any]]
    tally: Tally


@dataclass(frozen=True)
class Conversion:
    """The conversion of one dataset's rows; workers call it with a step.

    Attributes:
        set_name: `traces` or `prompts`.
        name: the dataset's name, for the column `source`.
        columns: the names of its columns.
        rates: measured pass rates by `rate_key`; None uses the dataset's own column.
        every: one in this many rows has its tokens counted.
    """

    set_name: str
    name: str
    entry: Entry
    columns: list[str]
    data: HubDataSettings
    tokens: TokenCounter
    rates: Mapping[str, float] | None
    every: int

    def __call__(self, step: Step) -> Converted:
        """Convert a step."""
        read = reader_of(self.entry, self.columns)
        kept: list[dict[str, Any]] = []
        heldout: list[dict[str, Any]] = []
        tally = Tally()
        for row, number, copies in zip(step.rows.to_pylist(), step.numbers, step.copies, strict=True):
            tally.drawn += copies
            for result in read(row):
                reason = result if isinstance(result, str) else self._refusal(row, result)
                if reason == HELD_OUT:
                    tally.heldout += copies
                    if self.set_name == PROMPTS:
                        content = result | {"level": 0, "source": self.name}
                        heldout.append({column: content.get(column) for column in SETS[HELDOUT].names})
                elif reason:
                    tally.dropped[reason] = tally.dropped.get(reason, 0) + copies
                    tally.examples.setdefault(reason, _first_text(row))
                else:
                    if number % self.every == 0:
                        tally.lengths.append(self._length(result))
                    tally.written += copies
                    kept += [result | {"source": self.name}] * copies
        rows = pa.RecordBatch.from_pylist(kept, schema=SETS[self.set_name])
        return Converted(step.start, step.end, rows, heldout, tally)

    def _refusal(self, row: Mapping[str, Any], converted: Mapping[str, Any]) -> str:
        """Return the reason to drop a converted row, `HELD_OUT`, or ""."""
        prompts, problem = self.set_name == PROMPTS, converted["problem"]
        if prompts and self._length(converted) > self.data.max_prompt_length:
            return "prompt longer than max_prompt_length"
        if is_heldout(problem_key(problem), self.data.seed, self.data.heldout_share):
            return HELD_OUT
        if prompts and self.entry.pass_rate and has_rates(self.entry, self.columns):
            if self.rates is None:
                rate = row.get(source_of(self.entry).pass_rate)
            else:
                rate = self.rates.get(rate_key(problem))
            least, most = self.entry.pass_rate
            if rate is None:
                return "no pass rate"
            if not least <= rate <= most:
                return "pass rate outside the band"
        return ""

    def _length(self, converted: Mapping[str, Any]) -> int:
        if self.set_name == PROMPTS:
            return self.tokens.prompt_length(converted["prompt"][-1]["content"])
        return self.tokens.conversation_length(converted["messages"])


def problem_key(text: str) -> str:
    """Hash a problem's words, so that case, spaces, punctuation and LaTeX typography do not count."""
    return _sha256(" ".join(words(text)))[:32]


def rate_key(text: str) -> str:
    """Return a text with single spaces: 2 + 3 and 2 - 3 share a `problem_key`, but not a pass rate."""
    return " ".join(text.split())


def is_heldout(key: str, seed: int, share: float) -> bool:
    """Decide whether the problem with this key is held out: a share of all keys, depending on the seed."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _write_shards(
    planned: Plan,
    prefix: str,
    opened: Opened,
    copies: np.ndarray | None,
    out: Path,
    workers: int,
    progress: Progress,
) -> None:
    entry, rows, set_name = opened.entry, opened.data.rows, prefix.partition("-")[0]
    total = 0 if copies is None else int(copies.sum())
    every = max(1, total // planned.data.measured_rows) if planned.data.measured_rows else 1
    rates = _measured_rates(entry, planned.folder)
    convert = Conversion(
        set_name, opened.name, entry, opened.columns, planned.data, planned.tokens, rates, every
    )
    wanted = {*columns_read(entry, opened.columns), *OPTIONAL, source_of(entry).pass_rate}
    columns = [name for name in opened.columns if name in wanted]

    def path(start: int) -> Path:
        return out / set_name / f"{prefix}-{start // SHARD_ROWS:05d}.arrow"

    def steps() -> Iterator[Step]:
        for step in _steps(opened, copies, columns):
            if step.numbers and not path(step.start).is_file():
                yield step
            else:
                progress(opened.name, step.end, rows)

    few = rows is not None and rows <= 4 * STEP_ROWS  # a pool takes longer to start
    results = map_in_order(convert, steps(), 1 if few else workers)
    for shard, group in groupby(results, key=lambda result: path(result.start)):
        _write_shard(shard, group, out, lambda done: progress(opened.name, done, rows))


def _steps(opened: Opened, copies: np.ndarray | None, columns: list[str]) -> Iterator[Step]:
    """Divide a dataset into steps that depend only on row numbers, not on its files."""
    import numpy as np

    start = 0
    for batch in in_steps(opened.data.batches(), STEP_ROWS):
        if copies is not None and start >= len(copies):
            return
        end, batch = start + batch.num_rows, batch.select(columns)
        if copies is None:
            times = np.ones(batch.num_rows, dtype=np.int64)
        else:
            times = np.pad(copies[start:end], (0, max(0, end - len(copies))))
        taken = times > 0
        rows = batch if taken.all() else batch.filter(pa.array(taken))
        yield Step(start, end, rows, (start + np.flatnonzero(taken)).tolist(), times[taken].tolist())
        start = end


def _write_shard(
    path: Path, results: Iterable[Converted], out: Path, progress: Callable[[int], None]
) -> None:
    """Write a shard; its rows get their name last, so that an existing shard is complete."""
    tally, heldout = Tally(), []
    schema = SETS[path.parent.name]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        with pa.ipc.new_stream(file, schema) as stream:
            for result in results:
                stream.write_batch(result.rows)
                heldout += result.heldout
                tally.add(result.tally)
                progress(result.end)
        note = out / TALLIES / f"{path.stem}.json"
        note.parent.mkdir(exist_ok=True)
        write_json_atomic(note, {"tally": asdict(tally), "heldout": heldout})


def _tally(out: Path, prefix: str) -> Tally:
    tally = Tally()
    for note in sorted((out / TALLIES).glob(f"{prefix}-*.json")):
        tally.add(Tally(**read_json(note)["tally"]))
    return tally


def _source_card(name: str, opened: Opened, tally: Tally) -> SourceCard:
    entry, source = opened.entry, source_of(opened.entry)
    notes = list(opened.notes)
    if isinstance(entry, HubPrompts) and entry.pass_rate and not has_rates(entry, opened.columns):
        notes.append("the band pass_rate was not applied: no rates are known")
    return SourceCard(
        set=name,
        name=opened.name,
        place=opened.place,
        revision=opened.revision,
        pinned=bool(entry.revision or source.revision) or opened.place in ("local", "mirror"),
        rows=opened.data.rows,
        drawn=tally.drawn,
        written=tally.written,
        heldout=tally.heldout,
        dropped=dict(sorted(tally.dropped.items())),
        examples=dict(sorted(tally.examples.items())),
        lengths=sorted(tally.lengths),
        notes=notes,
    )


def _complete_set(out: Path, name: str, digest: str) -> int:
    """Make a set's shards a dataset that `load_from_disk` opens, and return its number of rows.

    The shards become its files without being read: with `save_to_disk` every row would be in memory,
    2.5 GB for 120,000 traces (2026-11-24).
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    folder, schema = out / name, SETS[name]
    Dataset(schema.empty_table()).save_to_disk(str(folder))  # describes the columns; writes no rows
    for temporary in folder.glob(".*.tmp"):  # from a preparation that was killed
        temporary.unlink()
    if not any(folder.glob("*.arrow")):
        rows = _distinct_heldout(out) if name == HELDOUT else []
        with (
            replacing(folder / f"{name}.arrow") as temporary,
            open(temporary, "wb") as file,
            pa.ipc.new_stream(file, schema) as stream,
        ):
            stream.write_table(pa.Table.from_pylist(rows, schema=schema))
    state = read_json(folder / "state.json")
    state["_data_files"] = [{"filename": shard.name} for shard in sorted(folder.glob("*.arrow"))]
    state["_fingerprint"] = f"{digest}-{name}"  # the caches of `map` use it
    write_json_atomic(folder / "state.json", state)
    return len(Dataset.load_from_disk(str(folder)))


def _distinct_heldout(out: Path) -> list[dict[str, Any]]:
    """Return the held-out rows, each problem once, however many datasets contain it."""
    rows: dict[str, dict[str, Any]] = {}
    for note in sorted((out / TALLIES).glob("*.json")):
        for row in read_json(note)["heldout"]:
            rows.setdefault(problem_key(row["problem"]), row)
    return list(rows.values())


def _measured_rates(entry: Entry, folder: Path) -> dict[str, float] | None:
    if not (isinstance(entry, HubPrompts) and entry.pass_rates):
        return None
    rows = open_rows(Path(folder, Path(entry.pass_rates).expanduser()))
    return {rate_key(problem_text(row)): row["pass_rate"] for row in rows if row.get("pass_rate") is not None}


def has_rates(entry: HubPrompts, columns: Iterable[str]) -> bool:
    """Tell whether pass rates are known: measured ones, or a column of the dataset."""
    return bool(entry.pass_rates) or source_of(entry).pass_rate in columns


def _first_text(row: Mapping[str, Any]) -> str:
    texts = [str(value) for value in row.values() if value]
    return (texts[0] if texts else "")[:EXAMPLE_CHARACTERS]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
