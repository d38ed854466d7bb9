"""Several datasets of traces as one (`python -m r1kit.pipeline.merge_data JOB/resolved.yaml`).

R1's second SFT trains on the union of what was sampled and of data from elsewhere (arXiv 2501.12948, section
2.3.3). A trace that two of them hold is kept once. The column `source` says where each row comes from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from r1kit.runs import jsonl
from r1kit.runs.files import write_json_atomic
from r1kit.training import program

COLUMNS = ("messages", "problem", "solution", "level")


def merge(sets: Mapping[str, Iterable[Mapping[str, Any]]]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(rows, rows of each source): the columns of a trace and `source`, in the order of the sets."""
    seen: set[tuple[str, ...]] = set()
    rows, counts = [], dict.fromkeys([*sets, "duplicates"], 0)
    for name, source in sets.items():
        for row in source:
            said = tuple(" ".join(turn["content"].split()) for turn in row["messages"])
            if said in seen:
                counts["duplicates"] += 1
                continue
            seen.add(said)
            rows.append({key: row.get(key) for key in COLUMNS} | {"source": name})
            counts[name] += 1
    return rows, counts


def write(job: program.Job) -> None:
    """Merge the inputs in `parameters.names` into `data/`."""
    from r1kit.data import datasets

    names = job.settings["parameters"]["names"]
    rows, counts = merge({name: datasets.load(job.inputs[name]) for name in names})
    datasets.save_atomically(rows, job.folder / "data")
    write_json_atomic(job.folder / "counts.json", counts | {"rows": len(rows)})
    jsonl.truncate_after(job.metrics, 0)
    jsonl.append(job.metrics, {"step": 1, "total_steps": 1})
    print(f"{len(rows)} traces: {counts}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Program entry; returns the exit code."""
    return program.run(write, arguments)


if __name__ == "__main__":
    sys.exit(main())
