"""Real data made ready for a training: what `data.yaml` names, as sets with the embedded world's columns.

Datasets are read step by step, converted on all cores, and written in parts; a part that is there is whole
and is not made again, so a preparation that was killed goes on and ends with the same rows. The finished sets
are `save_to_disk` folders, as the trainings read them, beside a data card, which is written last: a folder
with a card is done. Its name carries a hash of everything that decides its content.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.card import CARD, Card, SourceCard
from r1kit.data.convert import COPIES, MEASURE, Conversion, Tally, rate_key
from r1kit.data.mixtures import Drawn, draw, drawn_batches
from r1kit.data.parallel import each_batch
from r1kit.data.prepared_parts import join_parts, part_path, tally_of, write_part
from r1kit.data.row_files import open_rows
from r1kit.data.sources import Opened, open_source, source_of
from r1kit.data.sources.registry import Entry, columns_read
from r1kit.data.texts import problem_text
from r1kit.data.tokens import TokenCounter
from r1kit.runs.files import folder_lock, read_json, write_json_atomic
from r1kit.settings.hub_data import HubDataSettings, HubPrompts

if TYPE_CHECKING:
    import pyarrow as pa

FORM = 1
"""Raised when the same settings and datasets make other rows."""
STEP, PART_STEPS = 500, 20
"""Rows that a worker gets at once (10 MB of traces), and steps of a part, which a kill may cost."""
PART = STEP * PART_STEPS
OPTIONAL = ("finish_reason", "problem", "solution", "verified", "verification_info")
"""Columns that readers take where they are."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Plan:
    """What is going to be made: datasets opened and drawn from, whose tokens are counted, the hash of it."""

    data: HubDataSettings
    opened: tuple[tuple[str, Opened, Drawn], ...]
    tokens: TokenCounter
    folder: Path
    digest: str


def plan(data: HubDataSettings, tokens: TokenCounter, folder: str | Path = ".") -> Plan:
    """Open and check every dataset; nothing is written.

    Args:
        tokens: counts the tokens of prompts and of some traces (`token_counter`).
        folder: the profile's, from which local paths count.

    Raises:
        NotThere, DatasetChanged, NotASet: see `open_source`.
    """
    entries = [("traces", entry) for entry in data.traces_from]
    entries += [("prompts", entry) for entry in data.prompts_from]
    opened = []
    for name, entry in entries:
        source = open_source(entry, data, folder)
        opened.append((name, source, draw(source, data.seed)))
    decides = data.model_dump(mode="json", exclude={"mirror", "stream", "excerpt", "prompts"})
    facts = [decides, [source.identity for _, source, _ in opened], FORM]
    facts += [hashlib.sha256(tokens.json.encode()).hexdigest(), tokens.asking, tokens.answering]
    facts += [_rates_identity(entry, folder) for _, entry in entries]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return Plan(data, tuple(opened), tokens, Path(folder), digest)


