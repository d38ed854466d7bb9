"""The nearest change that fits: where a training does not fit into its devices, what to write instead.

Changes are tried from the one that costs least to the one that changes most: first what only costs time, then
what costs communication, last what trains something else. Each is tried alone; if none is enough, they pile
up in that order until it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from r1kit.machine.plan.inputs import Training


@dataclass(frozen=True)
class Change:
    """A setting to change, what it costs, and the training after it."""

    settings: tuple[str, ...]
    costs: str
    after: Training

    def __str__(self) -> str:
        return f"{', '.join(self.settings)} ({self.costs})"


def changes(training: Training) -> Iterator[Change]:
    """Single changes that make a training smaller, the cheapest first."""
    section = training.section
    if training.attention == "eager":
        flash = replace(training, attention="flash")
        yield Change((f"{section}.attn_implementation=flash_attention_2",), "nothing: it is faster", flash)
    if not training.checkpointing:
        recompute = replace(training, checkpointing=True)
        yield Change((f"{section}.gradient_checkpointing=true",), "a third more computing", recompute)
    if training.weight_bytes == 4 and training.engine != "deepspeed" and training.compute_bytes == 2:
        half = replace(training, weight_bytes=2)
        yield Change((f"{section}.dtype=bfloat16",), "updates below bf16's precision are lost", half)
    rows = training.rows
    while rows > 1:
        rows, accumulation = rows // 2, training.accumulation * training.rows // max(1, rows // 2)
        smaller = replace(training, rows=rows, accumulation=accumulation)
        keys = (
            f"{section}.per_device_train_batch_size={rows}",
            f"{section}.gradient_accumulation_steps={accumulation}",
        )
        yield Change(keys, "more, smaller products", smaller)
    if training.engine == "deepspeed" and training.zero < 3:
        for stage in range(training.zero + 1, 4):
            key = f"accelerate.deepspeed_config.zero_stage={stage}"
            cost = "weights are gathered layer by layer" if stage == 3 else "nothing worth mentioning"
            yield Change((key,), cost, replace(training, zero=stage))
    if training.engine == "ddp":
        sharded = replace(training, engine="deepspeed", zero=2, weight_bytes=2)
        yield Change(("accelerate.distributed_type=DEEPSPEED",), "ZeRO-2: gradients are scattered", sharded)
    if not training.adapter:
        model = training.model
        sums = model.hidden_size * 9 + model.intermediate_size * 3
        adapter = replace(training, adapter=16 * model.num_hidden_layers * sums, reference=False)
        yield Change((f"{section}.use_peft=true",), "LoRA: only adapters are trained", adapter)
    if section == "sft":
        for length in (training.row // 2, training.row // 4):
            cut = replace(training, row=length)
            yield Change((f"sft.max_length={length}",), "longer traces are cut", cut)


def nearest(training: Training, fits: Callable[[Training], bool]) -> list[Change]:
    """The first single change that fits; else the shortest pile of changes that does; else an empty list."""
    for change in changes(training):
        if fits(change.after):
            return [change]
    pile: list[Change] = []
    current, tried = training, set()
    while True:
        names = [change for change in changes(current) if change.settings[0].split("=")[0] not in tried]
        if not names:
            return []
        step = names[0]
        key = step.settings[0].split("=")[0]
        same = [change for change in names if change.settings[0].split("=")[0] == key]
        step = next((change for change in same if fits(change.after)), same[-1])
        tried.add(key)
        pile.append(step)
        current = step.after
        if fits(current):
            return pile
