"""How fast this machine trains and generates with a model as small as the embedded one, timed in torch.

The peak of large matrix products says half of it: at 128 channels a step also waits for passes over memory
and for the start of each kernel, and generation for one small pass a token. So one decoder layer at
cpu-tiny's shapes is timed: forward and backward over a batch of rows, and forward over one token of many
sequences. Both follow threads, clock and other work on the machine as a training itself does.
`r1kit.training.speed_log` writes them beside a CPU training's metrics, and `r1kit plan --against` counts with
what stands there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

HIDDEN, INTERMEDIATE, HEADS = 128, 384, 4
ROWS, ROW = 17, 160
SEQUENCES, PAST = 128, 48
SPEED_FILE = "speed.jsonl"  # in the folder of a training job


@dataclass(frozen=True)
class LayerSpeed:
    """Speed of one decoder layer.

    Attributes:
        gflops: 10^9 FLOP/s of forward and backward over 17 rows of 160 tokens, attention's causal half
            counted.
        pass_seconds: one token of 128 sequences through the layer, 48 tokens in the cache.
    """

    gflops: float
    pass_seconds: float


REFERENCE = LayerSpeed(gflops=102.0, pass_seconds=1.36e-3)
"""The machine of `peaks.DEVICES["cpu"]`: two cores (x86, AVX2), nothing else computing, 2026-11-24.

Measured as 92.5 and 1.5 ms, median of eight, while `measure_gflops` said 166; here in proportion to its 183.
"""


def measure_layer(seconds: float = 0.3) -> LayerSpeed:
    """Time both for `seconds` together, with the threads in effect; leaves torch's random state alone.

    Means, not the best: what other work on the machine takes away, it takes from a training too.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = [(HIDDEN, HIDDEN)] * 4 + [(INTERMEDIATE, HIDDEN)] * 2 + [(HIDDEN, INTERMEDIATE)]
    weights = [(torch.randn(shape, generator=generator) * 0.05).requires_grad_() for shape in shapes]
    batch = torch.randn(ROWS, ROW, HIDDEN, generator=generator, requires_grad=True)
    token = torch.randn(SEQUENCES, 1, HIDDEN, generator=generator)
    past = torch.randn(2, SEQUENCES, HEADS, PAST, HIDDEN // HEADS, generator=generator)

    def train() -> None:
        with torch.enable_grad():
            torch.autograd.grad(layer(batch, weights).square().mean(), [batch, *weights])

    def generate() -> None:
        with torch.no_grad():
            layer(token, weights, past)

    parameters = sum(rows * columns for rows, columns in shapes)
    flops = 3 * ROWS * ROW * (2 * parameters + 2 * HIDDEN * ROW)
    return LayerSpeed(flops / mean_seconds(train, seconds * 2 / 3) / 1e9, mean_seconds(generate, seconds / 3))


def layer(
    states: torch.Tensor, weights: list[torch.Tensor], past: torch.Tensor | None = None
) -> torch.Tensor:
    """A pre-norm decoder layer without positions or biases: [rows, tokens, hidden] to the same.

    Args:
        weights: of query, key, value, output, gate, up and down, each [outputs, inputs].
        past: keys and values of earlier tokens, [2, rows, heads, tokens, hidden / heads].
    """
    import torch
    from torch.nn import functional

    def heads(values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    query, key, value, output, gate, up, down = weights
    normed = functional.rms_norm(states, (HIDDEN,))
    keys, values = (heads(normed @ matrix.T) for matrix in (key, value))
    if past is not None:
        keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
    attended = functional.scaled_dot_product_attention(
        heads(normed @ query.T), keys, values, is_causal=past is None
    )
    states = states + attended.transpose(1, 2).flatten(2) @ output.T
    normed = functional.rms_norm(states, (HIDDEN,))
    return states + (functional.silu(normed @ gate.T) * (normed @ up.T)) @ down.T


def mean_seconds(call: Callable[[], None], seconds: float) -> float:
    """Mean seconds of a call over about `seconds`, after one call that doesn't count."""
    call()
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < seconds:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def of_rows(rows: Sequence[Mapping[str, Any]]) -> LayerSpeed | None:
    """The median of what a training wrote while it ran; None where it wrote nothing."""
    if not rows:
        return None
    return LayerSpeed(
        median(row["layer_gflops"] for row in rows), median(row["pass_seconds"] for row in rows)
    )
