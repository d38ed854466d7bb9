"""Packed rows: several documents in one row of a [B, L] batch, none of which sees another.

transformers builds a block-diagonal mask whenever position_ids restart inside a row, no attention_mask is
given and no cache is in use. That holds for any number of rows, so there is no need to flatten the batch into
one row as TRL's `packing: true` does: without a variable-length attention kernel (CPU, eager, sdpa) attention
over one row of B*L tokens costs (B*L)^2 where rows cost B*L^2.

The programs use `RowsCollator`; the lesson measures three layouts with `compare_padding_and_packing`; `r1kit
doctor --packing` checks with `prove_packing` that the attention kernel of this machine keeps documents apart.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1kit.settings import Problem, SettingsError

IGNORED = -100
Batch = dict[str, Any]


@dataclass
class RowsCollator:
    """Turns examples into `input_ids`, `labels` and `position_ids`, each int64 [B, L].

    There is no attention_mask, since it would undo the blocks. An example has `input_ids`, optionally
    `labels` (default: the ids) and `seq_lengths`, the lengths of its documents (default: one). The first
    label of every document is masked: no token of the document before should predict it. Padding is one more
    document, with masked labels.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the batch of these examples, as wide as the longest."""
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
    """Check that rows are possible: flash attention reads document boundaries only from a batch of one row.

    With more rows documents would see each other. TRL's own `packing: true` is right there, and fast.

    Raises:
        SettingsError: flash attention, TRL's packing beside ours, or no length for a row.
    """
    problems = []
    if attn_implementation and "flash" in attn_implementation:
        found = f"true with attn_implementation: {attn_implementation}"
        allowed = "attn_implementation: sdpa, eager or flex_attention"
        message = "With flash attention use TRL's `packing: true` instead."
        problems.append(Problem("sft.yaml", "row_packing", found, allowed, message=message))
    if args.packing or args.padding_free:
        found, message = "true beside packing or padding_free", "They are three ways to do the same."
        problems.append(Problem("sft.yaml", "row_packing", found, "one of the three", message=message))
    if args.max_length is None:
        problems.append(Problem("sft.yaml", "max_length", "nothing", "the length of a packed row"))
    if problems:
        raise SettingsError(problems)


def describe_rows(dataset: Any, row_length: int) -> str:
    """Say how well documents fill the rows: `2,498 rows of up to 128 tokens, 72% of them filled`."""
    lengths = [sum(counts) for counts in dataset["seq_lengths"]]
    filled = sum(lengths) / (len(lengths) * max(lengths))
    return f"{len(lengths):,} rows of up to {row_length} tokens, {filled:.0%} of them filled"


# The lesson: the same traces padded, flattened and in rows

MAX_COMPARISON_FLOPS = 2e12
"""Bound of `compare_padding_and_packing`: a quarter of a minute of two CPU cores."""


def tokenize_traces(dataset: Any, tokenizer: Any) -> list[dict[str, list[int]]]:
    """Turn traces (`messages`) into `input_ids` and `labels`, the user's tokens masked, as TRL does for SFT.

    A chat template without generation marks does not tell user and assistant apart: then all tokens are
    learned, as in TRL without `assistant_only_loss`.
    """
    encoded = tokenizer.apply_chat_template(
        list(dataset["messages"]), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    examples = []
    for ids, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        learned = mask if any(mask) else [1] * len(ids)
        labels = [token if keep else IGNORED for token, keep in zip(ids, learned, strict=True)]
        examples.append({"input_ids": ids, "labels": labels})
    return examples


def compare_padding_and_packing(
    model: Any,
    dataset: Any,
    tokenizer: Any,
    *,
    documents: int = 256,
    batch_size: int = 16,
    row_length: int | None = None,
    repeats: int = 3,
) -> Any:
    """Time forward and backward over the same traces in three layouts, in turns: load slows all alike.

    Args:
        dataset: traces with `messages`; the first `documents` are used.
        batch_size: documents in a padded batch; packed batches get as many real tokens.
        row_length: tokens of a packed row (default: four times the longest document, at most the model's
            context).
        repeats: passes over the documents in each layout; the fastest counts.

    Returns:
        A DataFrame, one row per layout: layout, tokens (real ones), slots (with padding), fill (tokens /
        slots), seconds, tokens_per_second (real ones), loss (mean over labels: equal unless documents see
        each other). The last three are NaN if the passes would take more than `MAX_COMPARISON_FLOPS`: a real
        model on real traces is measured by training it.
    """
    import pandas

    context = model.config.max_position_embeddings
    traces = tokenize_traces(dataset.select(range(min(documents, len(dataset)))), tokenizer)
    examples = [{name: tokens[:context] for name, tokens in trace.items()} for trace in traces]
    tokens = sum(len(example["input_ids"]) for example in examples)
    row_length = row_length or min(4 * max(len(example["input_ids"]) for example in examples), context)
    prepared = layouts(examples, tokenizer.pad_token_id, batch_size, row_length)
    seconds = losses = dict.fromkeys(prepared, float("nan"))
    if _flops(model, prepared) * (repeats + 1) <= MAX_COMPARISON_FLOPS:
        seconds, losses = dict.fromkeys(prepared, float("inf")), {}
        was_training = model.training
        model.train()
        for batches in prepared.values():
            forward_backward(model, batches[0])  # the first pass of any shape is slower
        for _ in range(repeats):
            for name, batches in prepared.items():
                start = time.perf_counter()
                sums = [forward_backward(model, batch) for batch in batches]
                seconds[name] = min(seconds[name], time.perf_counter() - start)
                losses[name] = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
        model.train(was_training)
    slots = {name: sum(b["input_ids"].numel() for b in batches) for name, batches in prepared.items()}
    table = pandas.DataFrame({"layout": list(prepared), "tokens": tokens, "slots": slots.values()})
    table["fill"] = table["tokens"] / table["slots"]
    table["seconds"] = seconds.values()
    table["tokens_per_second"] = table["tokens"] / table["seconds"]
    table["loss"] = losses.values()
    return table


def layouts(
    examples: Sequence[dict[str, Any]], pad_token_id: int, batch_size: int, row_length: int
) -> dict[str, list[Batch]]:
    """Return the same documents as batches in three layouts, each batch with about as many real tokens.

    padded: `batch_size` documents, one per row. flattened: packed rows joined to one row, as TRL's
    `packing: true` feeds a model. rows: the same packed rows one below the other.
    """
    import datasets
    from trl import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    packed = pack_dataset(datasets.Dataset.from_list(list(examples)), row_length, "bfd").to_list()
    if not were_off:
        datasets.enable_progress_bars()
    # Packing sorts by length and training shuffles: shuffled, padding costs what it costs in training.
    random.Random(0).shuffle(packed)
    tokens = sum(len(example["input_ids"]) for example in examples)
    rows = max(1, round(batch_size * tokens / len(examples) / row_length))

    def batches(items: Sequence[Any], size: int, collate: Any) -> list[Batch]:
        return [collate(items[start : start + size]) for start in range(0, len(items), size)]

    return {
        "padded": batches(examples, batch_size, DataCollatorForLanguageModeling(pad_token_id)),
        "flattened": batches(packed, rows, DataCollatorForLanguageModeling(pad_token_id, padding_free=True)),
        "rows": batches(packed, rows, RowsCollator(pad_token_id)),
    }


def _flops(model: Any, prepared: dict[str, list[Batch]]) -> float:
    """Count a pass over all layouts: 6 per weight and token, 12 per layer for attention over whole rows."""
    weights = sum(weight.numel() for weight in model.parameters())
    across = 12 * model.config.num_hidden_layers * model.config.hidden_size
    shapes = [batch["input_ids"].shape for batches in prepared.values() for batch in batches]
    return sum(rows * width * (6 * weights + across * width) for rows, width in shapes)


def forward_backward(model: Any, batch: Batch) -> tuple[float, int]:
    """Run one batch without an optimizer step; return (summed loss, number of labels)."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss.backward()
    model.zero_grad()
    return loss.item(), int((labels != IGNORED).sum())


