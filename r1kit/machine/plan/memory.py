"""Memory per device of a training and of generation, from shapes alone; what to change if it does not fit.

States: bf16 weights 2, gradients 2, and 12 for Adam's two moments and the float32 master copy, 16 bytes per
parameter; ZeRO-1/2/3 divides the last, the last two, all three by the devices (arXiv 1910.02054). 7.6 billion
parameters with ZeRO-2 on 8 devices: 2 N + 14 N / 8 = 28.6 GB.

Activations follow what autograd keeps in transformers' Qwen2 (bf16, SwiGLU, RMSNorm in float32); the method
is arXiv 2205.05198's, its numbers are for another layer. Logits follow TRL 1.16, which never stores all of
them: a tile of 4,096 tokens by 32,768 words, and float32 sums for the gradients of the head and its input.
Measured peaks lie above such sums because allocators leave gaps: `margin`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from r1kit.machine.plan.inputs import Generation, Training
from r1kit.machine.speed import Device

TILE_TOKENS, TILE_WORDS = 4096, 32768
"""TRL 1.16: trl/kernels/chunked_logprob.py and trl/trainer/utils.py."""

GAPS = 0.05
"""Share of the rest that allocators lose between blocks: an assumption, which `plan --against` can test."""


class ByKind:
    """Bytes per device by kind: the fields in `KINDS` add up to the total."""

    KINDS: ClassVar[tuple[str, ...]]

    @property
    def total(self) -> float:
        """All kinds together."""
        return sum(getattr(self, kind) for kind in self.KINDS)

    def as_dict(self) -> dict[str, int]:
        """Return each kind and the total in whole bytes."""
        kinds = {kind: round(getattr(self, kind)) for kind in self.KINDS}
        return kinds | {"total": sum(kinds.values())}


@dataclass(frozen=True)
class Memory(ByKind):
    """The memory of a training."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    margin: float
    KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "margin")

    @property
    def states(self) -> float:
        """The part that ZeRO counts: weights, gradients, optimizer."""
        return self.weights + self.gradients + self.optimizer


def training_memory(training: Training, device: Device) -> Memory:
    """Return the peak bytes per device of a training."""
    weights, gradients, optimizer = states(training)
    kept = activations(training)
    logits = logit_bytes(training)
    gaps = GAPS * (weights + gradients + optimizer + kept + logits)
    return Memory(weights, gradients, optimizer, kept, logits, device.context + gaps)


def states(training: Training) -> tuple[float, float, float]:
    """Return (weights, gradients, optimizer) in bytes per device."""
    n, devices = training.model.parameters, training.devices
    if training.adapter:
        # The frozen weights are whole on every device but in ZeRO-3; adapters are float32 (PEFT's autocast).
        frozen = training.weight_bytes * n / (devices if training.zero == 3 else 1)
        share = devices if training.zero >= 1 else 1
        return frozen + 4 * training.adapter, 4 * training.adapter, 8 * training.adapter / share
    if training.engine == "deepspeed":
        weight, gradient, optimizer = training.weight_bytes, training.weight_bytes, 12
        if training.weight_bytes == 4:
            optimizer = 8  # float32 weights need no master copy
    else:
        weight = gradient = training.weight_bytes
        optimizer = 2 * training.weight_bytes
    if training.optimizer == "muon":  # one moment instead of two for everything but embeddings
        optimizer -= training.weight_bytes * (1 - training.model.vocab_size * training.model.hidden_size / n)
    reference = training.weight_bytes * n if training.reference else 0
    return (
        (weight * n + reference) / (devices if training.zero == 3 else 1),
        gradient * n / (devices if training.zero >= 2 else 1),
        optimizer * n / (devices if training.zero >= 1 else 1),
    )


def layer_bytes(training: Training) -> float:
    """Return the bytes that one layer keeps for its backward pass, per token, without attention scores."""
    model, size = training.model, training.compute_bytes
    h, i = model.hidden_size, model.intermediate_size
    norms = 2 * h * (size if training.kernels else size + 4)  # plain RMSNorm also keeps a float32 copy
    attention = size * (2 * model.query_size + 2 * model.key_value_size + model.query_size)
    feed_forward = size * i * (2 if training.kernels else 4)  # gate, up; plain: also silu(gate), the product
    residual = size * 2 * h
    return norms + attention + feed_forward + residual


def score_bytes(training: Training) -> float:
    """Return the bytes of one layer's attention scores; flash attention and sdpa never store them.

    Eager keeps them in bf16, their float32 softmax, and casts back: 6 bytes a pair at the peak. 8 rows of
    5,120 tokens with 28 heads are 35 GB a layer.
    """
    if training.attention != "eager":
        mask = training.flattened and training.attention == "sdpa"
        return float((training.rows * training.row) ** 2) if mask else 0.0  # a dense mask, one byte a pair
    rows, row = (1, training.rows * training.row) if training.flattened else (training.rows, training.row)
    return 6.0 * training.model.num_attention_heads * rows * row**2


