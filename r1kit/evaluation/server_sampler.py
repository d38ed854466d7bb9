"""Sampling from OpenAI-compatible servers: the vLLM servers of this package, other ones, and hosted ones.

One request asks for one completion with a seed of its own, which follows from the prompt and the sample's
number and not from the order in which requests end. vLLM's numbers depend a little on what else is in its
batch, so equal seeds give equal completions only if the batches compute alike.

Every answer is a line of `answers.jsonl` and every request that failed for good one of `unanswered.jsonl`, by
prompt, sample and the settings that decide an answer. So a run that was killed requests only what is missing,
more samples or prompts are added to those on disk, and the next run repeats failed requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.format import THINK_CLOSE, THINK_OPEN
from r1kit.evaluation.endpoint import Endpoint, EndpointFailure, NotAllowed, Transient, only_model
from r1kit.evaluation.sampler import (
    ANSWERS,
    Completion,
    Progress,
    Prompt,
    Samples,
    Sampling,
    counts_of,
    digest,
    encode,
)
from r1kit.machine import detect_device
from r1kit.runs.jsonl import AppendLog
from r1kit.serving.server import secret, server_state
from r1kit.settings.data import PatienceSettings, SamplingSettings
from r1kit.settings.errors import UserError
from r1kit.settings.machine import LayoutSettings, ServerSettings

if TYPE_CHECKING:
    from r1kit.settings.profile import MachineSettings

UNANSWERED = "unanswered.jsonl"
LOG_KEY = ("prompt_id", "sample", "sampling")
TOKEN_IDS_TIMEOUT = 3600.0  # seconds for a request with token ids: the answer comes in one piece at the end
FEWEST_LOST = 8
"""Requests that must fail in a row before the server is given up, however few are in flight."""


class EndpointLost(RuntimeError):
    """Many requests in a row failed: the server is gone or broken; the command line exits with 1."""


class Unanswered(RuntimeError):
    """Some requests failed for good; the same call repeats them."""


class ServerNotRunning(UserError):
    """No server runs at the given folder; the command line exits with 2."""


# A sampler


@dataclass
class ServerSampler:
    """One or several servers with the same model; prompts are dealt to them in turn.

    urls: up to their version (http://host:8000/v1).
    model: the name under which they serve it; None asks the first server.
    key: the API key; "" takes OPENAI_API_KEY from the environment.
    tokenizer: with it prompts are sent as token ids, and completions have ids and log-probabilities.
    """

    urls: list[str]
    model: str | None = None
    key: str = ""
    patience: PatienceSettings = field(default_factory=PatienceSettings)
    tokenizer: Any = None

    def sample(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        samples: int | Sequence[int] = 1,
        *,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Samples:
        """Complete the prompts as `Sampler.sample` says; each server has a folder of its own in `folder`.

        Raises:
            Unanswered: some requests failed after all attempts.
            NotAllowed, EndpointLost: see `ask_all`.
        """
        key = self.key or os.environ.get("OPENAI_API_KEY", "")
        request = SamplingSettings(
            model=self.model or only_model(self.urls[0], key),
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.temperature else 1.0,
            max_tokens=sampling.max_new_tokens,
            seed=sampling.seed,
        )
        counts = counts_of(samples, len(prompts))
        if self.tokenizer is not None:
            prompts = [encode(self.tokenizer, prompt) for prompt in prompts]
        wanted, start = list(zip(prompts, counts, strict=True)), time.perf_counter()
        done = [0] * len(self.urls)

        def ask(number: int) -> None:
            url, share = self.urls[number], wanted[number :: len(self.urls)]
            own_folder = folder / f"server-{number}"

            def report(requests: RequestCounts) -> None:
                done[number] = requests.on_disk + requests.answered
                if progress:
                    progress(sum(done), sum(counts))

            failed = ask_all(share, url, request, self.patience, own_folder, key, report).failed
            if failed:
                raise Unanswered(
                    f"{failed} of {sum(n for _, n in share)} requests to {url} failed; the reasons are in "
                    f"{own_folder / UNANSWERED}. The same command repeats them"
                )

        with contextlib.ExitStack() as stack:
            folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            # asyncio.run needs threads of its own: a notebook's kernel has an event loop already.
            with ThreadPoolExecutor(len(self.urls)) as pool:
                list(pool.map(ask, range(len(self.urls))))
            completions = self._read(folder, request.identity())
        if progress:
            progress(sum(counts), sum(counts))
        rows = [[completions[prompt_id(prompt), i] for i in range(count)] for prompt, count in wanted]
        generated = sum(one.tokens or 0 for row in rows for one in row)
        return Samples(rows, time.perf_counter() - start, generated)

    def _read(self, folder: Path, identity: str) -> dict[tuple[str, int], Completion]:
        completions = {}
        for part in sorted(folder.glob("server-*")):
            with answers_in(part) as log:
                for record in log:
                    if record["sampling"] == identity:
                        key = record["prompt_id"], record["sample"]
                        completions[key] = completion_of(record, self.tokenizer)
        return completions


def completion_of(record: dict[str, Any], tokenizer: Any = None) -> Completion:
    """Convert a logged answer; reasoning from a field of its own goes back between its tags."""
    finished, tokens = record.get("finish_reason") != "length", record.get("completion_tokens")
    if record.get("token_ids") is not None:
        ids = record["token_ids"]
        text = tokenizer.decode(ids, skip_special_tokens=True) if tokenizer else record["content"]
        return Completion(text, tokens, finished, ids, record["logprobs"])
    text, reasoning = record["content"], record.get("reasoning") or ""
    if reasoning:
        text = f"{THINK_OPEN}\n{reasoning}\n" + (f"{THINK_CLOSE}\n{text}" if text else "")
    return Completion(text, tokens, finished)


def sampler_at(server: str | Path, concurrency: int, tokenizer: Any = None) -> ServerSampler:
    """Return a sampler for the server at an address, or for the one of an `r1kit serve` folder.

    Raises:
        ServerNotRunning: the folder's server does not run.
    """
    patience = PatienceSettings(concurrency=concurrency)
    if tokenizer is not None:
        patience = patience.model_copy(update={"timeout": TOKEN_IDS_TIMEOUT})
    if "://" in str(server):
        url = str(server).rstrip("/")
        urls, key = [url.removesuffix("/v1")], ""
    else:
        urls, key = server_state(server).get("urls"), secret(server)
        if not urls:
            raise ServerNotRunning(
                f"{server}: no running server; give an address, or a folder of `r1kit serve`"
            )
    return ServerSampler([f"{url}/v1" for url in urls], key=key, patience=patience, tokenizer=tokenizer)


# The requests of a sampling


@dataclass
class RequestCounts:
    """Progress of `ask_all`: answers that were on disk before, new ones, and failed requests."""

    on_disk: int = 0
    answered: int = 0
    failed: int = 0


def ask_all(
    wanted: Iterable[tuple[Prompt, int]],
    url: str,
    sampling: SamplingSettings,
    patience: PatienceSettings,
    folder: str | Path,
    key: str = "",
    progress: Callable[[RequestCounts], None] = lambda counts: None,
) -> RequestCounts:
    """Request every answer that is not in the folder yet. Must not be called in an event loop.

    Whatever it raises, and when it is interrupted, the answers that came are on disk.

    Args:
        wanted: prompts, each with its number of samples; a repeated prompt adds nothing.
        key: the API key.
        progress: called after each request.

    Raises:
        NotAllowed: the server answers no request with this key, model or address.
        EndpointLost: as many requests as are in flight failed in a row, each after all attempts, or were
            refused before anything was answered.
        LogInUse: another process writes into this folder.
    """
    with answers_in(folder) as answers, unanswered_in(folder) as unanswered:
        requests = _Requests(Endpoint(url, sampling, patience, key), answers, unanswered, progress)
        try:
            asyncio.run(requests.run(wanted))
        except BaseExceptionGroup as group:  # the first worker that raises ends all
            raise group.exceptions[0] from None
        finally:
            requests.write(requests.pending)
    return requests.counts


def answers_in(folder: str | Path) -> AppendLog:
    """Return the log of a folder's answers, by (prompt_id, sample, identity of the sampling)."""
    return AppendLog(Path(folder) / ANSWERS, LOG_KEY)


def unanswered_in(folder: str | Path) -> AppendLog:
    """Return the log of failed requests, by the same key; some may have been answered since."""
    return AppendLog(Path(folder) / UNANSWERED, LOG_KEY)


def prompt_id(prompt: Prompt) -> str:
    """Return 16 hex digits that name a prompt in the logs."""
    return digest(prompt)


def seed_of(prompt_id: str, sample: int, sampling: SamplingSettings) -> int | None:
    """Return a sample's seed, 31 bits; None if the settings send none."""
    if sampling.seed is None:
        return None
    text = f"{sampling.seed} {prompt_id} {sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


class _Requests:
    """One run of `ask_all`: requests in flight, and records waiting to be written."""

    def __init__(
        self,
        endpoint: Endpoint,
        answers: AppendLog,
        unanswered: AppendLog,
        progress: Callable[[RequestCounts], None],
    ):
        self.endpoint, self.answers, self.unanswered = endpoint, answers, unanswered
        self.progress, self.counts, self.failed_in_a_row = progress, RequestCounts(), 0
        self.pending: list[tuple[AppendLog, dict[str, Any]]] = []
        self.writing = asyncio.Lock()
        self.identity = endpoint.sampling.identity()

    async def run(self, wanted: Iterable[tuple[Prompt, int]]) -> None:
        """Keep `concurrency` requests in flight until none is left."""
        missing = self.missing(wanted)
        async with self.endpoint, asyncio.TaskGroup() as group:
            for _ in range(self.endpoint.patience.concurrency):
                group.create_task(self.work(missing))

    def missing(self, wanted: Iterable[tuple[Prompt, int]]) -> Iterator[tuple[Prompt, str, int]]:
        """Yield (prompt, its id, sample) for what has no answer on disk."""
        requested: dict[str, int] = {}
        for prompt, samples in wanted:
            name = prompt_id(prompt)
            for sample in range(requested.get(name, 0), samples):
                if (name, sample, self.identity) in self.answers.places:
                    self.counts.on_disk += 1
                else:
                    yield prompt, name, sample
            requested[name] = max(samples, requested.get(name, 0))

    async def work(self, missing: Iterator[tuple[Prompt, str, int]]) -> None:
        """Make one request after the other."""
        counts, patience = self.counts, self.endpoint.patience
        for prompt, name, sample in missing:
            record = dict(zip(LOG_KEY, (name, sample, self.identity), strict=True))
            start, retrying = time.monotonic(), self.endpoint.retrying()
            try:
                seed = seed_of(name, sample, self.endpoint.sampling)
                result, log = await retrying(self.endpoint.ask, prompt, seed), self.answers
                counts.answered += 1
                self.failed_in_a_row = 0
            except NotAllowed:
                raise
            except EndpointFailure as error:
                counts.failed += 1
                # One prompt may be refused; if nothing was ever answered, all will be.
                never = not counts.answered + counts.on_disk
                self.failed_in_a_row += never or isinstance(error, Transient)
                result, log = {"reason": error.reason, "detail": error.detail}, self.unanswered
            attempts = retrying.statistics["attempt_number"]
            spent = {"attempts": attempts, "seconds": round(time.monotonic() - start, 2)}
            await self.save(log, record | result | spent)
            self.progress(counts)
            if self.failed_in_a_row >= max(FEWEST_LOST, patience.concurrency):
                raise EndpointLost(
                    f"{self.failed_in_a_row} requests in a row failed, the last: {result['reason']} "
                    f"({result['detail']}). The answers so far are kept: the same command resumes."
                )

    async def save(self, log: AppendLog, record: dict[str, Any]) -> None:
        """Return when the record is on disk. Records that wait for the disk share the next fsync."""
        self.pending.append((log, record))
        async with self.writing:
            if self.pending:
                batch, self.pending = self.pending, []
                await asyncio.to_thread(self.write, batch)

    def write(self, batch: list[tuple[AppendLog, dict[str, Any]]]) -> None:
        """Put records on disk."""
        for log in (self.answers, self.unanswered):
            if records := [record for target, record in batch if target is log]:
                log.append(records)


# A server for stages that only sample


def answering_machine(machine: MachineSettings, tokens: int) -> MachineSettings | None:
    """Return machine.yaml with a server for stages that only sample (benchmarks, pass rates, ...).

    No trainer runs beside these stages, so every device serves. A profile whose GRPO generates inside the
    trainer needs no `server` for it: transformers would take days for answers of 32,768 tokens.

    Args:
        tokens: of prompt and answer together.

    Returns:
        None if this process has to sample: vLLM is not installed, or there is neither a server in the profile
        nor a GPU.
    """
    device = "cpu" if machine.device == "cpu" else detect_device()[0].split(":")[0]
    if find_spec("vllm") is None or (machine.server is None and device != "cuda"):
        return None
    if machine.server is None:
        from torch.cuda import device_count

        return on_all(machine, ServerSettings(max_model_len=tokens, dtype="bfloat16"), range(device_count()))
    server = machine.server.model_copy(update={"max_model_len": max(tokens, machine.server.max_model_len)})
    if machine.layout is None:
        return machine.model_copy(update={"server": server})
    return on_all(machine, server, sorted({*machine.layout.serve, *machine.layout.train}))


def on_all(machine: MachineSettings, server: ServerSettings, devices: Sequence[int]) -> MachineSettings:
    """Return the machine with as many replicas of the server as its devices hold."""
    replicas = max(1, len(devices) // server.tensor_parallel_size)
    used = list(devices)[: replicas * server.tensor_parallel_size]
    update = {"server": server.model_copy(update={"replicas": replicas})}
    if len(used) > 1:
        # `train` must name a device; no trainer runs beside this server.
        update["layout"] = LayoutSettings(serve=used, train=used[:1])
    return machine.model_copy(update=update)
