"""Completions of prompts, sampled from a model in this process or from a server (`server_sampler`).

Lessons, evaluation, rejection sampling, pass rates and trace generation all sample through this interface;
only GRPO's rollouts are TRL's. `LocalSampler` runs transformers' `generate` on batches of left-padded
prompts, for models small enough to run beside the notebook; vLLM serves larger ones.

A sampler with a folder writes every completion to `answers.jsonl`, synced to disk before the next batch or
request. After a kill the same call samples what is missing and returns the same completions. The file may
also hold completions of other prompts, settings or weights: they have another identity and are not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from r1kit.runs.jsonl import AppendLog
from r1kit.settings.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Prompt = str | list[dict[str, str]] | list[int]
"""A text taken as it is, a conversation (the chat template is applied), or token ids."""
Progress = Callable[[int, int], None]
"""Called with (completions done, completions wanted)."""

ANSWERS = "answers.jsonl"
KEY = ("question", "sample", "identity")
BATCH_SEEDS = 1_000_003  # batch number i has the call's seed + i * BATCH_SEEDS


class ContextTooShort(UserError):
    """Prompt and completion together exceed the model's context; the command line exits with 2."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; temperature 0 is greedy decoding."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    text: without the end-of-turn token.
    tokens: number of generated tokens, including the end-of-turn token; None if a server does not count.
    finished: False if it was cut off at `max_new_tokens`.
    ids: the generated tokens; empty if the completion comes from a log, or a server sent only text.
    logprobs: of `ids` when they were sampled; only from servers that got token ids.
    """

    text: str
    tokens: int | None
    finished: bool
    ids: list[int] = field(default_factory=list, compare=False)
    logprobs: list[float] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Samples:
    """The completions of P prompts, in the prompts' order.

    rows: [P][samples of the prompt].
    seconds, generated: duration of the sampling and number of generated tokens, without what was on disk.
    """

    rows: list[list[Completion]]
    seconds: float = 0.0
    generated: int = 0

    @property
    def completions(self) -> list[list[str]]:
        """Texts, [P][n]."""
        return [[one.text for one in row] for row in self.rows]

    @property
    def tokens(self) -> list[list[int | None]]:
        """Numbers of tokens, [P][n]."""
        return [[one.tokens for one in row] for row in self.rows]

    @property
    def finished(self) -> list[list[bool]]:
        """True for each completion that ended by itself, [P][n]."""
        return [[one.finished for one in row] for row in self.rows]

    @property
    def tokens_per_second(self) -> float:
        """Tokens generated per second, padding not counted; 0.0 if nothing was generated."""
        return self.generated / self.seconds if self.seconds and self.generated else 0.0


class Sampler(Protocol):
    """A model that completes prompts."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        samples: int | Sequence[int] = 1,
        *,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Samples:
        """Complete every prompt `samples` times (one number for all, or one per prompt).

        Args:
            folder: for the log of completions, from which the same call resumes after a kill; None keeps
                nothing.
            progress: called after each batch or request.
        """


