"""Do packed traces see each other, on this machine, with this attention? A self-test of a second.

transformers recognises packing from restarting positions, and only where no attention mask and no cache is
given; each attention kernel then has its own way to keep documents apart. The test gives two documents to a
small random model, alone and packed, and compares logits. So that a pass means something it also packs them
the wrong way, under an all-ones mask, as TRL 0.18 did: there the logits must differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LENGTHS = (24, 40)
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest difference, over the largest logit, that rounding explains. Seeing another document gives about 1
(a CPU, sdpa and eager, 2026-11-24; there the right way gives exactly 0)."""


@dataclass(frozen=True)
class PackingProof:
    """Largest differences of logits over the largest logit, against alone: packed rightly, and mixed."""

    attention: str
    device: str
    dtype: str
    apart: float
    mixed: float

    @property
    def holds(self) -> bool:
        """Whether packed documents are apart, and the test would have noticed if they were not."""
        tolerance = TOLERANCE[self.dtype]
        return self.apart <= tolerance < self.mixed

    def __str__(self) -> str:
        verdict = "packed traces stay apart" if self.holds else "PACKED TRACES SEE EACH OTHER"
        if self.mixed <= TOLERANCE[self.dtype]:
            verdict = "the test saw no difference even where documents are mixed: it proves nothing here"
        return (
            f"{verdict}: {self.attention} on {self.device} in {self.dtype}, logits differ by "
            f"{self.apart:.1e} (mixed on purpose: {self.mixed:.1e})"
        )


def prove(attention: str = "sdpa", device: str = "cpu", dtype: str = "float32") -> PackingProof:
    """Run the self-test.

    Args:
        attention: an `attn_implementation` of transformers.
        device: "cpu" or "cuda" (ROCm too).
        dtype: "float32", "bfloat16" or "float16"; flash attention takes the last two only.

    Raises:
        ImportError, ValueError: transformers cannot use this attention here.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        max_position_embeddings=128,
        attn_implementation=attention,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config).to(device=device, dtype=getattr(torch, dtype)).eval()
        documents = [torch.randint(0, 128, (1, length)).to(device) for length in LENGTHS]
    packed = torch.cat(documents, dim=1)
    positions = torch.cat([torch.arange(length, device=device)[None] for length in LENGTHS], dim=1)

    def logits(ids: Any, **arguments: Any) -> Any:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False, **arguments).logits.float()

    alone = torch.cat([logits(ids) for ids in documents], dim=1)
    scale = alone.abs().max()
    apart = logits(packed, position_ids=positions)
    mixed = logits(packed, position_ids=positions, attention_mask=torch.ones_like(packed))
    return PackingProof(
        attention,
        device,
        dtype,
        ((apart - alone).abs().max() / scale).item(),
        ((mixed - alone).abs().max() / scale).item(),
    )
