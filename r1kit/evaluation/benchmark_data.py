"""The rows of a benchmark: from a mirror folder, where machines have no network, or from the hub.

A mirror is `<mirror>/<organisation>/<name>/` with Parquet or JSONL files, in folders or file names that hold
the configuration and the split as on the hub (`gpqa_diamond.jsonl`, `main/test-00000-of-00001.parquet`); a
dataset with one configuration and one split needs neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.data.row_files import NotASet, open_rows
from r1kit.evaluation.questions import Judge

MIRROR = "R1KIT_MIRROR"


class BenchmarkError(ValueError):
    """A benchmark that is not known, not there, or not what is expected; the command line exits with 2."""

    exit_code = 2


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A dataset of the hub and how its rows become questions.

    columns: what the rows must have, name -> kind of value.
    rows: how many there are; None where a window chooses.
    revision: the commit that is asked: that of 2026, read in public repositories that pin it (2026-11-24).
        open-r1 does not record which one its tables had.
    files: what to read where the dataset is a loading script, which `datasets` no longer runs.
    ask: row -> (problem, text of the prompt, solution).
    samples: of each problem, in open-r1's tables.
    """

    title: str
    dataset: str
    columns: Mapping[str, type]
    revision: str
    ask: Callable[[Row], tuple[str, str, str]]
    judge: Judge
    samples: int
    rows: int | None = None
    config: str = "default"
    split: str = "test"
    files: tuple[str, ...] = ()
    keep: Callable[[Row, tuple[str, str]], bool] | None = None


def load_rows(benchmark: Benchmark, mirror: str | None = None) -> list[dict[str, Any]]:
    """All rows of a benchmark's split, checked.

    Args:
        mirror: a folder; None takes the environment's R1KIT_MIRROR, and the hub where that is empty.

    Raises:
        BenchmarkError: the dataset is not there, has other columns, or columns of another type.
    """
    mirror = mirror or os.environ.get(MIRROR, "")
    rows = _mirrored(benchmark, Path(mirror)) if mirror else _from_hub(benchmark)
    if not rows:
        raise BenchmarkError(f"{benchmark.dataset} has no rows")
    for name, kind in benchmark.columns.items():
        if name not in rows[0]:
            raise BenchmarkError(
                f"{benchmark.dataset} has no column {name!r}; it has {', '.join(rows[0])}. The dataset "
                "changed, or the copy is of another one"
            )
        value = rows[0][name]
        if value is not None and not isinstance(value, kind) and kind is not str:
            raise BenchmarkError(
                f"{benchmark.dataset}: {name} should be {kind.__name__}, found {value!r:.80}"
            )
    return rows


def _mirrored(benchmark: Benchmark, mirror: Path) -> list[dict[str, Any]]:
    folder = mirror / benchmark.dataset
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in (".parquet", ".jsonl") and path.is_file()
    )
    if not files:
        raise BenchmarkError(
            f"{benchmark.title}: no .parquet or .jsonl below {folder}. Copy {benchmark.dataset} "
            f"(configuration {benchmark.config}, split {benchmark.split}) there"
        )
    for word in (benchmark.config, benchmark.split):
        named = [path for path in files if word in path.relative_to(folder).as_posix()]
        files = named or files
    try:
        return [row for path in files for row in open_rows(path)]
    except NotASet as error:
        raise BenchmarkError(str(error)) from error


def _from_hub(benchmark: Benchmark) -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        if benchmark.files:
            place = f"hf://datasets/{benchmark.dataset}@{benchmark.revision}"
            paths = [f"{place}/{name}" for name in benchmark.files]
            return list(load_dataset("json", data_files=paths, split="train"))
        found = load_dataset(
            benchmark.dataset, benchmark.config, split=benchmark.split, revision=benchmark.revision
        )
    except Exception as error:  # datasets raises a dozen kinds: offline, gated, gone, another configuration
        raise BenchmarkError(
            f"{benchmark.title}: {benchmark.dataset} cannot be had from the hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}). Without network: a copy in "
            f"$R1KIT_MIRROR/{benchmark.dataset}"
        ) from error
    return list(found)