@dataclass
class LocalSampler:
    """A transformers model in this process.

    The composition of the batches (prompts of similar length, so that there is little padding) and their
    seeds follow from the call's arguments alone. So the same call gives the same completions on the same
    machine, also if it was stopped in between.

    weights: distinguishes these weights from others at the same path (`weights_identity`).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 128
    weights: str = ""

    def sample(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        samples: int | Sequence[int] = 1,
        *,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Samples:
        """Complete the prompts as `Sampler.sample` says, without changing torch's random state.

        Raises:
            ValueError: the tokenizer has no end-of-sequence token, or greedy decoding is asked for several
                samples of a prompt.
            ContextTooShort: a prompt leaves no room for max_new_tokens in the model's context.
        """
        counts = counts_of(samples, len(prompts))
        if sampling.temperature == 0 and max(counts, default=1) > 1:
            raise ValueError(f"greedy decoding has one completion per prompt, n is {max(counts)}")
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no eos_token: generation would only stop at max_new_tokens")
        ids = [encode(self.tokenizer, prompt) for prompt in prompts]
        _check_context(self.model, ids, sampling.max_new_tokens)
        order = [(p, s) for p, count in enumerate(counts) for s in range(count)]
        order.sort(key=lambda row: len(ids[row[0]]))
        rows: list[list[Completion]] = [[None] * count for count in counts]
        requests = list(zip(prompts, counts, strict=True))
        identity = digest([requests, vars(sampling), self.batch_size, self.weights])
        generated, seconds = 0, 0.0
        with AppendLog(folder / ANSWERS, KEY) if folder else contextlib.nullcontext() as log:
            for number, first in enumerate(range(0, len(order), self.batch_size)):
                batch = order[first : first + self.batch_size]
                logged = [log and log.get((p, s, identity)) for p, s in batch]
                if all(logged):
                    completions = [Completion(one["text"], one["tokens"], one["finished"]) for one in logged]
                else:
                    start, seed = time.perf_counter(), sampling.seed + BATCH_SEEDS * number
                    completions = self._generate([ids[p] for p, _ in batch], sampling, seed)
                    seconds += time.perf_counter() - start
                    generated += sum(one.tokens for one in completions)
                    if log:
                        log.append(
                            dict(zip(KEY, (p, s, identity), strict=True))
                            | {"text": one.text, "tokens": one.tokens, "finished": one.finished}
                            for (p, s), one in zip(batch, completions, strict=True)
                        )
                for (p, s), one in zip(batch, completions, strict=True):
                    rows[p][s] = one
                if progress:
                    progress(first + len(batch), len(order))
        return Samples(rows, seconds, generated)

    def _generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[Completion]:
        import torch

        model, tokenizer = self.model, self.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        stops = _stop_ids(model, tokenizer)
        drawing = (
            {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            if sampling.temperature == 0
            else {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        )
        was_training = model.training
        model.eval()
        devices = [model.device] if model.device.type == "cuda" else []
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                inputs, mask = _left_padded(prompts, pad, model.device)
                out = model.generate(
                    inputs, attention_mask=mask, max_new_tokens=sampling.max_new_tokens, pad_token_id=pad,
                    eos_token_id=stops, use_cache=True, **drawing,
                )  # fmt: skip
        finally:
            model.train(was_training)
        completions = []
        for new in out[:, inputs.shape[1] :].tolist():
            end = next((i for i, token in enumerate(new) if token in stops), None)
            ids = new if end is None else new[: end + 1]
            text = tokenizer.decode(new if end is None else new[:end], skip_special_tokens=True)
            completions.append(Completion(text, len(ids), end is not None, ids))
        return completions


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    n: int = 1,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Samples:
    """Sample n completions per prompt from a model in this process; see `LocalSampler.sample`."""
    sampling = Sampling(temperature, top_p, max_new_tokens, seed)
    return LocalSampler(model, tokenizer, batch_size).sample(prompts, sampling, n, progress=progress)


def load_checkpoint(path: str | Path, device: str = "cpu") -> tuple[Any, Any]:
    """Load (model, tokenizer) from a folder, without network.

    CPUs without bfloat16 units multiply bfloat16 a hundred times slower than float32 (0.3 to 3 against 150
    GFLOP/s on two cores), so a CPU always computes in float32.

    Raises:
        FileNotFoundError: there is no checkpoint at that path.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: there is no config.json")
    logging.disable_progress_bar()  # "Loading weights" would stay in the saved notebook as an empty widget
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype, local_files_only=True)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(str(path), local_files_only=True)


def now_and_then(report: Callable[[int, int, float | None], None], every: float = 5.0) -> Progress:
    """Return a progress function that calls `report` at most once per `every` seconds, and at the end.

    Args:
        report: gets the completions done, the completions wanted, and the seconds per completion so far (None
            before any was sampled: what the first call counts was on disk already).
    """
    start = last = time.monotonic()
    first: int | None = None

    def progress(done: int, wanted: int) -> None:
        nonlocal last, first
        now, first = time.monotonic(), done if first is None else first
        if now - last >= every or done >= wanted:
            last = now
            report(done, wanted, (now - start) / (done - first) if done > first else None)

    return progress


def weights_identity(model: str | Path) -> str:
    """Return a hash of a model folder's weights (names, sizes, times of its files), or a hub id as it is."""
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    return digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return the token ids of a prompt; the chat template already contains every special token."""
    if not isinstance(prompt, str):
        if not prompt or isinstance(prompt[0], int):
            return list(prompt)
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return tokenizer(prompt, add_special_tokens=False)["input_ids"]


def counts_of(samples: int | Sequence[int], prompts: int) -> list[int]:
    """Return the number of samples of each prompt."""
    return [samples] * prompts if isinstance(samples, int) else list(samples)


def digest(content: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of `content` as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    # The generation settings may name several end tokens (Qwen has two).
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return sorted({tokenizer.eos_token_id, *(i for i in ends if i is not None)})


def _check_context(model: Any, ids: list[list[int]], max_new_tokens: int) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, ids), default=0)
    if context is not None and longest + max_new_tokens > context:
        raise ContextTooShort(
            f"the longest prompt has {longest} tokens: with max_new_tokens {max_new_tokens} it exceeds "
            f"the model's context of {context}"
        )


def _left_padded(ids: list[list[int]], pad: int, device: Any) -> tuple[Any, Any]:
    """Return ids and attention mask, both [B, L], padded on the left so that rows continue at one place."""
    import torch

    longest = max(map(len, ids))
    inputs = [[pad] * (longest - len(row)) + row for row in ids]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(inputs, device=device), torch.tensor(mask, device=device)
