"""The samplers of lesson 03, whose weights can be replaced: a vLLM server, or this process without one.

Both answer the lesson's questions with one set of cells: the speed with N completions in flight, the
log-probability of each token when it was sampled, and what is sampled after new weights arrive.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.sampler import LocalSampler, Sampler, Sampling, encode, load_checkpoint
from r1kit.evaluation.server_sampler import sampler_at
from r1kit.serving.server import NoServer, Server

if TYPE_CHECKING:
    import torch

Prompt = list[dict[str, str]]


@dataclass(frozen=True)
class Rollout:
    """A completion: its tokens and their log-probabilities when they were sampled (temperature 1)."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    text: str


@dataclass
class LessonSampler:
    """A sampler whose weights can be replaced.

    sampler: returns the sampler for a number of completions in flight.
    load: replaces the weights by another checkpoint's; returns {"seconds", "bytes"} of the transfer.
    rounds: `speed` samples `rounds` times the completions in flight.
    logprobs: of prompt ids and completion ids, if the sampler's completions have none.
    """

    name: str
    tokenizer: Any
    sampler: Callable[[int], Sampler]
    load: Callable[[Path], dict[str, float]]
    rounds: int = 1
    logprobs: Callable[[list[int], list[int]], list[float]] | None = None
    transport: Any = None

    def rollouts(self, prompts: list[Prompt], max_tokens: int, at_once: int, seed: int = 0) -> list[Rollout]:
        """Sample one completion per prompt at temperature 1, `at_once` of them in flight."""
        ids = [encode(self.tokenizer, prompt) for prompt in prompts]
        rows = self.sampler(at_once).sample(ids, Sampling(max_new_tokens=max_tokens, seed=seed)).rows
        return [
            Rollout(prompt_ids, one.ids, one.logprobs or self.logprobs(prompt_ids, one.ids), one.text)
            for prompt_ids, (one,) in zip(ids, rows, strict=True)
        ]

    def speed(self, prompts: list[Prompt], max_tokens: int, at_once: int) -> float:
        """Return the generated tokens per second with `at_once` completions in flight.

        A server gets several times as many requests, so that it refills free places; this process gets one
        batch, which lasts as long as its longest completion.
        """
        wanted = max(self.rounds, min(self.rounds * at_once, 256)) if self.rounds > 1 else at_once
        counts = [wanted // len(prompts) + (i < wanted % len(prompts)) for i in range(len(prompts))]
        sampling = Sampling(max_new_tokens=max_tokens)
        return self.sampler(at_once).sample(prompts, sampling, counts).tokens_per_second


def open_sampler(server: Server | NoServer, model: Path, tokenizer: Any, job: Path) -> LessonSampler:
    """Return the server's sampler, or one in this process that starts with `model`.

    Args:
        server: what `run.serve(model)` returned, ready.
        job: a folder for weights in transit, if there is no shared memory.
    """
    if isinstance(server, Server):
        return served_sampler(server, tokenizer, job)
    return local_sampler(model, tokenizer)


def served_sampler(server: Server, tokenizer: Any, job: Path) -> LessonSampler:
    """Return the sampler of a vLLM server, which gets weights as in training (`serving.weight_sync`).

    Each completion is a request of its own, and vLLM batches the requests in flight.
    """
    from r1kit.serving.session import Bounds
    from r1kit.training.rl.server_connection import ServerConnection

    settings = server.machine
    bounds = Bounds(settings.server.generation_seconds, settings.server.sync_seconds)
    connection = ServerConnection(server.folder, job, bounds, sync_folder=settings.weight_sync.folder)
    transport, steps = connection.connect("cpu"), itertools.count(1)

    def load(folder: Path) -> dict[str, float]:
        tensors = list(model_of(folder).named_parameters())
        metadata = [(name, str(p.dtype).removeprefix("torch."), list(p.shape)) for name, p in tensors]
        sync = transport.sync(next(steps), metadata, ((name, p.detach()) for name, p in tensors))
        return {"seconds": round(sync["sync/seconds"], 3), "bytes": sync["sync/bytes"]}

    def sampler(at_once: int) -> Sampler:
        return sampler_at(server.folder, at_once, tokenizer)

    return LessonSampler("vLLM server", tokenizer, sampler, load, rounds=4, transport=transport)


def local_sampler(checkpoint: Path, tokenizer: Any) -> LessonSampler:
    """Return a sampler in this process, through transformers' `generate`."""
    model = model_of(checkpoint)

    def load(folder: Path) -> dict[str, float]:
        start = time.perf_counter()
        model.load_state_dict(model_of(folder).state_dict())
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        return {"seconds": round(time.perf_counter() - start, 3), "bytes": float(size)}

    def sampler(at_once: int) -> Sampler:
        return LocalSampler(model, tokenizer, at_once)

    return LessonSampler("this process", tokenizer, sampler, load, logprobs=partial(logprobs_of, model))


def logprobs_of(model: Any, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
    """Return the log-probabilities of the completion's tokens, as the trainer computes them."""
    import torch

    from r1kit.training.rl.objective import token_logprobs

    with torch.inference_mode():
        ids = torch.tensor([prompt_ids + completion_ids])
        return token_logprobs(model, ids, len(completion_ids))[0].tolist()


def largest_difference(model: Any, rollouts: list[Rollout]) -> tuple[float, float]:
    """Compare the sampler's and the trainer's log-probabilities; returns (mean, largest) difference."""
    differences = [
        abs(trainer - sampler)
        for one in rollouts
        for trainer, sampler in zip(
            logprobs_of(model, one.prompt_ids, one.completion_ids), one.logprobs, strict=True
        )
    ]
    return sum(differences) / len(differences), max(differences)


def model_of(folder: Path) -> torch.nn.Module:
    """Load a checkpoint in evaluation mode, float32."""
    return load_checkpoint(folder)[0]