# The self-test of `r1kit doctor --packing`

PROOF_LENGTHS = (24, 40)
PROOF_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest difference, over the largest logit, that rounding explains. If documents see each other it is about
1; if not, exactly 0 (a CPU, sdpa and eager, 2026-11-24)."""


@dataclass(frozen=True)
class PackingProof:
    """Differences between the logits of documents alone and packed, as a share of the largest logit.

    Attributes:
        apart: packed as rows are.
        mixed: packed so that documents see each other.
    """

    attention: str
    device: str
    dtype: str
    apart: float
    mixed: float

    @property
    def holds(self) -> bool:
        """Whether packed documents are apart, and the test would have noticed if they were not."""
        return self.apart <= PROOF_TOLERANCE[self.dtype] < self.mixed

    def __str__(self) -> str:
        verdict = "packed traces stay apart" if self.holds else "PACKED TRACES SEE EACH OTHER"
        if self.mixed <= PROOF_TOLERANCE[self.dtype]:
            verdict = "the test saw no difference even where documents are mixed: it proves nothing here"
        return (
            f"{verdict}: {self.attention} on {self.device} in {self.dtype}, logits differ by "
            f"{self.apart:.1e} (mixed on purpose: {self.mixed:.1e})"
        )


def prove_packing(attention: str = "sdpa", device: str = "cpu", dtype: str = "float32") -> PackingProof:
    """Compare the logits of two documents alone and packed, in a small random model: a test of a second.

    For the test to mean something they are also packed the wrong way, under an all-ones mask, as TRL 0.18
    did: there the logits must differ.

    Args:
        attention: an `attn_implementation` of transformers.
        device: "cpu" or "cuda" (ROCm too).
        dtype: "float32", "bfloat16" or "float16"; flash attention takes the last two only.

    Raises:
        ImportError, ValueError: transformers cannot use this attention here.
    """
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
        documents = [torch.randint(0, 128, (1, length)).to(device) for length in PROOF_LENGTHS]
    packed = torch.cat(documents, dim=1)
    positions = torch.cat([torch.arange(length, device=device)[None] for length in PROOF_LENGTHS], dim=1)

    def logits(ids: Tensor, **arguments: Tensor) -> Tensor:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False, **arguments).logits.float()

    alone = torch.cat([logits(ids) for ids in documents], dim=1)

    def difference(**arguments: Tensor) -> float:
        return (
            (logits(packed, position_ids=positions, **arguments) - alone).abs().max() / alone.abs().max()
        ).item()

    return PackingProof(
        attention, device, dtype, difference(), difference(attention_mask=torch.ones_like(packed))
    )
