"""What preparing real data costs: rows a second of one core, and memory, on traces of realistic length.

Lengths are log-normal with the mean of Mixture-of-Thoughts (7.06 GB in 349,317 rows), and tokens are counted
of as many rows, in proportion, as of the whole dataset. A row costs processor time, not waiting, so rows are
counted against the processor time of all processes: on a busy machine the clock on the wall says nothing.
"""

from __future__ import annotations

import math
import random
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from r1kit.data import prepare as preparation
from r1kit.data import synthetic_mirror
from r1kit.data.row_files import in_batches, write_parquet
from r1kit.data.sources import SOURCES
from r1kit.data.tokenizer import token_counter
from r1kit.settings.data import HubDataSettings
from r1kit.settings.known_models import SPREAD

ROWS, WHOLE = 20_000, 349_317
MEASURED = 2_000  # traces of a whole dataset whose tokens data.yaml lets count by default
BYTES = 7_062_819_826 / WHOLE
POOL = 1_000_000  # characters that traces are cut from
VOCABULARY = 4_000
NAME, PROMPTS = "open-r1/Mixture-of-Thoughts", "open-r1/DAPO-Math-17k-Processed"


def bench(rows: int = ROWS, workers: int = 2) -> dict[str, Any]:
    """Make `rows` traces, prepare them in `workers` processes, and measure.

    Returns:
        rows, megabytes (of text), seconds, cpu_seconds, rows_per_core_second, peak_megabytes (upper bound:
        this process and all workers at their largest), and for the whole of Mixture-of-Thoughts, in
        proportion: whole_core_hours, whole_gigabytes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_set(folder / "mirror" / NAME / "all" / "train-0.parquet", NAME, traces(rows))
        asked = synthetic_mirror.dapo(random.Random(0), 100)
        write_set(folder / "mirror" / PROMPTS / "en" / "train-0.parquet", PROMPTS, asked)
        data = HubDataSettings(
            source="hub",
            seed=0,
            prompts=100,
            max_prompt_length=1024,
            excerpt=True,
            mirror=str(folder / "mirror"),
            measured_rows=max(1, round(MEASURED * rows / WHOLE)),
            traces_from=[{"dataset": NAME, "config": "all"}],
            prompts_from=[{"dataset": PROMPTS, "config": "en"}],
        )
        tokens = token_counter(str(_tokenizer(folder / "tokenizer")))
        began, used = time.perf_counter(), cpu_seconds()
        preparation.prepare(preparation.plan(data, tokens), folder / "out", workers)
        seconds, cpu = time.perf_counter() - began, cpu_seconds() - used
        size = sum(path.stat().st_size for path in (folder / "out" / "traces").rglob("*.arrow"))
    return {
        "rows": rows,
        "workers": workers,
        "megabytes": size / 1e6,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rows_per_core_second": rows / cpu,
        "peak_megabytes": peak_megabytes(workers),
        "whole_core_hours": WHOLE / (rows / cpu) / 3600,
        "whole_gigabytes": size / rows * WHOLE / 1e9,
    }


def traces(rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of Mixture-of-Thoughts' schema and mean length, each another text."""
    rng = random.Random(seed)
    pool = synthetic_mirror.trace(rng, 0, POOL).partition("</think>")[0].removeprefix("<think>\n")
    centre = math.log(BYTES) - SPREAD**2 / 2
    for number in range(rows):
        length = min(POOL // 2, int(rng.lognormvariate(centre, SPREAD)))
        start = rng.randrange(len(pool) - length)
        said = f"<think>\n{pool[start : start + length]}\n</think>\n\nIt is $\\boxed{{{number}}}$."
        question = f"{synthetic_mirror.problem(rng)[0]} ({number})"
        yield {
            "messages": synthetic_mirror.turns(question, said),
            "num_tokens": length // 4,
            "source": "bench",
        }


def table(found: dict[str, Any]) -> str:
    """The figures as text."""
    return "\n".join(
        (
            f"{found['rows']:,} traces, {found['megabytes']:,.0f} MB of text, {found['workers']} workers:",
            f"  {found['seconds']:.1f} s, of all processes {found['cpu_seconds']:.1f} s of processor time",
            f"  {found['rows_per_core_second']:,.0f} rows a second of one core",
            f"  {found['peak_megabytes']:,.0f} MB at most (this process and {found['workers']} workers)",
            f"all {WHOLE:,} rows of Mixture-of-Thoughts, in proportion:",
            f"  {found['whole_core_hours'] * 60:.0f} core minutes, {found['whole_gigabytes']:.1f} GB on disk",
        )
    )


def write_set(path: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows in the schema of the dataset `name`."""
    schema = SOURCES[name].schema
    write_parquet(path, schema, in_batches(rows, schema))


def _tokenizer(folder: Path) -> Path:
    """A byte-level BPE of a few thousand tokens, trained on the benchmark's own text."""
    from r1kit.data.tokenizer import train_tokenizer

    texts = [row["messages"][-1]["content"][:2000] for row in traces(50)]
    train_tokenizer(texts, VOCABULARY).save_pretrained(folder)
    return folder


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_megabytes(workers: int) -> float:
    """The most that this process and `workers` children can have held together: each at its largest."""
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if workers > 1 else 0
    return (here + workers * child) / 1024
