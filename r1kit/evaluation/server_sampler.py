"""Sampling from OpenAI-compatible servers: vLLM's, ours or somebody else's, and hosted ones.

One request asks for one completion with a seed of its own, which follows from the prompt and the sample's
number and not from the order in which requests end. vLLM's numbers depend a little on what else is in its
batch, so equal seeds give equal completions only where it computes alike.

Conversations go to `/chat/completions`. With a tokenizer prompts go to `/completions` as token ids, and the
completion's token ids come back with their log-probabilities; only vLLM does that.

Every answer is a line of `answers.jsonl` and every request that failed for good one of `unanswered.jsonl`, by
prompt, sample and what decides an answer. So a run that was killed asks only for what is missing, more
samples or prompts are added to those there are, and failed requests are made again by the next run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from r1kit.data.format import THINK_CLOSE, THINK_OPEN
from r1kit.evaluation.sampler import (
    ANSWERS,
    Completion,
    Progress,
    Prompt,
    Samples,
    Sampling,
    counts_of,
    encode,
)
from r1kit.machine import detect_device
from r1kit.runs.jsonl import AppendLog
from r1kit.serving.server import KEY as KEY_FILE
from r1kit.serving.server import server_state
from r1kit.settings.data import PatienceSettings, SamplingSettings
from r1kit.settings.errors import UserError
from r1kit.settings.machine import LayoutSettings, ServerSettings

if TYPE_CHECKING:
    import httpx
    import tenacity

    from r1kit.settings.profile import MachineSettings

UNANSWERED = "unanswered.jsonl"
LOG_KEY = ("prompt_id", "sample", "sampling")
CONNECT = 10.0  # seconds; a machine that is there accepts within milliseconds
LONGEST_RETRY_AFTER = 3600.0  # seconds; a server that asks for more is not coming back today
OWN_SERVER_SECONDS = 3600.0  # bound of a request that sends token ids
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHOWN = 300  # characters of an error's text
FEWEST_LOST = 8
"""Requests that must fail in a row before the server is given up, however few are in flight."""


class EndpointFailure(RuntimeError):
    """A request that brought no answer; `reason` is one word for counting."""

    def __init__(self, reason: str, detail: str, retry_after: float | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.retry_after = reason, detail[:SHOWN], retry_after


class Transient(EndpointFailure):
    """The same request may succeed later, after `retry_after` seconds if the server said so: 429, 5xx, a cut
    or garbled answer, silence, nobody there.
    """


class Refused(EndpointFailure):
    """The server will not answer this request: 400, a prompt too long."""


class NotAllowed(EndpointFailure):
    """The server will answer no request of ours: key, model or address are wrong."""


class EndpointLost(RuntimeError):
    """One request after another failed for good, so the server is gone or broken. The command line exits
    with 1.
    """


class Unanswered(RuntimeError):
    """Some requests failed for good; the same call asks them again."""


class ServerNotRunning(UserError):
    """No server runs where one was named; the command line exits with 2."""


Answer = dict[str, Any]
"""What a server sent, as it is logged: `content` (tags untouched), `reasoning` (from a field of its own, ""
where the server has none), `finish_reason`, `prompt_tokens`, `completion_tokens`; and `token_ids` and
`logprobs` if the prompt was sent as token ids.
"""


class Endpoint:
    """Asks one server for completions; used as `async with`. The key lives in the client's headers alone."""

    def __init__(self, url: str, sampling: SamplingSettings, patience: PatienceSettings, key: str = ""):
        self.url, self.sampling, self.patience, self.key = url.rstrip("/"), sampling, patience, key
        self.closed_until = 0.0
        self.client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Endpoint:
        import httpx

        self.client = httpx.AsyncClient(
            headers=_authorization(self.key),
            limits=httpx.Limits(max_connections=self.patience.concurrency),
            verify=self.url.startswith("https"),  # http needs no certificates, which take 46 ms to read
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,  # a proxy must not see 127.0.0.1
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def ask(self, prompt: Prompt, seed: int | None = None) -> Answer:
        """Ask once for one completion.

        Raises:
            Transient, Refused, NotAllowed: there is none.
        """
        import httpx

        # A rate limit holds for all requests: those that were not refused yet wait too.
        await asyncio.sleep(self.closed_until - time.monotonic())
        try:
            async with asyncio.timeout(self.patience.timeout):
                return await self._ask(*self._request(prompt, seed))
        except Transient as error:
            if error.retry_after:
                self.closed_until = max(self.closed_until, time.monotonic() + error.retry_after)
            raise
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise Transient("timeout", f"no answer in time ({type(error).__name__})") from error
        except httpx.ConnectError as error:
            raise Transient("unreachable", str(error)) from error
        except httpx.ConnectTimeout as error:
            raise Transient("unreachable", "no connection in time") from error
        except httpx.RequestError as error:
            raise Transient("cut", f"{type(error).__name__}: {error}") from error

    def retrying(self) -> tenacity.AsyncRetrying:
        """A caller of `ask` that tries again after a transient failure: it waits as long as the server asks
        for, and on top a random time below a limit that doubles, so that those who were refused together do
        not return together. The last failure is raised.
        """
        import tenacity

        backoff = tenacity.wait_random_exponential(self.patience.first_wait, self.patience.longest_wait)
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(self.patience.attempts),
            wait=lambda state: (state.outcome.exception().retry_after or 0.0) + backoff(state),
            reraise=True,
        )

    def _request(self, prompt: Prompt, seed: int | None) -> tuple[str, dict[str, Any]]:
        """Path and body of a request."""
        sampling, stream = self.sampling, self.patience.stream
        body: dict[str, Any] = {"model": sampling.model}
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"max_tokens": sampling.max_tokens} if sampling.max_tokens else {}
        body |= {"seed": seed} if seed is not None else {}
        if isinstance(prompt[0], int):
            body |= {"prompt": [prompt], "n": 1, "return_token_ids": True, "logprobs": 0}
            # vLLM takes what is not said from the model's generation_config.json (Qwen's has top_k 20).
            body |= {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
            return "/completions", body | sampling.extra
        body |= {"messages": with_instruction(prompt, sampling), "stream": stream}
        body |= {"stream_options": {"include_usage": True}} if stream else {}
        return "/chat/completions", body | sampling.extra

    async def _ask(self, path: str, body: dict[str, Any]) -> Answer:
        import httpx

        # Token ids come in one piece, so that the server is silent for as long as it generates.
        silence = self.patience.silence if "messages" in body else self.patience.timeout
        timeout = httpx.Timeout(silence, connect=CONNECT, pool=None)
        async with self.client.stream("POST", self.url + path, json=body, timeout=timeout) as response:
            if response.status_code != 200:
                raise failure(response, (await response.aread()).decode(errors="replace"))
            if "text/event-stream" in response.headers.get("content-type", ""):
                return await streamed_answer(response.aiter_lines())
            return whole_answer(await response.aread())


def only_model(url: str, key: str = "") -> str:
    """Ask for the name of the one model that the server at `url` has.

    Raises:
        NotAllowed: it does not say, or it serves several; the message names them.
    """
    import httpx

    local = urlsplit(url).hostname in LOOPBACK
    try:
        found = httpx.get(
            url.rstrip("/") + "/models", headers=_authorization(key), timeout=CONNECT, trust_env=not local
        ).raise_for_status()
        names = [model["id"] for model in found.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise NotAllowed(
            "models", f"{url} does not say which model it serves ({str(error).splitlines()[0]})"
        ) from error
    if len(names) != 1:
        raise NotAllowed("models", f"{url} serves {', '.join(names) or 'no model'}: name one")
    return names[0]


def whole_answer(body: bytes) -> Answer:
    """Read the answer to a request without streaming. Raises Transient if the body is not a completion."""
    try:
        found = json.loads(body)
        choice = found["choices"][0]
        if "message" in choice:
            message = choice["message"]
            return _answer(_text(message, "content"), _reasoning(message), choice, found.get("usage"))
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Transient("garbled", f"no completion: {body[:SHOWN]!r}") from error
    usage = {"prompt_tokens": len(choice.get("prompt_token_ids") or ()), "completion_tokens": len(ids)}
    return _answer(_text(choice, "text"), "", choice, usage) | {"token_ids": ids, "logprobs": logprobs}


async def streamed_answer(lines: AsyncIterator[str]) -> Answer:
    """Join the server-sent events of a chat completion. Raises Transient if they are garbled or end early."""
    content: list[str] = []
    reasoning: list[str] = []
    last: dict[str, Any] = {}
    usage: dict[str, Any] | None = None
    async for line in lines:
        kind, _, data = line.partition(":")
        if kind != "data" or data.strip() == "[DONE]":  # comments keep the line alive
            continue
        try:
            event = json.loads(data)
            if "error" in event:
                raise Transient("server_error", error_text(data))
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                delta = choice.get("delta") or {}
                content.append(_text(delta, "content"))
                reasoning.append(_reasoning(delta))
                last = choice if choice.get("finish_reason") else last
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Transient("garbled", f"no event of a stream: {data[:SHOWN]!r}") from error
    if not last:
        raise Transient("cut", f"the stream ended after {sum(map(len, content + reasoning))} characters")
    return _answer("".join(content), "".join(reasoning), last, usage)


def failure(response: httpx.Response, text: str) -> EndpointFailure:
    """The failure that a status other than 200 stands for."""
    status = response.status_code
    detail = f"{status} {error_text(text)}"
    if status in (401, 403, 404, 405):
        return NotAllowed("not_allowed", detail)
    if status in (408, 409, 425, 429) or status >= 500:
        reason = "rate_limit" if status == 429 else "server_error"
        return Transient(reason, detail, retry_after(response.headers.get("retry-after", "")))
    return Refused("refused", detail)


def retry_after(header: str) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or a date (RFC 9110, 10.2.3); None if it says nothing
    that can be read.
    """
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else None


def error_text(text: str) -> str:
    """The message of an error's body, or its beginning."""
    try:
        error = json.loads(text).get("error", text)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:SHOWN]
    except (ValueError, AttributeError):
        return " ".join(text.split())[:SHOWN]


def prompt_id(prompt: Prompt) -> str:
    """16 hex digits that name a prompt in the logs."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:16]


def with_instruction(messages: list[dict[str, str]], sampling: SamplingSettings) -> list[dict[str, str]]:
    """The turns that are sent: with the system prompt, and the instruction after the last question."""
    *before, last = messages
    if sampling.instruction:
        last = {**last, "content": f"{last['content']}\n\n{sampling.instruction}"}
    return [*([{"role": "system", "content": sampling.system}] if sampling.system else []), *before, last]


def seed_of(prompt_id: str, sample: int, sampling: SamplingSettings) -> int | None:
    """A sample's seed, 31 bits; None if the settings send none."""
    if sampling.seed is None:
        return None
    text = f"{sampling.seed} {prompt_id} {sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@dataclass
class Asked:
    """What happened while asking; `had` answers were on disk before."""

    had: int = 0
    answered: int = 0
    failed: int = 0
    lost_in_a_row: int = field(default=0, repr=False)


def answers_in(folder: str | Path) -> AppendLog:
    """The answers of a folder, by (prompt_id, sample, identity of the sampling)."""
    return AppendLog(Path(folder) / ANSWERS, LOG_KEY)


def unanswered_in(folder: str | Path) -> AppendLog:
    """The requests of a folder that failed, by the same key; some may have been answered since."""
    return AppendLog(Path(folder) / UNANSWERED, LOG_KEY)


def ask_all(
    wanted: Iterable[tuple[Prompt, int]],
    url: str,
    sampling: SamplingSettings,
    patience: PatienceSettings,
    folder: str | Path,
    key: str = "",
    progress: Callable[[Asked], None] = lambda asked: None,
) -> Asked:
    """Ask a server for every answer that the folder does not hold yet. Not to be called in an event loop.

    Args:
        wanted: prompts, each with its number of samples; a prompt that occurs again adds nothing.
        key: the API key.
        progress: told after each request.

    Raises:
        NotAllowed: the server takes no request of ours.
        EndpointLost: as many requests as are in flight failed in a row, each after all attempts, or were
            refused before anything was answered.
        LogInUse: another process asks into this folder.

    Whatever it raises, and when it is interrupted, the answers that came are on disk.
    """
    with answers_in(folder) as answers, unanswered_in(folder) as unanswered:
        asking = _Asking(Endpoint(url, sampling, patience, key), answers, unanswered, progress)
        try:
            asyncio.run(asking.run(wanted))
        except BaseExceptionGroup as group:  # what ended one worker ends all
            raise group.exceptions[0] from None
        finally:
            asking.write(asking.pending)
    return asking.asked


class _Asking:
    """One run of `ask_all`: requests in flight, and records that are to be written."""

    def __init__(
        self, endpoint: Endpoint, answers: AppendLog, unanswered: AppendLog, progress: Callable[[Asked], None]
    ):
        self.endpoint, self.answers, self.unanswered = endpoint, answers, unanswered
        self.progress, self.asked = progress, Asked()
        self.pending: list[tuple[AppendLog, dict[str, Any]]] = []
        self.writing = asyncio.Lock()
        self.identity = endpoint.sampling.identity()

    async def run(self, wanted: Iterable[tuple[Prompt, int]]) -> None:
        """Keep `concurrency` requests in flight until none is left."""
        todo = self.todo(wanted)
        async with self.endpoint, asyncio.TaskGroup() as group:
            for _ in range(self.endpoint.patience.concurrency):
                group.create_task(self.work(todo))

    def todo(self, wanted: Iterable[tuple[Prompt, int]]) -> Iterator[tuple[Prompt, str, int]]:
        """(prompt, its id, sample) without an answer."""
        asked: dict[str, int] = {}
        for prompt, samples in wanted:
            name = prompt_id(prompt)
            for sample in range(asked.get(name, 0), samples):
                if (name, sample, self.identity) in self.answers.places:
                    self.asked.had += 1
                else:
                    yield prompt, name, sample
            asked[name] = max(samples, asked.get(name, 0))

    async def work(self, todo: Iterator[tuple[Prompt, str, int]]) -> None:
        """Make one request after the other."""
        for prompt, name, sample in todo:
            record = dict(zip(LOG_KEY, (name, sample, self.identity), strict=True))
            start, retrying = time.monotonic(), self.endpoint.retrying()
            try:
                seed = seed_of(name, sample, self.endpoint.sampling)
                answer = await retrying(self.endpoint.ask, prompt, seed)
            except NotAllowed:
                raise
            except EndpointFailure as error:
                self.asked.failed += 1
                # One prompt may be refused; if nothing was ever answered, all will be.
                never = not self.asked.answered + self.asked.had
                self.asked.lost_in_a_row += never or isinstance(error, Transient)
                found, log = {"reason": error.reason, "detail": error.detail}, self.unanswered
            else:
                self.asked.answered += 1
                self.asked.lost_in_a_row = 0
                found, log = answer, self.answers
            attempts = retrying.statistics["attempt_number"]
            spent = {"attempts": attempts, "seconds": round(time.monotonic() - start, 2)}
            await self.save(log, record | found | spent)
            self.progress(self.asked)
            if self.asked.lost_in_a_row >= max(FEWEST_LOST, self.endpoint.patience.concurrency):
                raise EndpointLost(
                    f"{self.asked.lost_in_a_row} requests in a row failed, the last: {found['reason']} "
                    f"({found['detail']}). What was answered is kept: the same command goes on."
                )

    async def save(self, log: AppendLog, record: dict[str, Any]) -> None:
        """Return when the record is on disk. Those that wait for the disk meanwhile share the next fsync."""
        self.pending.append((log, record))
        async with self.writing:
            if self.pending:
                batch, self.pending = self.pending, []
                await asyncio.to_thread(self.write, batch)

    def write(self, batch: list[tuple[AppendLog, dict[str, Any]]]) -> None:
        """Put records on disk."""
        for log in (self.answers, self.unanswered):
            if own := [record for target, record in batch if target is log]:
                log.append(own)


@dataclass
class ServerSampler:
    """One or several servers with the same model; prompts are dealt to them in turn.

    urls: up to their version (http://host:8000/v1).
    model: the name under which they serve it; None asks the first.
    key_variable: environment variable with the API key; `key` goes before it.
    tokenizer: if given, prompts are sent as token ids, and completions hold ids and log-probabilities.
    """

    urls: list[str]
    model: str | None = None
    key: str = ""
    key_variable: str = "OPENAI_API_KEY"
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
        """As `Sampler.sample`; each server has a folder of its own in `folder`.

        Raises:
            Unanswered: some requests failed after all attempts.
            NotAllowed, EndpointLost: see `ask_all`.
        """
        key = self.key or os.environ.get(self.key_variable, "")
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
        answered = [0] * len(self.urls)

        def ask(number: int) -> None:
            url, share = self.urls[number], wanted[number :: len(self.urls)]
            place = folder / f"server-{number}"

            def tell(asked: Asked) -> None:
                answered[number] = asked.had + asked.answered
                if progress:
                    progress(sum(answered), sum(counts))

            asked = ask_all(share, url, request, self.patience, place, key, tell)
            if asked.failed:
                raise Unanswered(
                    f"{asked.failed} of {sum(n for _, n in share)} requests to {url} failed; the reasons are "
                    f"in {place / UNANSWERED}. The same command goes on"
                )

        with contextlib.ExitStack() as stack:
            folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            # Threads of their own: a notebook's kernel has an event loop already.
            with ThreadPoolExecutor(len(self.urls)) as pool:
                list(pool.map(ask, range(len(self.urls))))
            found = self._read(folder, request.identity())
        if progress:
            progress(sum(counts), sum(counts))
        rows = [[found[prompt_id(prompt), i] for i in range(count)] for prompt, count in wanted]
        generated = sum(one.tokens or 0 for row in rows for one in row)
        return Samples(rows, time.perf_counter() - start, generated)

    def _read(self, folder: Path, identity: str) -> dict[tuple[str, int], Completion]:
        found = {}
        for part in sorted(folder.glob("server-*")):
            with answers_in(part) as log:
                for record in log:
                    if record["sampling"] == identity:
                        found[record["prompt_id"], record["sample"]] = completion_of(record, self.tokenizer)
        return found


def completion_of(record: dict[str, Any], tokenizer: Any = None) -> Completion:
    """A logged answer as a completion: reasoning from a field of its own goes back between its tags."""
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
    """The sampler for a server at an address, or for that of a folder which `r1kit serve` made (its key is
    read there).

    Raises:
        ServerNotRunning: the folder's server does not run.
    """
    patience = PatienceSettings(concurrency=concurrency)
    if tokenizer is not None:  # one piece at the end, and as patient as a shard of long chains wants
        patience = patience.model_copy(update={"timeout": OWN_SERVER_SECONDS})
    if "://" in str(server):
        url = str(server).rstrip("/")
        urls = [url if url.endswith("/v1") else f"{url}/v1"]
        return ServerSampler(urls, patience=patience, tokenizer=tokenizer)
    urls, key = server_state(server).get("urls"), Path(server) / KEY_FILE
    if not urls:
        raise ServerNotRunning(f"{server}: no running server; give an address, or a folder of `r1kit serve`")
    secret = key.read_text(encoding="utf-8").strip() if key.exists() else ""
    return ServerSampler([f"{url}/v1" for url in urls], key=secret, patience=patience, tokenizer=tokenizer)


def answering_machine(machine: MachineSettings, tokens: int) -> MachineSettings | None:
    """machine.yaml with a server for stages that only sample: benchmarks, rejection sampling, pass rates.

    No trainer runs beside them, so every device serves. A profile whose GRPO generates inside the trainer
    needs no `server` for it: transformers would take days for answers of 32,768 tokens.

    Args:
        tokens: of prompt and answer together.

    Returns:
        None where this process has to sample: vLLM is not installed, or there is neither a server in the
        profile nor a GPU.
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


def on_all(machine: MachineSettings, server: ServerSettings, devices: range | list[int]) -> MachineSettings:
    """The machine with as many replicas of the server as its devices hold."""
    replicas = max(1, len(devices) // server.tensor_parallel_size)
    used = list(devices)[: replicas * server.tensor_parallel_size]
    update = {"server": server.model_copy(update={"replicas": replicas})}
    if len(used) > 1:
        # `train` must name a device; no trainer runs beside this server.
        update["layout"] = LayoutSettings(serve=used, train=used[:1])
    return machine.model_copy(update=update)


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _answer(content: str, reasoning: str, choice: dict[str, Any], usage: Any) -> Answer:
    found = {
        "content": content,
        "reasoning": reasoning,
        "finish_reason": str(choice.get("finish_reason") or ""),
    }
    counts = usage if isinstance(usage, dict) else {}
    return found | {name: counts.get(name) for name in ("prompt_tokens", "completion_tokens")}


def _text(message: dict[str, Any], *names: str) -> str:
    return next((message[name] for name in names if isinstance(message.get(name), str)), "")


def _reasoning(message: dict[str, Any]) -> str:
    # DeepSeek and older vLLM say `reasoning_content`, OpenRouter and newer vLLM `reasoning`.
    return _text(message, "reasoning_content", "reasoning")
