"""Qwen2's forward pass in plain torch, for a stand-in server that starts in two seconds instead of six."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F


class SmallQwen2:
    """A model folder's weights and their logits; tied or untied output."""

    def __init__(self, folder: str):
        config = json.loads((Path(folder) / "config.json").read_text())
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.kv_heads, self.eps = config["num_key_value_heads"], config["rms_norm_eps"]
        self.theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        self.size = config["hidden_size"] // self.heads
        self.load(Path(folder) / "model.safetensors")

    def load(self, path: Path) -> None:
        """Take the weights of a safetensors file."""
        self.weights = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weights[f"{name}.weight"]

    def project(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        frequencies = self.theta ** -(torch.arange(0, self.size, 2) / self.size)
        angles = (positions[..., None] * frequencies).repeat(1, 1, 2)[:, None]
        half = self.size // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        return x * angles.cos() + turned * angles.sin()

    @torch.no_grad()
    def last_logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, V] of the token after each row of `ids` [B, T], which `mask` pads on the left."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril() & mask[:, None, None, :].bool()
        seen |= torch.eye(ids.shape[1], dtype=torch.bool)  # a padded row sees itself, or softmax has nothing
        x = self.weights["embed_tokens.weight"][ids]
        for i in range(self.layers):
            h = self.norm(x, f"layers.{i}.input_layernorm")
            q, k, v = (
                self.project(h, f"layers.{i}.self_attn.{n}_proj")
                .unflatten(-1, (-1, self.size))
                .transpose(1, 2)
                for n in "qkv"
            )
            q, k = self.rotate(q, positions), self.rotate(k, positions)
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
            x = x + self.project(h.transpose(1, 2).flatten(2), f"layers.{i}.self_attn.o_proj")
            h = self.norm(x, f"layers.{i}.post_attention_layernorm")
            gate = F.silu(self.project(h, f"layers.{i}.mlp.gate_proj"))
            x = x + self.project(
                gate * self.project(h, f"layers.{i}.mlp.up_proj"), f"layers.{i}.mlp.down_proj"
            )
        head = self.weights.get("lm_head.weight", self.weights["embed_tokens.weight"])
        return F.linear(self.norm(x[:, -1], "norm"), head)
