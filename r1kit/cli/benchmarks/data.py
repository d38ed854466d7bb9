"""Measure preparing and curating real data: rows per second of one core, and memory.

Traces have log-normal lengths with the mean of Mixture-of-Thoughts (7.06 GB in 349,317 rows). Rows cost
processor time, not waiting, so they are counted per processor time of all processes: on a busy machine, wall
time says nothing.

`bench_preparation` counts the tokens of the same share of rows as for the whole dataset. `bench_curation`
makes traces of real English words, all different, and plants copies and evaluation problems among them, so
that the planted rows are all that curation should find.
"""

from __future__ import annotations

import math
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from r1kit.data import curation, prepare, synthetic_mirror
from r1kit.data.row_files import in_batches, open_rows, write_parquet
from r1kit.data.sources import SOURCES
from r1kit.data.tokenizer import token_counter, train_tokenizer
from r1kit.settings.data import CurationSettings, HubDataSettings
from r1kit.settings.known_models import SPREAD

WHOLE = 349_317
"""Rows of Mixture-of-Thoughts."""
BYTES = 7_062_819_826 / WHOLE
CENTRE = math.log(BYTES) - SPREAD**2 / 2
"""Mean of the logarithm of a trace's length."""
MEASURED = 2_000  # traces of a whole dataset whose tokens data.yaml counts by default
POOL = 1_000_000  # characters that traces are cut from
VOCABULARY = 4_000
MIXTURE, DAPO = "open-r1/Mixture-of-Thoughts", "open-r1/DAPO-Math-17k-Processed"

PLANTED = {"exact": 0.01, "near": 0.03, "decontamination": 0.01}
"""Shares of copies of an earlier row, of copies with some other words, and of evaluation problems."""
CHANGED = 0.01
"""Share of changed words in a near copy: 94% of its 3-word shingles are then the original's."""
EVALUATION_PROBLEMS = 500
LETTERS = 5.7
"""Characters per word including the space: converts lengths in bytes to lengths in words."""