def activations(training: Training) -> float:
    """Return the bytes of activations at the peak.

    With checkpointing each layer keeps only its input, and one layer at a time is whole, with as many bytes
    of gradients.
    """
    tokens, layers = training.rows * training.row, training.model.num_hidden_layers
    layer = layer_bytes(training) * tokens + score_bytes(training)
    if training.checkpointing:
        return layers * training.compute_bytes * training.model.hidden_size * tokens + 2 * layer
    return layers * layer + layer


def logit_bytes(training: Training) -> float:
    """Return the bytes around the LM head in TRL 1.16's chunked form."""
    tokens, model = training.rows * training.row, training.model
    tile = min(tokens, TILE_TOKENS) * min(model.vocab_size, TILE_WORDS) * 4
    head = 0 if training.adapter else model.vocab_size * model.hidden_size * 4
    return tile + head + tokens * model.hidden_size * 4


@dataclass(frozen=True)
class ServerMemory(ByKind):
    """The memory of generation, and how many tokens its cache holds and needs."""

    weights: float
    kv_cache: float
    margin: float
    kv_tokens: int
    wanted_tokens: int
    KINDS = ("weights", "kv_cache", "margin")


def server_memory(generation: Generation, training: Training, device: Device) -> ServerMemory:
    """Return the memory of generation: vLLM fills its share of the device with cache, `generate` grows it."""
    model, split = training.model, generation.tensor_parallel
    per_token = model.cache_bytes_per_token * generation.weight_bytes / 2 / split
    sequences = generation.completions * split / max(1, generation.devices)
    wanted = round(sequences * (generation.prompt + generation.longest))
    if generation.mode == "in-process":
        return ServerMemory(0.0, per_token * wanted, 0.0, wanted, wanted)
    weights = generation.weight_bytes * model.parameters / split
    # Graphs, buffers and the driver's context; vLLM counts them inside its share (an assumption: 4 GiB).
    margin = 4 * 2**30
    cache = max(0.0, generation.memory_share * device.memory - weights - margin)
    if generation.cache_bytes is not None:
        cache = generation.cache_bytes / split
    return ServerMemory(weights, cache, margin, int(cache / per_token), wanted)


def suggest(training: Training, fits: Callable[[Training], bool]) -> tuple[str, ...]:
    """Return the first change of settings after which the training fits, else the first that together do.

    An empty tuple says that no change of settings is enough.
    """
    kinds = smaller(training)
    for variants in kinds.values():
        for text, after in variants:
            if fits(after):
                return (text,)
    pile, current = [], training
    for kind in kinds:
        variants = smaller(current).get(kind, [])
        enough = [(text, after) for text, after in variants if fits(after)]
        if variants:
            text, current = enough[0] if enough else variants[-1]
            pile.append(text)
        if enough:
            return tuple(pile)
    return ()


def smaller(training: Training) -> dict[str, list[tuple[str, Training]]]:
    """Return the changes that make a training smaller: per kind its variants, the mildest first.

    Kinds are ordered from what costs only time, over what costs communication, to what trains something else.
    """
    section, model = training.section, training.model
    kinds: dict[str, list[tuple[str, Training]]] = {}

    def change(kind: str, setting: str, cost: str, **changed: object) -> None:
        kinds.setdefault(kind, []).append((f"{setting} ({cost})", replace(training, **changed)))

    if training.attention == "eager":
        setting = f"{section}.attn_implementation=flash_attention_2"
        change("attention", setting, "nothing: it is faster", attention="flash")
    if not training.checkpointing:
        setting = f"{section}.gradient_checkpointing=true"
        change("checkpointing", setting, "a third more computing", checkpointing=True)
    if training.weight_bytes == 4 and training.engine != "deepspeed" and training.compute_bytes == 2:
        cost = "updates below bf16's precision are lost"
        change("dtype", f"{section}.dtype=bfloat16", cost, weight_bytes=2)
    rows, accumulation = training.rows, training.accumulation
    while rows > 1:
        half = rows // 2
        rows, accumulation = half, training.accumulation * training.rows // half
        setting = (
            f"{section}.per_device_train_batch_size={rows}, "
            f"{section}.gradient_accumulation_steps={accumulation}"
        )
        change("rows", setting, "more, smaller products", rows=rows, accumulation=accumulation)
    if training.engine == "deepspeed":
        for zero in range(training.zero + 1, 4):
            cost = "weights are gathered layer by layer" if zero == 3 else "nothing worth mentioning"
            change("zero", f"accelerate.deepspeed_config.zero_stage={zero}", cost, zero=zero)
    if training.engine == "ddp":
        changed = {"engine": "deepspeed", "zero": 2, "weight_bytes": 2}
        cost = "ZeRO-2: gradients are scattered"
        change("zero", "accelerate.distributed_type=DEEPSPEED", cost, **changed)
    if not training.adapter:
        rank = 16 * model.num_hidden_layers * (model.hidden_size * 9 + model.intermediate_size * 3)
        cost = "LoRA: only adapters are trained"
        change("adapter", f"{section}.use_peft=true", cost, adapter=rank, reference=False)
    if section == "sft":
        for row in (training.row // 2, training.row // 4):
            change("length", f"sft.max_length={row}", "longer traces are cut", row=row)
    return kinds
