"""Sampling through the profile's vLLM server; the answers come as `sampling.generate`'s do.

vLLM batches as it likes, so the same seed doesn't give the same answers twice, as it does in this process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1kit.evaluation.sampling import Samples

GENERATION_SECONDS = 3600.0  # bound of one request: a shard of long chains takes longer than a GRPO step


def generate_served(
    server: Path,
    tokenizer: Any,
    prompts: Sequence[list[dict[str, str]]],
    n: int,
    *,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
) -> Samples:
    """n completions of each conversation from the server that runs in the folder `server`.

    Raises:
        ServerTrouble: the server is gone, silent or refuses.
    """
    from r1kit.training.server_client import Bounds, connect

    texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    servers, started = connect(server, Bounds(generation=GENERATION_SECONDS)), time.perf_counter()
    answer = servers.generate(ids, n=n, temperature=temperature, top_p=top_p, max_tokens=max_new_tokens)
    rows = answer["completion_ids"]
    stop = tokenizer.eos_token_id
    kept = [[token for token in row if token != stop] for row in rows]
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in kept]
    finished = [len(row) < max_new_tokens or row[-1] == stop for row in rows]
    cut = range(0, len(rows), n)
    return Samples(
        completions=[decoded[i : i + n] for i in cut],
        tokens=[[len(row) for row in rows[i : i + n]] for i in cut],
        finished=[finished[i : i + n] for i in cut],
        seconds=time.perf_counter() - started,
        ids=[rows[i : i + n] for i in cut],
    )
