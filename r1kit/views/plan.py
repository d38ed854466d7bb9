"""A plan as text: memory, hours with a roofline beside each, disk; and its comparison with a measured run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from r1kit.machine.plan import PipelinePlan, Plan, StageCost
from r1kit.machine.speed import DEVICES
from r1kit.runs import jsonl, results, status
from r1kit.runs.files import read_json

WARM_UP_SHARE = 0.2
"""Share of a run's rows left out at its start, where kernels are chosen and files read."""


def size(bytes_: float) -> str:
    """Return `28.6 GB` (decimal), or `3.1 MB` below 0.1 GB."""
    return f"{bytes_ / 1e9:,.1f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Return `1.9 s`, `12 min` or `15.0 h`."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def render(plan: Plan) -> str:
    """Return the whole plan as text."""
    return "\n".join([*_head(plan), "", *_memory(plan), "", *_sft(plan), "", *_grpo(plan), "", *_end(plan)])


def _head(plan: Plan) -> list[str]:
    model, device, speeds = plan.trainer.training.model, plan.device, plan.speeds
    count, used = plan.trainer.training.devices, model.matrix_parameters / 1e9
    return [
        f"{plan.profile}: {model.parameters / 1e9:.4g} billion parameters, {used:.4g} in matrix products, "
        f"on {count} x {device.name}",
        f"each has {speeds.peak / 1e12:,.4g} TFLOP/s, {speeds.bandwidth / 1e12:.4g} TB/s and "
        f"{size(device.memory)}: {device.source}",
        f"assumed: training reaches {speeds.train_share:.0%} of the peak, recomputation counted; generation "
        f"{speeds.decode_share:.0%} of the bandwidth; trace lengths: {plan.lengths.source}",
    ]


def _memory(plan: Plan) -> list[str]:
    names = list(plan.stages)
    server = plan.server.as_dict()
    beside = plan.generation.mode != "in-process"
    heads = [*names, f"vLLM ({plan.generation.mode})"] if beside else names
    lines = ["memory per device".ljust(20) + "".join(name.rjust(20) for name in heads)]
    columns = [stage.memory.as_dict() for stage in plan.stages.values()]
    kinds = ["weights", "gradients", "optimizer", "activations", "logits", "kv_cache", "margin", "total"]
    for kind in kinds:
        cells = [*columns, server] if beside else columns
        if any(kind in cell for cell in cells):
            shown = [size(cell[kind]) if kind in cell else "" for cell in cells]
            lines.append(f"  {kind:18}" + "".join(cell.rjust(20) for cell in shown))
    for name, stage in plan.stages.items():
        taken = server["total"] if name == "grpo" and plan.generation.mode == "colocate" else 0
        total = stage.memory.total + taken
        verdict = "fits" if stage.fits else "DOES NOT FIT"
        with_server = f" (with vLLM's {size(taken)})" if taken else ""
        lines.append(f"{name}: {size(total)}{with_server} of {size(plan.device.memory)}: {verdict}")
        lines += [f"  nearest change that fits: {change}" for change in stage.nearest]
    if beside:
        room, wanted = plan.server.kv_tokens, plan.server.wanted_tokens
        turns = "all completions at once" if room >= wanted else f"{wanted / max(1, room):.1f} turns"
        lines.append(f"cache: {room:,} tokens per device, {wanted:,} at the longest: {turns}")
    return lines


def _sft(plan: Plan) -> list[str]:
    sft = plan.sft
    lines = [
        f"SFT: {sft.tokens / 1e6:,.1f} million tokens, {sft.steps:,} steps of {duration(sft.step_seconds)} = "
        f"{duration(sft.hours * 3600)}; at the peak {duration(sft.roofline_seconds)} per step, "
        f"{duration(sft.roofline_seconds * sft.steps)} in all",
        f"  {sft.tokens_per_second:,.0f} tokens/s, {sft.flops_per_token / 1e9:.4g} GFLOP per token: MFU "
        f"{sft.mfu:.1%} causal, {sft.mfu_full_attention:.1%} with full attention; with recomputation "
        f"{sft.hfu:.1%}",
    ]
    if packing := sft.packing:
        lines.append(
            f"  rows are filled {packing.packed:.0%} packed, {packing.padded:.0%} padded: packing gains "
            f"{packing.gain:.2f}x (never more than {packing.bound:.2f}x); {packing.dropped:.1%} of the "
            "tokens are cut away"
        )
    return lines


def _grpo(plan: Plan) -> list[str]:
    grpo = plan.grpo
    return [
        f"GRPO: {grpo.steps:,} steps of {duration(grpo.step_seconds)} = {duration(grpo.hours * 3600)}; at "
        f"full bandwidth and peak {duration(grpo.roofline_seconds)} per step",
        f"  generate {duration(grpo.generate_seconds)}, learn {duration(grpo.learn_seconds)}, sync "
        f"{duration(grpo.sync_seconds)}; {grpo.completions_per_step} completions, "
        f"{grpo.tokens_per_step:,} tokens per step; {grpo.padding_fill:.0%} of the learner's slots hold "
        f"tokens, its MFU is {grpo.learner_mfu:.1%}",
    ]


def _end(plan: Plan) -> list[str]:
    disk = plan.disk
    return [
        f"disk: {size(disk['total'])}; a checkpoint of SFT {size(disk['sft_checkpoint'])}, of GRPO "
        f"{size(disk['grpo_checkpoint'])}"
    ]


