"""How often a checkpoint solves each prompt (`python -m r1kit.evaluation.pass_rates JOB/resolved.yaml`).

GRPO learns nothing from what is always right or always wrong. Before a training its prompts can be asked a
few times: the column `pass_rate` makes the pools of the curriculum, and only a band of it is kept. The
default band is the one of open-r1's recipe for DAPO's prompts (scripts/pass_rate_filtering: 0.1 to 0.6),
which takes the place of DeepSeek-R1's own choice, of which the paper says nothing.

Of n answers a rate is known to within sqrt(p (1 - p) / n), 0.18 for 8: a prompt near an end of the band is
kept or dropped by chance. Answers come in shards as in `rejection_sampling`, and belong to one model,
dataset and way of asking: those of another are dropped.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from r1kit.evaluation.rejection_sampling import judged_answers
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.fingerprint import model_fingerprint
from r1kit.settings import settings_hash
from r1kit.training import program

ASKED = ("prompts", "samples", "temperature", "top_p", "max_new_tokens", "batch_size", "seed")
"""Parameters that decide the answers; the band only chooses among them."""


def measure(job: program.Job) -> None:
    """Ask, judge, and write the prompts of the band with their `pass_rate` to `data/`, and `counts.json`.

    Raises:
        ValueError: no prompt lies in the band.
    """
    from r1kit.data import datasets

    told = job.settings["parameters"]
    forget_others(job.folder, sources_of(job.inputs["model"], job.inputs["prompts"], told))
    prompts, answers = judged_answers(job, told)
    rates = rates_of([entry["correct"] for entry in answers], told["samples"])
    kept, counts = within(list(prompts), rates, told["lowest"], told["highest"])
    if not kept:
        raise ValueError(
            f"no prompt has a pass rate from {told['lowest']} to {told['highest']}: {counts}. Another "
            "checkpoint, harder or easier prompts, or a wider band is needed"
        )
    datasets.save_atomically(kept, job.folder / "data")
    write_json_atomic(job.folder / "counts.json", counts)
    print(f"{counts['kept']} of {counts['prompts']} prompts are in the band: {counts}", flush=True)


def rates_of(correct: Sequence[float | None], samples: int) -> list[float | None]:
    """Pass rates [P] of verdicts [P * samples], a prompt's together; None where nothing was judged."""
    groups = [correct[i : i + samples] for i in range(0, len(correct), samples)]
    judged = [[verdict for verdict in group if verdict is not None] for group in groups]
    return [fmean(verdicts) if verdicts else None for verdicts in judged]


def within(
    prompts: Sequence[Mapping[str, Any]], rates: Sequence[float | None], lowest: float, highest: float
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The prompts with a rate from `lowest` to `highest`, with it as a column, and how many fell where."""
    kept = []
    counts = {"prompts": len(prompts), "kept": 0, "below": 0, "above": 0, "unjudged": 0}
    for row, rate in zip(prompts, rates, strict=True):
        if rate is None:
            counts["unjudged"] += 1
        elif rate < lowest:
            counts["below"] += 1
        elif rate > highest:
            counts["above"] += 1
        else:
            kept.append({**row, "pass_rate": rate})
    known = [rate for rate in rates if rate is not None]
    return kept, counts | {"kept": len(kept), "mean": round(fmean(known), 4) if known else 0.0}


def sources_of(model: str, prompts: str, told: Mapping[str, Any]) -> str:
    """A hash of what decides the answers: the weights' files, the dataset, how it is asked."""
    from r1kit.data import datasets

    weights = sorted(Path(model).glob("*.safetensors"))
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weights]
    return settings_hash(
        {
            "model": [str(model), model_fingerprint(model), files],
            "prompts": datasets.load(prompts)._fingerprint,
            "asked": {name: told[name] for name in ASKED},
        }
    )


def forget_others(folder: Path, sources: str) -> None:
    """Drop shards in `folder` that were not made from `sources`."""
    shards = folder / "shards"
    if shards.exists() and read_json(folder / "sources.json") != sources:
        shutil.rmtree(shards)
    write_json_atomic(folder / "sources.json", sources)


def main(arguments: list[str] | None = None) -> int:
    """Program entry; returns the exit code."""
    return program.run(measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
