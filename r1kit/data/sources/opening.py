"""Open a dataset where it lies: in a local file, in a mirror folder, or on the hub (copied or streamed).

A mirror holds datasets as the hub does, `<mirror>/<organisation>/<name>/`, so that a copy made with
`hf download --repo-type dataset` is one. Which files belong to a configuration is read from its README's
`configs`, as the `datasets` library does; without a README they are looked for by name (`LAYOUTS`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.row_files import BATCH, NotASet, RowFile, open_files, open_rows
from r1kit.data.sources.registry import SOURCES, Entry, columns_read, source_of
from r1kit.data.sources.schema import DatasetChanged, check_columns
from r1kit.settings.hub_data import HubDataSettings

if TYPE_CHECKING:
    import pyarrow as pa

MIRROR = "R1KIT_MIRROR"
LAYOUTS = (
    "{config}/{split}-*", "{config}/{split}.*", "{config}/{config}-*", "data/{config}/{split}-*",
    "{config}-{split}.*", "{config}.*",
)  # fmt: skip
"""Where the files of a configuration lie; those of `default` also in `data/` and in the folder itself."""
DEFAULT_LAYOUTS = ("data/{split}-*", "data/{split}.*", "{split}-*", "{split}.*")


class NotThere(ValueError):
    """A dataset is neither in the mirror nor on the hub; the command line exits with 2."""

    exit_code = 2


@dataclass(frozen=True)
class Opened:
    """A dataset ready to be read.

    Attributes:
        place: "local", "mirror", "hub" or "hub, streamed".
        identity: what changes when the data changes: a commit, or the names, sizes and times of its files.
        rows: None where a stream does not say.
        notes: what changed in columns that nobody reads.
    """

    entry: Entry
    place: str
    identity: str
    schema: pa.Schema
    rows: int | None
    read: Callable[[], Iterator[pa.RecordBatch]]
    revision: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Dataset, configuration and split as one word: `open-r1/Mixture-of-Thoughts/math/train`."""
        if self.place == "local":
            return Path(self.entry.dataset).name
        return f"{self.entry.dataset}/{self.entry.config}/{self.entry.split}"


def open_source(entry: Entry, data: HubDataSettings, folder: str | Path = ".") -> Opened:
    """The dataset of an entry of `traces_from` or `prompts_from`, its columns and rows checked.

    Args:
        folder: what a local path that begins with a dot counts from, the profile's.

    Raises:
        NotThere: no such file, no such part in the mirror, or the hub cannot be reached.
        DatasetChanged: columns that are read are gone or of another type, or rows are missing.
        NotASet: a file that cannot be read as rows.
    """
    if entry.dataset not in SOURCES:
        opened = _local(entry, Path(folder))
    elif mirror := data.mirror or os.environ.get(MIRROR):
        opened = _mirrored(entry, Path(folder, Path(mirror).expanduser()))
    else:
        opened = from_hub(entry, stream=data.stream)
    source = source_of(entry)
    opened.notes.extend(
        check_columns(opened.name, opened.schema, source.columns, columns_read(entry, opened.schema.names))
    )
    expected = source.counts.get(f"{entry.config}/{entry.split}")
    pinned = entry.revision in (None, source.revision)
    if expected and pinned and not data.excerpt and opened.rows not in (None, expected):
        message = (
            f"{opened.name} changed: it has {opened.rows:,} rows, expected {expected:,} ({opened.place}).\n"
            "  If the copy is a part of it, say so in data.yaml: excerpt: true\n"
            "  If it is a version of your choice, name it: revision: <commit>"
        )
        raise DatasetChanged(message)
    return opened


def from_hub(entry: Entry, stream: bool = False) -> Opened:
    """A dataset of the hub at the entry's revision, else at the one that was checked, else the newest.

    Args:
        stream: read the files as they come instead of copying the dataset into the hub's cache.

    Raises:
        NotThere: the hub cannot be reached or does not have it.
    """
    revision = _commit(entry.dataset, entry.revision or source_of(entry).revision)
    try:
        schema, rows, read = load(entry.dataset, entry.config, entry.split, revision, stream)
    except (OSError, ValueError, RuntimeError) as error:
        raise NotThere(_unreachable(entry, error)) from error
    place = "hub, streamed" if stream else "hub"
    return Opened(entry, place, f"{entry.dataset}@{revision or 'newest'}", schema, rows, read, revision)


