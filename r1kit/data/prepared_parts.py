"""Parts of a set that is being prepared, and their joining: what makes a preparation survive a kill.

A part is three files: rows of ours, held-out rows, and the tally of what became of the rows that were read.
Each is written under another name and renamed; the file of rows comes last, so a part that has it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.convert import SETS, Tally, problem_key
from r1kit.data.sources.schema import arrow_schema
from r1kit.runs.files import write_json_atomic

if TYPE_CHECKING:
    import pyarrow as pa

HELD = "heldout"


def part_path(folder: Path, prefix: str, part: int) -> Path:
    """Where the rows of a part are; `prefix` is the set and the dataset's position, `traces-00`."""
    return folder / f"{prefix}-{part:05d}.arrow"


def write_part(folder: Path, prefix: str, part: int, held: list[tuple[Any, Any, Tally]]) -> None:
    """Write what the batches of a part became, `Conversion`'s results in order."""
    tally = Tally()
    for _, _, found in held:
        tally.add(found)
    path = part_path(folder, prefix, part)
    own = SETS[prefix.partition("-")[0]]
    _write_arrow(folder / f"{HELD}-{path.name}", [reserved for _, reserved, _ in held], SETS[HELD])
    write_json_atomic(path.with_suffix(".json"), asdict(tally))
    _write_arrow(path, [kept for kept, _, _ in held], own)  # last: this file says that the part is done


def tally_of(folder: Path, prefix: str) -> Tally:
    """What became of the rows of a dataset, over all its parts."""
    tally = Tally()
    for path in sorted(folder.glob(f"{prefix}-*.json")):
        tally.add(Tally(**json.loads(path.read_text(encoding="utf-8"))))
    return tally


def join_parts(out: Path, name: str) -> int:
    """Join a set's parts into the folder `out/name`, all or nothing, and return its rows.

    The parts become the set's own files, without being read: copied through `save_to_disk` every row would
    pass through memory, 2.5 GB for 120,000 traces (2026-11-24).
    """
    from datasets import Dataset, Features, disable_progress_bars

    disable_progress_bars()
    target = out / name
    if target.is_dir():
        return len(Dataset.load_from_disk(str(target)))
    paths = sorted((out / "parts").glob(f"{name}-*.arrow"))
    if name == HELD or not paths:  # `datasets` loads no set without a file
        paths = [_distinct(paths, out / "parts" / f"{name}.arrow", SETS[name])]
    temporary = out / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    features = Features.from_arrow_schema(arrow_schema(SETS[name]))
    Dataset.from_dict({column: [] for column in SETS[name]}, features=features).save_to_disk(str(temporary))
    _take(paths, temporary, name)
    os.replace(temporary, target)
    return len(Dataset.load_from_disk(str(target)))


def _take(paths: list[Path], saved: Path, name: str) -> None:
    """Make the parts the files of an empty set that `save_to_disk` wrote."""
    state = json.loads((saved / "state.json").read_text(encoding="utf-8"))
    files = [f"data-{number:05d}-of-{len(paths):05d}.arrow" for number in range(len(paths))]
    for path, file in zip(paths, files, strict=True):
        try:
            os.link(path, saved / file)
        except OSError:  # a disk without links
            shutil.copyfile(path, saved / file)
    state["_data_files"] = [{"filename": file} for file in files]
    # Caches of `map` go by it; an empty set's would be every set's.
    sizes = [(saved.parent.name, name, path.name, path.stat().st_size) for path in paths]
    state["_fingerprint"] = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]
    write_json_atomic(saved / "state.json", state)


def _distinct(paths: list[Path], target: Path, columns: dict[str, str]) -> Path:
    """One part of the rows of many, each problem once, however many datasets hold it."""
    import pyarrow as pa
    from datasets import Dataset

    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for row in Dataset.from_file(str(path)):
            found.setdefault(problem_key(row["problem"]), row)
    rows = pa.RecordBatch.from_pylist(list(found.values()), arrow_schema(columns))
    _write_arrow(target, [rows], columns)
    return target


def _write_arrow(path: Path, batches: list[pa.RecordBatch], columns: dict[str, str]) -> None:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        with pa.ipc.new_stream(file, arrow_schema(columns)) as stream:
            for batch in batches:
                stream.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)
