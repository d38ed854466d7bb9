"""A plan beside what a run did: `r1kit plan --against RUN`.

The plan is made for the machine as it was during the run. On a CPU that is what the trainings measured of
themselves (`r1kit.machine.layer_speed`); a GPU's peak does
not change with the day.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from r1kit.machine.layer_speed import REFERENCE, SPEED_FILE, LayerSpeed, of_rows
from r1kit.machine.peaks import DEVICES
from r1kit.machine.plan import Plan, make_plan
from r1kit.runs import metrics, results, status
from r1kit.runs.files import read_json
from r1kit.settings import Profile
from r1kit.settings.lengths import Lengths
from r1kit.views.plan import duration, size

WARM = 0.2
"""Share of a run's rows left out at its start, where kernels are chosen and files read."""


def measured(run: Path) -> dict[str, float]:
    """What a run's files say of each job: median seconds of a step after warm-up, peak memory, and how fast
    the machine was meanwhile (`layer_gflops`, `pass_seconds`); of the whole run, `gflops` at its beginning.
    """
    found: dict[str, float] = {}
    environment = results.read_result(run / "00_environment")
    if environment and "gflops" in environment["metrics"]:
        found["gflops"] = environment["metrics"]["gflops"]
    for name, folder in (("sft", run / "02_sft"), ("grpo", run / "04_grpo")):
        rows = metrics.read(folder / "metrics.jsonl")
        rows = rows[round(len(rows) * WARM) :]
        if len(rows) > 1:
            found[f"{name}.step_seconds"] = median(
                (after["seconds"] - before["seconds"]) / (after["step"] - before["step"])
                for before, after in pairwise(rows)
                if after["step"] > before["step"]
            )
        if speed := of_rows(metrics.read(folder / SPEED_FILE)):
            found[f"{name}.layer_gflops"] = speed.gflops
            found[f"{name}.pass_seconds"] = speed.pass_seconds
        if peak := peak_memory(folder):
            found[f"{name}.memory"] = peak
    return found


def peak_memory(folder: Path) -> int | None:
    """Most bytes that a job held: on its fullest GPU, or without one resident in all its processes."""
    on_gpus = [
        gpu.get("memory_used", 0)
        for row in metrics.read(folder / "system.jsonl")
        for gpu in row.get("gpus", [])
    ]
    job = status.read(folder).get("job") or read_json(folder / "status.json", {}).get("job") or {}
    return max(on_gpus, default=None) or job.get("peak_rss_bytes")


def held(plan: Plan, stage: str) -> float:
    """What `peak_memory` should find: a device's memory; on a CPU that of all the job's processes.

    A server's processes are no part of the job; vLLM in the trainer's own process is.
    """
    planned = plan.stages[stage]
    one = planned.memory.total
    if stage == "grpo" and plan.generation.mode != "server":
        one += plan.server.total
    return one * (planned.training.devices if plan.device is DEVICES["cpu"] else 1)


def speed_of(stage: str, found: dict[str, float]) -> LayerSpeed | None:
    """How fast the machine was with small layers while a stage of the run trained, where that was written."""
    gflops = found.get(f"{stage}.layer_gflops")
    return LayerSpeed(gflops, found[f"{stage}.pass_seconds"]) if gflops else None


def compare(
    profile: Profile, found: dict[str, float], lengths: Lengths | None = None
) -> list[dict[str, Any]]:
    """Prediction beside measurement: rows of quantity, predicted, measured, ratio (measured / predicted).

    On a CPU each stage is planned for the machine as it was meanwhile: with the speed of small layers that
    its training wrote, else with the matrix speed of the run's beginning, else with the profile's.
    """
    sft, grpo = (
        make_plan(profile, lengths=lengths, gflops=found.get("gflops"), layer=speed_of(stage, found))
        for stage in ("sft", "grpo")
    )
    predicted = {
        "sft.step_seconds": sft.sft.step_seconds,
        "grpo.step_seconds": grpo.grpo.step_seconds,
        "sft.memory": held(sft, "sft"),
        "grpo.memory": held(grpo, "grpo"),
    }
    return [
        {"quantity": name, "predicted": value, "measured": found[name], "ratio": found[name] / value}
        for name, value in predicted.items()
        if name in found
    ]


def render_comparison(
    profile: str, run: str, rows: list[dict[str, Any]], found: dict[str, float], reference: float | None
) -> str:
    """The rows of `compare` as a table, and which speed of a CPU the prediction counts with."""
    if not rows:
        return f"run {run} has neither SFT nor GRPO to compare with"
    lines = [f"{profile} against {run}", f"{'':20}{'predicted':>14}{'measured':>14}{'ratio':>9}"]
    for row in rows:
        show = size if row["quantity"].endswith("memory") else duration
        values = f"{show(row['predicted']):>14}{show(row['measured']):>14}{row['ratio']:>9.2f}"
        lines.append(f"{row['quantity']:20}{values}")
    for stage in ("sft", "grpo"):
        if speed := speed_of(stage, found):
            lines.append(
                f"while {stage} ran, a small layer trained at {speed.gflops:.0f} GFLOP/s and one token took "
                f"{speed.pass_seconds * 1e3:.1f} ms ({REFERENCE.gflops:.0f} and "
                f"{REFERENCE.pass_seconds * 1e3:.1f} on the reference machine): predicted for that"
            )
    if reference and (gflops := found.get("gflops")) and "while" not in lines[-1]:
        lines.append(
            f"the run's machine multiplied at {gflops:.0f} GFLOP/s when it began, the reference machine at "
            f"{reference:.0f}: predicted for that"
        )
    return "\n".join(lines)