def load(
    name: str, config: str, split: str, revision: str | None = None, stream: bool = False
) -> tuple[pa.Schema, int | None, Callable[[], Iterator[pa.RecordBatch]]]:
    """(columns, rows, a function that reads them) of whatever `datasets.load_dataset` opens."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    loaded = load_dataset(name, config, split=split, revision=revision, streaming=stream)
    known = (loaded.info.splits or {}).get(split) if stream else None
    rows = (known.num_examples if known else None) if stream else len(loaded)
    arrow = loaded.with_format("arrow")

    def read() -> Iterator[pa.RecordBatch]:
        for table in arrow.iter(BATCH):
            yield from table.combine_chunks().to_batches()

    # A stream knows its columns only where the dataset's card or its files say them.
    schema = loaded.features.arrow_schema if loaded.features else next(iter(arrow.iter(1))).schema
    return schema, rows, read


def mirrored_files(folder: Path, config: str, split: str) -> list[Path]:
    """The files of a configuration's split in a dataset's folder of a mirror, in order; [] if none."""
    patterns = _patterns_of_card(folder, config, split)
    if not patterns:
        layouts = [*LAYOUTS, *(DEFAULT_LAYOUTS if config == "default" else ())]
        patterns = [layout.format(config=config, split=split) for layout in layouts]
        for pattern in patterns:
            if found := _data_files(folder, [pattern]):
                return found
        return []
    return _data_files(folder, patterns)


def _local(entry: Entry, folder: Path) -> Opened:
    path = Path(folder, Path(entry.dataset).expanduser())
    if not path.exists():
        raise NotThere(f"{entry.dataset}: there is no file or folder {path}")
    return _opened(entry, "local", open_rows(path), path)


def _mirrored(entry: Entry, mirror: Path) -> Opened:
    folder = mirror / entry.dataset
    saved = [folder / entry.config / entry.split, folder / entry.config]
    for path in saved:
        if (path / "state.json").is_file():
            return _opened(entry, "mirror", open_rows(path), path)
    files = mirrored_files(folder, entry.config, entry.split)
    if not files:
        part = f"{entry.config}/{entry.split}-00000-of-00001.parquet"
        found = "has no files of it" if folder.is_dir() else "is not there"
        message = (
            f"{entry.dataset}, part {entry.config}, split {entry.split}: the mirror {folder} {found}.\n"
            f"  With a network: hf download --repo-type dataset {entry.dataset} --local-dir {folder}\n"
            f"  Files of your own: {folder / part} (.parquet or .jsonl; docs/data.md says which columns)"
        )
        raise NotThere(message)
    return _opened(entry, "mirror", open_files(folder, files), *files)


def _opened(entry: Entry, place: str, found: RowFile, *files: Path) -> Opened:
    every = [f for file in files for f in (sorted(file.rglob("*")) if file.is_dir() else [file])]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in every if file.is_file()]
    return Opened(entry, place, str(facts), found.schema, found.rows, found.batches)


def _patterns_of_card(folder: Path, config: str, split: str) -> list[str]:
    """The patterns of `configs` in the README's heading, as `datasets` reads them; [] without."""
    readme = folder / "README.md"
    if not readme.is_file():
        return []
    from huggingface_hub import metadata_load

    configs = (metadata_load(readme) or {}).get("configs") or []
    files: Any = next((one.get("data_files") for one in configs if one.get("config_name") == config), None)
    if isinstance(files, str):
        return [files]
    paths = [one["path"] if isinstance(one, dict) else one for one in files or () if _is_of(split, one)]
    return [pattern for path in paths for pattern in ([path] if isinstance(path, str) else path)]


def _is_of(split: str, files: Any) -> bool:
    """Whether an entry of `data_files` holds the split; a bare pattern holds the only one."""
    return not isinstance(files, dict) or files.get("split") == split


def _data_files(folder: Path, patterns: list[str]) -> list[Path]:
    kinds = (".parquet", ".jsonl", ".ndjson")
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.suffix in kinds}
    return sorted(found)


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that a name and a revision (None: the newest) mean now; as given where nobody answers."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=20).sha
    except (OSError, HfHubHTTPError):
        return revision  # `load_dataset` may still find it in the hub's cache


def _unreachable(entry: Entry, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{entry.dataset}, part {entry.config}: it cannot be loaded from the hub ({reason}).\n"
        f"  Without a network it is read from a mirror folder, named by data.yaml's mirror: or ${MIRROR}.\n"
        f"  Where there is a network: hf download --repo-type dataset {entry.dataset} "
        f"--local-dir MIRROR/{entry.dataset}"
    )


__all__ = ["MIRROR", "NotASet", "NotThere", "Opened", "from_hub", "mirrored_files", "open_source"]
