"""Answers of an endpoint to a set of prompts, several to each, asked at once and written down as they come.

open-r1's `generate_reasoning.py` does the same with one file keyed by a hash of the prompt. There one failed
answer loses all of its prompt's, and the order is shuffled without a seed. Here each answer is a record of
its own, keyed by prompt, sample and what decides an answer, so that:

- a run that was killed goes on where it was: what is on disk is never asked again, what is not always is;
- more samples or more prompts are added to those there are;
- a request that failed is written down with its reason, and asked again in the next run.

Each sample has a seed that follows from its key alone, not from the order in which requests end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from r1kit.data.append_log import AppendLog
from r1kit.data.chat_answer import Answer, EndpointFailure, NotAllowed, Transient
from r1kit.data.endpoint import Endpoint
from r1kit.data.prompts import Conversation, Prompt, prompts_of, request_of, seed_of
from r1kit.settings.generation import GenerationSettings, PatienceSettings

ANSWERS, UNANSWERED = "answers.jsonl", "unanswered.jsonl"
KEY = ("prompt_id", "sample", "sampling")

FEWEST_LOST = 8
"""Requests that must fail in a row before the endpoint is given up, however few are in flight."""


class EndpointLost(RuntimeError):
    """One request after another failed for good: the endpoint is gone or broken, and asking on would only
    turn all prompts into failures. The command line exits with 1.
    """


@dataclass
class Asked:
    """What happened while asking; `had` answers were on disk before."""

    prompts: int = 0
    had: int = 0
    answered: int = 0
    failed: int = 0
    lost_in_a_row: int = field(default=0, repr=False)


def answers_in(folder: str | Path) -> AppendLog:
    """The answers of a folder, by (prompt_id, sample, identity of the sampling)."""
    return AppendLog(Path(folder) / ANSWERS, KEY)


def unanswered_in(folder: str | Path) -> AppendLog:
    """The requests of a folder that failed, by the same key; some may have been answered since."""
    return AppendLog(Path(folder) / UNANSWERED, KEY)


def ask_all(
    rows: Iterable[Mapping[str, Any]],
    settings: GenerationSettings,
    folder: str | Path,
    key: str = "",
    progress: Callable[[Asked], None] = lambda asked: None,
) -> Asked:
    """Ask for every answer that the folder does not hold yet. Not to be called within an event loop.

    Args:
        key: the API key.
        progress: told after each request.

    Raises:
        NotAllowed: the endpoint takes no request of ours.
        EndpointLost: as many requests as are in flight failed in a row, each after all attempts, or were
            refused before anything was answered.
        LogInUse: another process asks into this folder.

    Whatever it raises, and when it is interrupted, the answers that came are on disk.
    """
    with answers_in(folder) as answers, unanswered_in(folder) as unanswered:
        asking = _Asking(settings, answers, unanswered, progress)
        try:
            asyncio.run(asking.run(rows, key))
        except BaseExceptionGroup as group:  # what ended one worker ends all
            raise group.exceptions[0] from None
        finally:
            asking.write(asking.pending)
    return asking.asked


class _Asking:
    """One run of `ask_all`: requests in flight, and records that are to be written."""

    def __init__(
        self,
        settings: GenerationSettings,
        answers: AppendLog,
        unanswered: AppendLog,
        progress: Callable[[Asked], None],
    ):
        self.settings, self.answers, self.unanswered = settings, answers, unanswered
        self.progress, self.asked = progress, Asked()
        self.pending: list[tuple[AppendLog, dict[str, Any]]] = []
        self.writing = asyncio.Lock()
        self.identity = settings.sampling.identity()

    async def run(self, rows: Iterable[Mapping[str, Any]], key: str) -> None:
        """Keep `concurrency` requests in flight until none is left."""
        todo = self.todo(rows)
        async with Endpoint(self.settings, key) as endpoint, asyncio.TaskGroup() as group:
            for _ in range(self.settings.patience.concurrency):
                group.create_task(self.work(todo, endpoint))

    def todo(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Prompt, int]]:
        """Prompts and samples without an answer."""
        for prompt in prompts_of(rows):
            self.asked.prompts += 1
            for sample in range(self.settings.samples):
                if (prompt.prompt_id, sample, self.identity) in self.answers.places:
                    self.asked.had += 1
                else:
                    yield prompt, sample

    async def work(self, todo: Iterator[tuple[Prompt, int]], endpoint: Endpoint) -> None:
        """One request after the other."""
        for prompt, sample in todo:
            record = dict(zip(KEY, (prompt.prompt_id, sample, self.identity), strict=True))
            start, attempts = time.monotonic(), Attempts()
            messages = request_of(prompt.messages, self.settings.sampling)
            seed = seed_of(prompt.prompt_id, sample, self.settings.sampling)
            try:
                answer = await patiently(endpoint, messages, seed, self.settings.patience, attempts)
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
                found, log = asdict(answer), self.answers
            spent = {"attempts": attempts.made, "seconds": round(time.monotonic() - start, 2)}
            await self.save(log, record | found | spent)
            self.progress(self.asked)
            if self.asked.lost_in_a_row >= max(FEWEST_LOST, self.settings.patience.concurrency):
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
class Attempts:
    """How often a request was made."""

    made: int = 0


async def patiently(
    endpoint: Endpoint,
    messages: Conversation,
    seed: int | None,
    patience: PatienceSettings,
    attempts: Attempts,
) -> Answer:
    """Ask until there is an answer: after a transient failure wait what the server asks for, and on top a
    random time below a limit that doubles, so that those who were refused together do not return together.

    Raises:
        EndpointFailure: the last failure.
    """
    import tenacity

    backoff = tenacity.wait_random_exponential(patience.first_wait, patience.longest_wait)

    def wait(state: tenacity.RetryCallState) -> float:
        return (state.outcome.exception().retry_after or 0.0) + backoff(state)

    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Transient),
        stop=tenacity.stop_after_attempt(patience.attempts),
        wait=wait,
        reraise=True,
    ):
        with attempt:
            attempts.made += 1
            return await endpoint.ask(messages, seed)
    raise AssertionError("tenacity returns or raises")