def render_pipeline(plan: PipelinePlan) -> str:
    """Return a pipeline's price as text: one line per stage, and what does not fit."""
    lines = [
        f"{plan.profile}, pipeline {plan.pipeline} on {plan.devices} x {plan.device.name}: {plan.about}",
        f"  {'stage':12} {'kind':19} {'time':>8} {'memory':>9} {'disk':>9}  work",
    ]
    for stage in plan.stages:
        memory = size(stage.memory) if stage.memory else ""
        took = duration(stage.hours * 3600) if stage.hours else ""
        lines.append(
            f"  {stage.name:12} {stage.kind:19} {took:>8} {memory:>9} {size(stage.disk):>9}  {work(stage)}"
        )
        if not stage.fits:
            lines.append(f"  {'':12} DOES NOT FIT into {size(plan.device.memory)}")
            lines += [f"  {'':12} nearest change that fits: {change}" for change in stage.nearest]
    days = f" ({plan.hours / 24:.1f} days)" if plan.hours > 48 else ""
    lines += [
        f"in all {duration(plan.hours * 3600)}{days} and {size(plan.disk)} of disk",
        "counted: the most that sampling and pass rates may hand on; not counted: starting programs and "
        "servers, judging answers, 01_data",
    ]
    return "\n".join(lines)


def work(stage: StageCost) -> str:
    """Return what a stage does: `500 steps of 3 min`."""
    if stage.unit == "traces":
        return f"at most {stage.count:,} traces of {stage.tokens:,} tokens"
    if stage.unit == "answers":
        return f"{stage.count:,} answers of at most {stage.tokens:,} tokens"
    said = f"{stage.count:,} steps of {duration(stage.step_seconds)}"
    if stage.kind == "sft":
        return f"{said}, {stage.tokens / 1e6:,.1f} million tokens"
    if stage.extra:
        return f"{said}, and up to {stage.extra:g}x the generation in addition"
    return said


def measured(run: Path) -> dict[str, float]:
    """Return a run's median seconds per step and peak bytes of each training, and `gflops`, from its files.

    The keys are `sft.step_seconds`, `sft.memory`, the same of `grpo`, and `gflops`, the matrix speed that
    00_environment measured on a CPU.
    """
    found: dict[str, float] = {}
    environment = results.read_result(run / "00_environment")
    if environment and "gflops" in environment["metrics"]:
        found["gflops"] = environment["metrics"]["gflops"]
    for name, folder in (("sft", run / "02_sft"), ("grpo", run / "04_grpo")):
        rows = jsonl.read(folder / "metrics.jsonl")
        rows = rows[round(len(rows) * WARM_UP_SHARE) :]
        if len(rows) > 1:
            found[f"{name}.step_seconds"] = median(
                (after["seconds"] - before["seconds"]) / (after["step"] - before["step"])
                for before, after in pairwise(rows)
                if after["step"] > before["step"]
            )
        if peak := peak_memory(folder):
            found[f"{name}.memory"] = peak
    return found


def peak_memory(folder: Path) -> int | None:
    """Return the peak bytes of a job: of its fullest GPU, or without GPUs resident in all its processes."""
    on_gpus = [
        gpu.get("memory_used", 0)
        for row in jsonl.read(folder / "system.jsonl")
        for gpu in row.get("gpus", [])
    ]
    job = status.read(folder).get("job") or read_json(folder / "status.json", {}).get("job") or {}
    return max(on_gpus, default=None) or job.get("peak_rss_bytes")


def compare(plan: Plan, found: dict[str, float]) -> list[dict[str, Any]]:
    """Return rows of quantity, predicted, measured and ratio (measured / predicted) of a run's measurements.

    Memory is that of one device, on a CPU that of all the job's processes. A server's processes are not part
    of the job; vLLM in the trainer's own process is.
    """
    beside = plan.server.total if plan.generation.mode != "server" else 0.0
    predicted = {"sft.step_seconds": plan.sft.step_seconds, "grpo.step_seconds": plan.grpo.step_seconds}
    for name, stage in plan.stages.items():
        processes = stage.training.devices if plan.device is DEVICES["cpu"] else 1
        predicted[f"{name}.memory"] = (stage.memory.total + (name == "grpo") * beside) * processes
    return [
        {"quantity": name, "predicted": value, "measured": found[name], "ratio": found[name] / value}
        for name, value in predicted.items()
        if name in found
    ]


def render_comparison(plan: Plan, run: str, rows: list[dict[str, Any]], gflops: float | None) -> str:
    """Return the rows of `compare` as a table, and the matrix speed of the CPU that the plan counts with."""
    if not rows:
        return f"run {run} has neither SFT nor GRPO to compare with"
    lines = [f"{plan.profile} against {run}", f"{'':20}{'predicted':>14}{'measured':>14}{'ratio':>9}"]
    for row in rows:
        show = size if row["quantity"].endswith("memory") else duration
        values = f"{show(row['predicted']):>14}{show(row['measured']):>14}{row['ratio']:>9.2f}"
        lines.append(f"{row['quantity']:20}{values}")
    if gflops and plan.device is DEVICES["cpu"]:
        lines.append(f"predicted for {gflops:.0f} GFLOP/s, the machine's matrix speed when the run began")
    return "\n".join(lines)