def bench_preparation(rows: int, workers: int) -> dict[str, Any]:
    """Make `rows` traces, prepare them in `workers` processes, and measure.

    Returns:
        The measurements of `_measure`, megabytes (of text), and in proportion whole_gigabytes, the disk space
        for all of Mixture-of-Thoughts.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_set(folder / "mirror" / MIXTURE / "all" / "train-0.parquet", MIXTURE, _cut_traces(rows))
        rng = random.Random(0)
        prompts = [synthetic_mirror.dapo(rng, number) for number in range(100)]
        _write_set(folder / "mirror" / DAPO / "en" / "train-0.parquet", DAPO, prompts)
        settings = HubDataSettings(
            source="hub",
            seed=0,
            prompts=100,
            max_prompt_length=1024,
            excerpt=True,
            mirror=str(folder / "mirror"),
            measured_rows=max(1, round(MEASURED * rows / WHOLE)),
            traces_from=[{"dataset": MIXTURE, "config": "all"}],
            prompts_from=[{"dataset": DAPO, "config": "en"}],
        )
        texts = [row["messages"][-1]["content"][:2000] for row in _cut_traces(50)]
        train_tokenizer(texts, VOCABULARY).save_pretrained(folder / "tokenizer")
        tokens = token_counter(str(folder / "tokenizer"))
        measured, _ = _measure(
            lambda: prepare.prepare(prepare.plan(settings, tokens), folder / "out", workers), rows, workers
        )
        size = sum(path.stat().st_size for path in (folder / "out" / "traces").rglob("*.arrow"))
    return measured | {"megabytes": size / 1e6, "whole_gigabytes": size / rows * WHOLE / 1e9}


def bench_curation(rows: int, workers: int) -> dict[str, Any]:
    """Make `rows` traces and curate them with every step that needs no measurement.

    Returns:
        The measurements of `_measure`, and steps (name -> planted, removed).
    """
    settings = CurationSettings(language={}, repetition={}, decontamination={})
    problems = [
        f"{synthetic_mirror.problem(random.Random(seed))[0]} Say why." for seed in range(EVALUATION_PROBLEMS)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder, planted = Path(scratch), dict.fromkeys(PLANTED, 0)
        _write_set(folder / "traces.parquet", MIXTURE, _english_traces(rows, problems, planted))
        source = open_rows(folder / "traces.parquet")
        measured, report = _measure(
            lambda: curation.curate(source, settings, folder / "out", {"problems": problems}, workers),
            rows,
            workers,
        )
    steps = {
        step.step: {"planted": planted.get(step.step, 0), "removed": step.removed} for step in report.steps
    }
    return measured | {"steps": steps}


def table(measured: dict[str, Any]) -> str:
    """Write the measurements as text."""
    size = f", {measured['megabytes']:,.0f} MB of text" if "megabytes" in measured else ""
    disk = f", {measured['whole_gigabytes']:.1f} GB on disk" if "whole_gigabytes" in measured else ""
    workers = measured["workers"]
    lines = [
        f"{measured['rows']:,} traces{size}, {workers} workers:",
        f"  {measured['seconds']:.1f} s; processor time of all processes: {measured['cpu_seconds']:.1f} s",
        f"  {measured['rows_per_core_second']:,.0f} rows per second of one core",
        f"  at most {measured['peak_megabytes']:,.0f} MB (this process and {workers} workers)",
    ]
    lines += [
        f"  {name:<16} planted {step['planted']:>7,}   removed {step['removed']:>7,}"
        for name, step in measured.get("steps", {}).items()
    ]
    hours = f"{measured['whole_core_hours']:.2f} core hours{disk}"
    return "\n".join([*lines, f"all {WHOLE:,} rows of Mixture-of-Thoughts, in proportion: {hours}"])


def _measure(work: Callable[[], Any], rows: int, workers: int) -> tuple[dict[str, Any], Any]:
    """Run `work` over `rows` rows; return its measurements and its result.

    Measurements: rows, workers, seconds, cpu_seconds, rows_per_core_second, peak_megabytes (upper bound: this
    process and all workers at their largest), and whole_core_hours for all of Mixture-of-Thoughts.
    """
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    result = work()
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu_start
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if workers > 1:
        largest += workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    measured = {
        "rows": rows,
        "workers": workers,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rows_per_core_second": rows / cpu,
        "peak_megabytes": largest / 1024,
        "whole_core_hours": WHOLE / (rows / cpu) / 3600,
    }
    return measured, result


def _cpu_seconds() -> float:
    """Return the processor time of this process and of its finished children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _write_set(path: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    schema = SOURCES[name].schema
    write_parquet(path, schema, in_batches(rows, schema))


def _row(question: str, reasoning: str, answer: int, tokens: int) -> dict[str, Any]:
    text = f"<think>\n{reasoning}\n</think>\n\nIt is $\\boxed{{{answer}}}$."
    return {"messages": synthetic_mirror.turns(question, text), "num_tokens": tokens, "source": "bench"}


def _cut_traces(rows: int) -> Iterator[dict[str, Any]]:
    """Yield traces that are different parts of one long text."""
    rng = random.Random(0)
    pool = synthetic_mirror.trace(rng, 0, POOL).partition("</think>")[0].removeprefix("<think>\n")
    for number in range(rows):
        length = min(POOL // 2, int(rng.lognormvariate(CENTRE, SPREAD)))
        start = rng.randrange(len(pool) - length)
        question = f"{synthetic_mirror.problem(rng)[0]} ({number})"
        yield _row(question, pool[start : start + length], number, length // 4)


def _english_traces(rows: int, problems: Sequence[str], planted: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield traces of English words; the planted ones are counted in `planted`."""
    from pydoc_data.topics import topics  # Python's own help

    rng = random.Random(0)
    vocabulary = re.findall(r"[A-Za-z]{2,}", " ".join(topics.values()))
    bounds = list(zip(PLANTED, accumulate(PLANTED.values()), strict=True))
    question, original = "", []
    for number in range(rows):
        drawn = rng.random()
        kind = next((name for name, bound in bounds if drawn < bound), "") if number else ""
        if kind:
            planted[kind] += 1
        length = min(50_000, max(200, int(rng.lognormvariate(CENTRE, SPREAD) / LETTERS)))
        problem, words = question, original
        if kind == "decontamination":
            problem, words = f"{rng.choice(problems)} ({number})", rng.choices(vocabulary, k=length)
        elif kind == "near":
            changed = [rng.choice(vocabulary) if rng.random() < CHANGED else word for word in original]
            words = ["Anew", *changed[1:]]
        elif not kind:
            problem = question = f"{' '.join(rng.choices(vocabulary, k=30))} {number}?"
            words = original = rng.choices(vocabulary, k=length)
        yield _row(problem, " ".join(words), len(words), len(words))
