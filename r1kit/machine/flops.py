"""FLOPs of a token, MFU in both conventions, and the bandwidth bound of token generation.

forward(s) = 2 N + 4 L n_h d s c, with N the parameters in matrix products and s the tokens a token may see.
c = 1/2 counts only the causal half of attention (Llama, Megatron); c = 1 counts all of it (PaLM, and TRL's
`compute_flops_per_token`). A kit that prints one MFU without saying which cannot be compared: at 4,096 tokens
Qwen2.5-7B's two differ by 5%, at 32,768 by 28%. Ours is the causal one; TRL's is logged beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

from r1kit.settings.known_models import ModelShape

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
    """Return the document length that attention costs as much as: sum(n^2) / sum(n), not the mean."""
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
