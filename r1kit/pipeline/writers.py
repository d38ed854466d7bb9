"""Who samples the rollouts of lesson 03: a vLLM server, or this process where the profile has none.

Both answer the same questions, so that the lesson has one set of cells: how fast with so many in flight,
how likely was each token when it was sampled, and what is sampled after new weights came.
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
class Written:
    """A completion: its tokens and their log-probabilities when they were sampled (temperature 1)."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    text: str


@dataclass
class Writer:
    """A sampler whose weights can be replaced.

    sampler: of the number of completions in flight.
    load: takes the weights of another checkpoint; returns the seconds and bytes that took.
    rounds: how many times the completions in flight `speed` asks for.
    logprobs: of prompt ids and completion ids, if the sampler does not say how likely they were.
    """

    name: str
    tokenizer: Any
    sampler: Callable[[int], Sampler]
    load: Callable[[Path], dict[str, float]]
    rounds: int = 1
    logprobs: Callable[[list[int], list[int]], list[float]] | None = None
    transport: Any = None

    def write(self, prompts: list[Prompt], max_tokens: int, at_once: int, seed: int = 0) -> list[Written]:
        """Sample one completion of each prompt at temperature 1, `at_once` of them in flight."""
        asked = [encode(self.tokenizer, prompt) for prompt in prompts]
        sampling = Sampling(max_new_tokens=max_tokens, seed=seed)
        rows = self.sampler(at_once).sample(asked, sampling).rows
        return [
            Written(ids, one.ids, one.logprobs or self.logprobs(ids, one.ids), one.text)
            for ids, (one,) in zip(asked, rows, strict=True)
        ]

    def speed(self, prompts: list[Prompt], max_tokens: int, at_once: int) -> float:
        """Generated tokens per second with `at_once` completions in flight.

        A server is asked for several times as many, so that places become free; this process for one batch,
        which lasts as long as its longest completion.
        """
        wanted = max(self.rounds, min(self.rounds * at_once, 256)) if self.rounds > 1 else at_once
        counts = [wanted // len(prompts) + (i < wanted % len(prompts)) for i in range(len(prompts))]
        return (
            self.sampler(at_once)
            .sample(prompts, Sampling(max_new_tokens=max_tokens), counts)
            .tokens_per_second
        )


def served_writer(server: Server, tokenizer: Any, job: Path) -> Writer:
    """A vLLM server; each completion is a request of its own, and vLLM batches what is in flight.

    Weights are sent as the trainer does after every step (see `training.weight_sync`).
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
        moved = transport.sync(next(steps), metadata, ((name, p.detach()) for name, p in tensors))
        return {"seconds": round(moved["sync/seconds"], 3), "bytes": moved["sync/bytes"]}

    def sampler(at_once: int) -> Sampler:
        return sampler_at(server.folder, at_once, tokenizer)

    return Writer("vLLM server", tokenizer, sampler, load, rounds=4, transport=transport)


def local_writer(checkpoint: Path, tokenizer: Any) -> Writer:
    """This process, through transformers' `generate`."""
    model = model_of(checkpoint)

    def load(folder: Path) -> dict[str, float]:
        start = time.perf_counter()
        model.load_state_dict(model_of(folder).state_dict())
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        return {"seconds": round(time.perf_counter() - start, 3), "bytes": float(size)}

    def sampler(at_once: int) -> Sampler:
        return LocalSampler(model, tokenizer, at_once)

    return Writer("this process", tokenizer, sampler, load, logprobs=partial(logprobs_of, model))


def open_writer(server: Server | NoServer, model: Path, tokenizer: Any, job: Path) -> Writer:
    """The writer of a lesson: the server's, or one in this process that starts with `model`.

    Args:
        server: what `run.serve(model)` returned, ready.
        job: a folder for the weights on their way, where there is no shared memory.
    """
    if isinstance(server, Server):
        return served_writer(server, tokenizer, job)
    return local_writer(model, tokenizer)


def logprobs_of(model: Any, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
    """The trainer's log-probabilities of the completion's tokens."""
    import torch

    from r1kit.training.rl.objective import token_logprobs

    with torch.inference_mode():
        ids = torch.tensor([prompt_ids + completion_ids])
        return token_logprobs(model, ids, len(completion_ids))[0].tolist()


def largest_difference(model: Any, written: list[Written]) -> tuple[float, float]:
    """How far the writer's log-probabilities are from the trainer's on the same tokens: (mean, largest)."""
    apart = [
        abs(mine - theirs)
        for answer in written
        for mine, theirs in zip(
            logprobs_of(model, answer.prompt_ids, answer.completion_ids), answer.logprobs, strict=True
        )
    ]
    return sum(apart) / len(apart), max(apart)


def model_of(folder: Path) -> torch.nn.Module:
    """A checkpoint in evaluation mode, float32."""
    return load_checkpoint(folder)[0]
