"""Shapes of the hub models that profiles name, so that a plan and the rules need no download.

Every row is the model's own config.json. A test holds each to the totals in the tables that the plan's
formulas were checked with (7.615 / 7.070 billion for Qwen2.5-7B, 8.030 / 7.505 for Llama-3.1-8B,
4.022 / 4.022 for Qwen3-4B, 1.544 / 1.544 for Qwen2.5-1.5B; all parameters / those in matrix products).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder with grouped-query attention and SwiGLU, in the names of transformers' configs.

    `eos_token` is what the tokenizer calls the end; `turn_end` is what the chat template writes after an
    answer. Empty: not known.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    head_dim: int = 0
    attention_bias: bool = False
    qk_norm: bool = False
    rope_theta: float = 10_000.0
    eos_token: str = ""
    turn_end: str = ""

    @property
    def width(self) -> int:
        """Dimensions of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.width

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together, which is that of all value heads."""
        return self.num_key_value_heads * self.width

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer that take part in matrix products."""
        h = self.hidden_size
        attention = h * (self.query_size + 2 * self.key_value_size) + self.query_size * h
        return attention + 3 * h * self.intermediate_size

    @property
    def matrix_parameters(self) -> int:
        """Parameters in matrix products: the layers and the LM head, tied or not; no embedding look-up."""
        return self.num_hidden_layers * self.layer_matrices + self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters; a tied LM head counts once."""
        h = self.hidden_size
        bias = self.query_size + 2 * self.key_value_size if self.attention_bias else 0
        norms = 2 * h + (2 * self.width if self.qk_norm else 0)
        embeddings = self.vocab_size * h * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * (self.layer_matrices + bias + norms) + h + embeddings

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of one token in bf16, all layers: 57,344 bytes for Qwen2.5-7B."""
        return 2 * self.num_hidden_layers * self.key_value_size * 2


QWEN_BASE = {"eos_token": "<|endoftext|>", "turn_end": "<|im_end|>", "attention_bias": True}
QWEN_7B = ModelShape(3584, 18944, 28, 28, 4, 152064, 131072, rope_theta=1e6, **QWEN_BASE)
QWEN_1_5B = ModelShape(1536, 8960, 28, 12, 2, 151936, 131072, True, rope_theta=1e6, **QWEN_BASE)
QWEN_0_5B = ModelShape(896, 4864, 24, 14, 2, 151936, 32768, True, rope_theta=1e6, **QWEN_BASE)

KNOWN_MODELS: dict[str, ModelShape] = {
    "Qwen/Qwen2.5-7B": QWEN_7B,
    "Qwen/Qwen2.5-7B-Instruct": replace(QWEN_7B, max_position_embeddings=32768, eos_token="<|im_end|>"),
    # 4,096 positions and theta 10,000: open-r1 issue 469; that is why open-r1 made the RoPE-300k copy.
    "Qwen/Qwen2.5-Math-7B": replace(QWEN_7B, max_position_embeddings=4096, rope_theta=1e4),
    "open-r1/Qwen2.5-Math-7B-RoPE-300k": replace(QWEN_7B, max_position_embeddings=32768, rope_theta=3e5),
    # DeepSeek's distills end with a token of their own, and their template writes the same.
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": replace(
        QWEN_7B,
        rope_theta=1e4,
        eos_token="<｜end▁of▁sentence｜>",
        turn_end="<｜end▁of▁sentence｜>",
    ),
    "Qwen/Qwen2.5-1.5B": QWEN_1_5B,
    "Qwen/Qwen2.5-1.5B-Instruct": replace(QWEN_1_5B, max_position_embeddings=32768, eos_token="<|im_end|>"),
    "Qwen/Qwen2.5-Math-1.5B": replace(QWEN_1_5B, max_position_embeddings=4096, rope_theta=1e4),
    "Qwen/Qwen2.5-0.5B": QWEN_0_5B,
    "Qwen/Qwen2.5-0.5B-Instruct": replace(QWEN_0_5B, eos_token="<|im_end|>"),
    "Qwen/Qwen3-4B": replace(
        ModelShape(2560, 9728, 36, 32, 8, 151936, 40960, True, 128, qk_norm=True, rope_theta=1e6),
        eos_token="<|im_end|>",
        turn_end="<|im_end|>",
    ),
    "meta-llama/Llama-3.1-8B": ModelShape(
        4096, 14336, 32, 32, 8, 128256, 131072, rope_theta=5e5, eos_token="<|end_of_text|>"
    ),
}

LONGER = {"Qwen/Qwen2.5-Math-7B": "open-r1/Qwen2.5-Math-7B-RoPE-300k"}
"""The same weights with room for longer texts."""


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape in a config.json (or in base.yaml's architecture with its `vocab_size`).

    Raises KeyError naming what the config lacks.
    """
    rope = config.get("rope_parameters") or {}
    return ModelShape(
        **{
            name: config[name]
            for name in (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "vocab_size",
                "max_position_embeddings",
            )
        },
        tie_word_embeddings=bool(config.get("tie_word_embeddings")),
        head_dim=config.get("head_dim") or 0,
        attention_bias=config.get("model_type", "qwen2") == "qwen2",
        qk_norm=config.get("model_type") == "qwen3",
        rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 1e4),
    )
