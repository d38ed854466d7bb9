"""Speed: a table of devices (`DEVICES`), the FLOPs per token and MFU, and this CPU's measured matrix speed.

The table holds each accelerator's peak, with its source, and the share of it that trainings reach. TRL 1.16,
TorchTitan and prime-rl do not know the MI350X: TRL logs no MFU for it, the others fall back to an A100 and
print a value seven times too large. Peaks are dense; vendors also print twice as much, for sparse matrices.

forward(s) = 2 N + 4 L n_h d s c, with N the parameters in matrix products and s the tokens a token may see.
c = 1/2 counts only the causal half of attention (Llama, Megatron); c = 1 counts all of it (PaLM, and TRL's
`compute_flops_per_token`). For Qwen2.5-7B the two conventions differ by 5% at 4,096 tokens and by 28% at
32,768, so an MFU means nothing without its convention. r1kit reports the causal one and logs TRL's beside it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1kit.settings.known_models import ModelShape

if TYPE_CHECKING:
    from r1kit.settings import Profile

TERA, GIGA, MIB = 1e12, 1e9, 2**20


@dataclass(frozen=True)
class Device:
    """One kind of device.

    Attributes:
        matrix: dense peak in FLOP/s of the precision it trains in (bf16; float32 on a CPU).
        fp8: dense peak in FLOP/s, None without such units.
        memory: bytes; as the driver reports, or the vendor's decimal GB where that is unknown.
        bandwidth: memory bandwidth in byte/s.
        pattern: regular expression for the name that torch and the drivers report.
        source: where the peaks come from.
        train_share: share of `matrix` that a training is planned with, recomputation included.
        decode_share: share of `bandwidth` that token generation is planned with.
        forward_seconds: overhead of one forward pass besides arithmetic (launches, Python).
        context: bytes a training process takes before its first tensor (driver context, libraries).
        shares_source: where those four come from.
    """

    name: str
    matrix: float
    fp8: float | None
    memory: int
    bandwidth: float
    pattern: str
    source: str
    train_share: float
    decode_share: float = 0.6
    forward_seconds: float = 0.0
    context: int = 2 * 2**30
    shares_source: str = ""


AMD_FLOOR = (
    "25%: what flash attention and no needless recomputation should reach; AMD's own acceptance floor for "
    "Llama-3.1-70B in 16 bit on MI350X is 38.9% (ROCm/cvs). decode: 60% of bandwidth, an assumption."
)
NVIDIA_FLOOR = (
    "30%: torchtitan's Llama-3.1-8B in bf16 on 8 H100 (2024-12). decode: 60% of bandwidth, an assumption."
)
MI350X_PEAK = "256 CU x 4096 FLOP a clock x 2.2 GHz, as AMD's Primus and verl's table (2.3 PFLOP/s)"
MI355X_PEAK = "256 CU x 4096 FLOP a clock x 2.4 GHz; TRL 1.16's table says 2.5 PFLOP/s"
CDNA3_PEAK = "verl's and prime-rl's tables"
NVIDIA_PEAK = "TRL 1.16's and verl's tables"

DEVICES: dict[str, Device] = {
    "mi300x": Device(
        "AMD Instinct MI300X", 1307.4 * TERA, 2614.9 * TERA, 196_592 * MIB, 5.3 * TERA, r"MI300X",
        f"{CDNA3_PEAK}; memory as amd-smi says; bandwidth AMD's data sheet (not re-checked)",
        0.25, shares_source=AMD_FLOOR,
    ),
    "mi325x": Device(
        "AMD Instinct MI325X", 1307.4 * TERA, 2614.9 * TERA, 256 * 10**9, 6.0 * TERA, r"MI325X",
        f"{CDNA3_PEAK}; memory and bandwidth AMD's data sheet (not re-checked)",
        0.25, shares_source=AMD_FLOOR,
    ),
    "mi350x": Device(
        "AMD Instinct MI350X", 2306.9 * TERA, 4613.7 * TERA, 294_896 * MIB, 8.0 * TERA, r"MI350X",
        f"{MI350X_PEAK}; memory as amd-smi says (288 GiB); bandwidth ROCm's gpu-specs page",
        0.25, shares_source=AMD_FLOOR,
    ),
    "mi355x": Device(
        "AMD Instinct MI355X", 2516.6 * TERA, 5033.2 * TERA, 294_896 * MIB, 8.0 * TERA, r"MI355X",
        f"{MI355X_PEAK}; memory as amd-smi says (288 GiB); bandwidth ROCm's gpu-specs page",
        0.25, shares_source=AMD_FLOOR,
    ),
    "h100": Device(
        "NVIDIA H100 SXM", 989.4 * TERA, 1978.9 * TERA, 80 * 10**9, 3.35 * TERA, r"H100(?! (NVL|PCIe))",
        f"{NVIDIA_PEAK}; memory and bandwidth NVIDIA's data sheet", 0.30, shares_source=NVIDIA_FLOOR,
    ),
    "h200": Device(
        "NVIDIA H200 SXM", 989.4 * TERA, 1978.9 * TERA, 141 * 10**9, 4.8 * TERA, r"H200(?! NVL)",
        f"{NVIDIA_PEAK}; memory and bandwidth NVIDIA's data sheet", 0.30, shares_source=NVIDIA_FLOOR,
    ),
    "b200": Device(
        "NVIDIA B200", 2250 * TERA, 4500 * TERA, 180 * 10**9, 8.0 * TERA, r"(?<!G)B200",
        f"{NVIDIA_PEAK}; memory 180 to 192 GB, the smaller is taken; bandwidth NVIDIA's data sheet",
        0.30, shares_source=NVIDIA_FLOOR,
    ),
    "l4": Device(
        "NVIDIA L4", 121 * TERA, 242 * TERA, 24 * 10**9, 0.3 * TERA, r"\bL4\b",
        "TRL 1.16's table; memory and bandwidth NVIDIA's data sheet (not re-checked)",
        0.30, shares_source=NVIDIA_FLOOR,
    ),
    "cpu": Device(
        "two CPU cores (x86, AVX2)", 183.0 * GIGA, None, 24 * 10**9, 35.7 * GIGA, r"^cpu$",
        "float32: measure_gflops() with two threads on the reference machine while nothing else computed, "
        "2026-11-24; bandwidth: numpy copy of 512 MB, the same day; memory: that machine's",
        0.305, 1.0, 0.0085, 10**9, "measured with cpu-tiny's own runs, see the plan's tests",
    ),
}  # fmt: skip


def find_device(name: str) -> Device | None:
    """Return the row for a device name as torch or a driver reports it; None if the table has none."""
    return next((row for row in DEVICES.values() if re.search(row.pattern, name, re.IGNORECASE)), None)


CAUSAL, FULL = 0.5, 1.0
TRAINING = 3
"""Forward passes' worth of FLOPs in one forward and backward pass: what MFU counts."""


