"""A tiny model that knows the format's tokens and nothing else."""

from __future__ import annotations

import pytest

from r1kit.data.datasets import build_heldout
from r1kit.data.format import write_completion
from r1kit.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tiny():
    """(model, tokenizer) with random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    texts = [row["problem"] for row in build_heldout(6, seed=5, levels=(1, 2))]
    tokenizer = train_tokenizer([*texts, write_completion(["Step 1: 1 + 1 = 2"], "2")], 300)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Qwen2ForCausalLM(config), tokenizer
