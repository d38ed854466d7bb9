"""Sampling in this process: batches of left-padded prompts through transformers' `generate`.

For models small enough to sit beside the notebook; larger ones are served by vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ContextTooShort(ValueError):
    """Prompt and answer together do not fit the model; the command line exits with 2."""

    exit_code = 2


@dataclass(frozen=True)
class Samples:
    """n completions of each of P prompts, in the prompts' order."""

    completions: list[list[str]]  # [P][n] text without the end-of-turn token
    tokens: list[list[int]]  # [P][n] generated tokens, the end-of-turn token included
    finished: list[list[bool]]  # [P][n] False where the completion was cut at max_new_tokens
    seconds: float
    ids: list[list[list[int]]] = field(default_factory=list)  # [P][n] the generated tokens themselves

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens, padding not counted, per second of generation."""
        return sum(map(sum, self.tokens)) / self.seconds if self.seconds else 0.0


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[dict[str, str]]],
    n: int = 1,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Sample n completions per prompt; the same seed gives the same completions on the same machine.

    Args:
        prompts: conversations (the chat template is applied) or texts that are taken as they are.
        temperature: 0 is greedy decoding (n must then be 1).
        batch_size: completions generated at once. Long and short prompts are not mixed: rows are sorted by
            length, so padding is small.
        seed: of torch's generator during this call; the caller's random state is left as it was.
        progress: called with (completions done, completions wanted) after every batch.

    Raises:
        ValueError: no tokenizer end-of-sequence token, or greedy with n > 1.
        ContextTooShort: a prompt leaves no room for max_new_tokens in the model's context.
    """
    import torch

    if temperature == 0 and n != 1:
        raise ValueError(f"greedy decoding has one completion per prompt, n is {n}")
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token: generation would only stop at max_new_tokens")
    ids = [_encode(tokenizer, prompt) for prompt in prompts]
    _check_context(model, ids, max_new_tokens)
    rows = sorted(((p, s) for p in range(len(ids)) for s in range(n)), key=lambda row: len(ids[row[0]]))
    texts, tokens, finished, written = ([[None] * n for _ in ids] for _ in range(4))
    sampling = (
        {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature == 0
        else {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    stops = _stop_ids(model, tokenizer)
    was_training, started, done = model.training, time.perf_counter(), 0
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for first in range(0, len(rows), batch_size):
                batch = rows[first : first + batch_size]
                inputs, mask = _left_padded([ids[p] for p, _ in batch], pad, model.device)
                out = model.generate(
                    inputs, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad,
                    eos_token_id=stops, use_cache=True, **sampling,
                )  # fmt: skip
                for (p, s), new in zip(batch, out[:, inputs.shape[1] :].tolist(), strict=True):
                    end = next((i for i, token in enumerate(new) if token in stops), None)
                    kept = new if end is None else new[:end]
                    texts[p][s] = tokenizer.decode(kept, skip_special_tokens=True)
                    written[p][s] = new if end is None else new[: end + 1]
                    tokens[p][s] = len(written[p][s])
                    finished[p][s] = end is not None
                done += len(batch)
                if progress:
                    progress(done, len(rows))
    finally:
        model.train(was_training)
    return Samples(texts, tokens, finished, time.perf_counter() - started, written)


def _encode(tokenizer, prompt: str | list[dict[str, str]]) -> list[int]:
    """Token ids of a prompt; the chat template already holds every special token."""
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return tokenizer(prompt, add_special_tokens=False)["input_ids"]


def _stop_ids(model, tokenizer) -> list[int]:
    """The tokenizer's end token and those of the model's own generation settings (Qwen has two)."""
    own = getattr(model.generation_config, "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    return sorted({tokenizer.eos_token_id, *(i for i in own if i is not None)})


def _check_context(model, ids: list[list[int]], max_new_tokens: int) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, ids), default=0)
    if context is not None and longest + max_new_tokens > context:
        raise ContextTooShort(
            f"the longest prompt has {longest} tokens: with max_new_tokens {max_new_tokens} it exceeds "
            f"the model's context of {context}"
        )


def _left_padded(ids: list[list[int]], pad: int, device):
    """ids and attention mask, both [B, L], padded on the left so that all rows continue at the same place."""
    import torch

    longest = max(map(len, ids))
    inputs = [[pad] * (longest - len(row)) + row for row in ids]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(inputs, device=device), torch.tensor(mask, device=device)