def forward_flops(model: ModelShape, length: float, convention: float = CAUSAL) -> float:
    """Return the FLOPs of one token's forward pass in a document of `length` tokens."""
    attention = 4 * model.num_hidden_layers * model.query_size * length * convention
    return 2 * model.matrix_parameters + attention


def training_flops(model: ModelShape, length: float, convention: float = CAUSAL) -> float:
    """Return the FLOPs of one token, forward and backward, without recomputation: the numerator of MFU."""
    return TRAINING * forward_flops(model, length, convention)


def attended_length(lengths: Iterable[float]) -> float:
    """Return the document length with the same attention cost per token: sum(n^2) / sum(n), not the mean."""
    lengths = list(lengths)
    total = sum(lengths)
    return sum(n * n for n in lengths) / total if total else 0.0


def mfu(tokens_per_second: float, flops_per_token: float, devices: int, peak: float) -> float:
    """Return the model FLOPs utilisation, 0 to 1: useful FLOPs per second over what the devices could do.

    Args:
        tokens_per_second: of all devices together, real tokens without padding.
        flops_per_token: `training_flops` of the chosen convention.
        peak: of one device, FLOP/s.
    """
    return tokens_per_second * flops_per_token / (devices * peak)


def decode_seconds(weight_bytes: float, cache_bytes: float, bandwidth: float) -> float:
    """Return the least seconds of a decoding step, which reads all weights and every sequence's cache."""
    return (weight_bytes + cache_bytes) / bandwidth


SIZE = 640
"""Rows of the square matrices: half a GFLOP, enough for BLAS and little for a slow machine."""


def measure_gflops(seconds: float = 0.8) -> float:
    """Measure numpy's best float32 matrix product in GFLOP/s, with the threads in effect, in `seconds`.

    The best of many products, not their mean: other work on the machine only ever makes a product slower.
    """
    import numpy

    generator = numpy.random.default_rng(0)
    left, right = (generator.standard_normal((SIZE, SIZE), dtype=numpy.float32) for _ in range(2))
    best, deadline = 0.0, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        numpy.matmul(left, right)
        end = time.perf_counter()
        best = max(best, 2 * SIZE**3 / (end - start) / 1e9)
        if end > deadline:
            return best


def expected_minutes(profile: Profile, gflops: float | None = None) -> dict[str, float]:
    """Return minutes per stage on this machine: the profile's measured ones, scaled by its matrix speed.

    An estimate: Python and disk don't scale with matrices. Without `gflops` or a reference nothing is scaled.
    """
    reference = profile.machine.reference_gflops
    factor = reference / gflops if reference and gflops else 1.0
    return {stage: minutes * factor for stage, minutes in profile.machine.expected_minutes.items()}