def prepare(
    planned: Plan,
    out: str | Path,
    workers: int = 1,
    progress: Progress = lambda name, done, rows: None,
) -> Card:
    """Write `traces`, `prompts`, `heldout` and `card.json` into `out`, or return the card that is there.

    Args:
        out: the folder of this plan alone.
        workers: processes that convert rows; 1 converts in this one.
        progress: told a dataset's name, how many of its rows were read, and how many it has (None: unknown).
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        if card := finished(out):
            shutil.rmtree(out / "parts", ignore_errors=True)
            return card
        sources = []
        for position, (name, opened, drawn) in enumerate(planned.opened):
            prefix = f"{name}-{position:02d}"
            _make_parts(planned, opened, drawn, out / "parts", prefix, workers, progress)
            sources.append(_source_card(name, opened, out / "parts", prefix))
        sets = {name: join_parts(out, name) for name in ("traces", "prompts", "heldout")}
        card = Card(
            digest=planned.digest,
            sets=sets,
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
        shutil.rmtree(out / "parts", ignore_errors=True)
    return card


def finished(out: str | Path) -> Card | None:
    """The card of a prepared folder; None where the preparation is not done."""
    found = read_json(Path(out) / CARD)
    return Card.from_dict(found) if isinstance(found, dict) else None


def _make_parts(
    planned: Plan, opened: Opened, drawn: Drawn, folder: Path, prefix: str, workers: int, progress: Progress
) -> None:
    conversion = _conversion(planned, opened)
    order: deque[tuple[int, int]] = deque()
    columns = _columns(opened, conversion)
    every = _every(drawn.total, planned.data.measured_rows)

    def steps() -> Iterator[pa.RecordBatch]:
        for start, batch, copies in drawn_batches(opened, drawn, STEP):
            part = start // PART
            if copies.any() and not part_path(folder, prefix, part).is_file():
                order.append((part, start + batch.num_rows))
                yield _marked(batch.select(columns), copies, start, every)
            else:
                progress(opened.name, start + batch.num_rows, opened.rows)

    small = opened.rows is not None and opened.rows <= 4 * STEP
    held: list[tuple[pa.RecordBatch, pa.RecordBatch, Tally]] = []
    current = -1
    for result in each_batch(conversion, steps(), 1 if small else workers):
        part, done = order.popleft()
        if part != current and held:
            write_part(folder, prefix, current, held)
            held = []
        current = part
        held.append(result)
        progress(opened.name, done, opened.rows)
    if held:
        write_part(folder, prefix, current, held)


def _conversion(planned: Plan, opened: Opened) -> Conversion:
    entry, data = opened.entry, planned.data
    column = source_of(entry).pass_rate
    return Conversion(
        entry=entry,
        name=opened.name,
        columns=tuple(opened.schema.names),
        tokens=planned.tokens,
        seed=data.seed,
        heldout_share=data.heldout_share,
        max_prompt_length=data.max_prompt_length,
        rates=_rates(entry, planned.folder),
        rate_column=column if column in opened.schema.names else "",
    )


def _columns(opened: Opened, conversion: Conversion) -> list[str]:
    there = opened.schema.names
    wanted = [*columns_read(opened.entry, there), *OPTIONAL, conversion.rate_column]
    return [name for name in there if name in wanted]


def _every(total: int | None, measured: int | None) -> int:
    """Tokens are counted of every n-th row."""
    return 1 if not total or measured is None else max(1, total // measured)


def _marked(batch: pa.RecordBatch, copies: Any, start: int, every: int) -> pa.RecordBatch:
    """The rows that are taken, with how often, and whether their tokens are counted."""
    import numpy as np
    import pyarrow as pa

    measured = (np.arange(start, start + batch.num_rows) % every) == 0
    batch = batch.append_column(COPIES, pa.array(copies)).append_column(MEASURE, pa.array(measured))
    return batch if copies.all() else batch.filter(pa.array(copies > 0))


def _source_card(name: str, opened: Opened, folder: Path, prefix: str) -> SourceCard:
    tally = tally_of(folder, prefix)
    entry = opened.entry
    banded = isinstance(entry, HubPrompts) and entry.pass_rate and not _has_rates(opened)
    notes = [*opened.notes, *(["the band pass_rate was not applied: no rates are known"] if banded else [])]
    return SourceCard(
        set=name,
        name=opened.name,
        place=opened.place,
        revision=opened.revision,
        pinned=bool(entry.revision or source_of(entry).revision) or opened.place in ("local", "mirror"),
        rows=opened.rows,
        drawn=tally.rows,
        written=tally.written,
        heldout=tally.heldout,
        dropped=dict(sorted(tally.dropped.items())),
        examples=dict(sorted(tally.examples.items())),
        lengths=sorted(tally.lengths),
        notes=notes,
    )


def _rates(entry: Entry, folder: Path) -> dict[str, float] | None:
    if not (isinstance(entry, HubPrompts) and entry.pass_rates):
        return None
    rows = open_rows(Path(folder, Path(entry.pass_rates).expanduser()))
    return {rate_key(problem_text(row)): row["pass_rate"] for row in rows if row.get("pass_rate") is not None}


def _has_rates(opened: Opened) -> bool:
    return bool(opened.entry.pass_rates) or source_of(opened.entry).pass_rate in opened.schema.names


def _rates_identity(entry: Entry, folder: str | Path) -> str:
    rates = _rates(entry, Path(folder))
    text = json.dumps(rates, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if rates else ""
