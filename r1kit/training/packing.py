"""Packed rows: several documents in one row of a [B, L] batch, none of which sees another.

transformers builds a block-diagonal mask whenever position_ids restart inside a row, no attention_mask is given and no
cache is in use. That holds for any number of rows, so there is no need to flatten the batch into one row as TRL's
`packing: true` does: without a variable-length attention kernel (CPU, eager, sdpa) attention over one row of B*L tokens
costs (B*L)^2 where rows cost B*L^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1kit.settings import Problem, SettingsError

IGNORED = -100


@dataclass
class RowsCollator:
    """Examples -> `input_ids`, `labels`, `position_ids`, each int64 [B, L]; no attention_mask, since it would undo the blocks.

    An example has `input_ids`, optionally `labels` (default: the ids) and `seq_lengths`, the lengths of the documents in it
    (default: one). The first label of every document is masked: no token of the document before it should predict it.
    Padding is one more document, with masked labels.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        width = max(len(example["input_ids"]) for example in examples)
        shape = (len(examples), width)
        input_ids = torch.full(shape, self.pad_token_id, dtype=torch.int64)
        labels = torch.full(shape, IGNORED, dtype=torch.int64)
        position_ids = torch.zeros(shape, dtype=torch.int64)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            input_ids[row, :length] = torch.as_tensor(example["input_ids"])
            labels[row, :length] = torch.as_tensor(example.get("labels", example["input_ids"]))
            documents = list(example.get("seq_lengths") or [length])
            position_ids[row] = torch.cat([torch.arange(n) for n in (*documents, width - length)])
        labels[position_ids == 0] = IGNORED
        return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}


def check_rows_possible(args: Any, attn_implementation: str | None) -> None:
    """Raise SettingsError where rows would silently be wrong.

    Flash attention reads document boundaries from position_ids only in a batch of one row; with more rows documents would
    see each other. There TRL's own `packing: true` is right, and fast.
    """
    problems = []
    if attn_implementation and "flash" in attn_implementation:
        problems.append(
            Problem(
                "sft.yaml",
                "row_packing",
                found=f"true with attn_implementation: {attn_implementation}",
                allowed="attn_implementation: sdpa, eager or flex_attention",
                message="With flash attention use TRL's `packing: true` instead.",
            )
        )
    if args.packing or args.padding_free:
        problems.append(
            Problem(
                "sft.yaml",
                "row_packing",
                found="true beside packing or padding_free",
                allowed="one of the three",
                message="They are three ways to do the same.",
            )
        )
    if args.max_length is None:
        problems.append(
            Problem("sft.yaml", "max_length", found="nothing", allowed="the length of a packed row")
        )
    if problems:
        raise SettingsError(problems)
