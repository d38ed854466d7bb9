"""Who writes the rollouts of a lesson: a vLLM server, or this process where the profile has none.

Both answer the same questions, so that a lesson has one set of cells: how fast with so many in flight,
how likely was each token when it was sampled, and what is written after new weights came.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from r1kit.serving.server import NoServer, Server

if TYPE_CHECKING:
    import torch

Prompt = list[dict[str, str]]


@dataclass(frozen=True)
class Written:
    """A sampled answer: its tokens and their log-probabilities when they were sampled (temperature 1)."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    text: str


class Writer(Protocol):
    """What a lesson asks for."""

    name: str

    def write(self, prompts: list[Prompt], max_tokens: int, at_once: int, seed: int = 0) -> list[Written]:
        """One sampled answer to each prompt, `at_once` of them in flight."""

    def speed(self, prompts: list[Prompt], max_tokens: int, at_once: int) -> float:
        """Generated tokens per second with `at_once` answers in flight."""

    def load(self, folder: Path) -> dict[str, float]:
        """Take the weights of another checkpoint; seconds and bytes that took."""


class ServedWriter:
    """Answers from a vLLM server; each is a request of its own, and vLLM batches what is in flight."""

    name = "vLLM server"

    def __init__(self, server: Server, tokenizer: Any, job: Path):
        from r1kit.serving.session import Bounds
        from r1kit.training.server_link import Link

        settings = server.machine
        bounds = Bounds(settings.server.generation_seconds, settings.server.sync_seconds)
        sync = settings.weight_sync
        self.link = Link(server.folder, job, bounds, transport="file", sync_folder=sync.folder)
        self.transport = self.link.connect("cpu")
        self.tokenizer, self.loads = tokenizer, 0

    def write(self, prompts: list[Prompt], max_tokens: int, at_once: int, seed: int = 0) -> list[Written]:
        """As `Writer.write`; several replicas take turns."""
        clients = self.transport.servers.clients

        def ask(number: int) -> Written:
            client = clients[number % len(clients)]
            ids = token_ids(self.tokenizer, prompts[number])
            options = {"temperature": 1.0, "generation_kwargs": {"seed": seed + number}}
            found = client.generate([ids], max_tokens=max_tokens, logprobs=0, **options)
            completion = found["completion_ids"][0]
            logprobs = [position[0] for position in found["logprobs"][0]]
            return Written(ids, completion, logprobs, text_of(self.tokenizer, completion))

        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(ask, range(len(prompts))))

    def speed(self, prompts: list[Prompt], max_tokens: int, at_once: int) -> float:
        """As `Writer.speed`; up to four times as many are asked for, so that places become free."""
        some = (prompts * (4 * at_once))[: max(4, min(4 * at_once, 256))]
        start = time.perf_counter()
        written = self.write(some, max_tokens, at_once)
        return sum(len(answer.completion_ids) for answer in written) / (time.perf_counter() - start)

    def load(self, folder: Path) -> dict[str, float]:
        """Send the weights as the trainer does after every step (see `training.weight_sync`)."""
        tensors = list(model_of(folder).named_parameters())
        metadata = [(name, str(p.dtype).removeprefix("torch."), list(p.shape)) for name, p in tensors]
        self.loads += 1
        moved = self.transport.sync(self.loads, metadata, ((name, p.detach()) for name, p in tensors))
        return {"seconds": round(moved["sync/seconds"], 3), "bytes": moved["sync/bytes"]}


class LocalWriter:
    """Answers from this process, through transformers' `generate`; a batch lasts as its longest answer."""

    name = "this process"

    def __init__(self, model: Path, tokenizer: Any):
        self.model, self.tokenizer = model_of(model), tokenizer

    def write(self, prompts: list[Prompt], max_tokens: int, at_once: int, seed: int = 0) -> list[Written]:
        """As `Writer.write`, in batches of `at_once`."""
        from r1kit.evaluation import sampling

        options = {"max_new_tokens": max_tokens, "batch_size": at_once, "seed": seed}
        found = sampling.generate(self.model, self.tokenizer, prompts, **options)
        asked = [token_ids(self.tokenizer, prompt) for prompt in prompts]
        pairs = zip(asked, (row[0] for row in found.ids), strict=True)
        return [
            Written(prompt, ids, logprobs_of(self.model, prompt, ids), text_of(self.tokenizer, ids))
            for prompt, ids in pairs
        ]

    def speed(self, prompts: list[Prompt], max_tokens: int, at_once: int) -> float:
        """As `Writer.speed`; one batch."""
        from r1kit.evaluation import sampling

        some = (prompts * at_once)[:at_once]
        options = {"max_new_tokens": max_tokens, "batch_size": at_once}
        return sampling.generate(self.model, self.tokenizer, some, **options).tokens_per_second

    def load(self, folder: Path) -> dict[str, float]:
        """Copy the weights over those in use."""
        start = time.perf_counter()
        weights = model_of(folder).state_dict()
        self.model.load_state_dict(weights)
        size = sum(p.numel() * p.element_size() for p in self.model.parameters())
        return {"seconds": round(time.perf_counter() - start, 3), "bytes": float(size)}


def open_writer(server: Server | NoServer, model: Path, tokenizer: Any, job: Path) -> Writer:
    """The writer of a lesson: the server's, or one in this process that starts with `model`.

    Args:
        server: what `run.serve(model)` returned, ready.
        job: a folder for the weights on their way, where there is no shared memory.
    """
    return (
        ServedWriter(server, tokenizer, job) if isinstance(server, Server) else LocalWriter(model, tokenizer)
    )


def logprobs_of(model: Any, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
    """The trainer's log-probabilities of the completion's tokens."""
    import torch

    from r1kit.training.objective import token_logprobs

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


def token_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The prompt's tokens with the chat template, up to where the answer begins."""
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def text_of(tokenizer: Any, ids: list[int]) -> str:
    """The answer's text."""
    return tokenizer.decode(ids, skip_special_tokens=True)


def model_of(folder: Path) -> torch.nn.Module:
    """A checkpoint in evaluation mode, float32."""
    from r1kit.evaluation.evaluate import load_checkpoint

    return load_checkpoint(folder)[0]
