"""Who answers the questions: a model in this process, or an OpenAI-compatible server (vLLM's).

Both keep what they wrote in `answers.jsonl`, a line an answer, synced to disk before the next is asked. After
a kill the same call goes on with what is missing and ends with the same answers:

- in this process a batch is the unit: its composition and its seed follow from the questions alone, so a
  batch that was half written is written again as it was;
- at a server an answer is the unit, with a seed of its own (`data/generation.py`). vLLM's numbers depend a
  little on what else is in the batch, so equal seeds give equal answers only where it computes alike.

Answers to other questions, settings or weights have another identity and are left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from r1kit.data.append_log import AppendLog
from r1kit.data.format import THINK_CLOSE, THINK_OPEN
from r1kit.evaluation.questions import Question
from r1kit.settings.generation import GenerationSettings, PatienceSettings, SamplingSettings

Progress = Callable[[int, int], None]
KEY = ("question", "sample", "identity")
FILE = "answers.jsonl"


class Unanswered(RuntimeError):
    """Some requests failed for good; the same call asks them again."""


@dataclass(frozen=True)
class Written:
    """One answer: its text, its tokens (None where a server does not count), whether it ended by itself."""

    text: str
    tokens: int | None
    finished: bool


@dataclass(frozen=True)
class Answers:
    """Answers of P questions, [P][samples], and how long those took that were not on disk before."""

    written: list[list[Written]]
    seconds: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Of what was generated now; 0.0 if nothing was."""
        return self.tokens / self.seconds if self.seconds and self.tokens else 0.0


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int = 0

    def request(self, model: str) -> SamplingSettings:
        """The same for `data/generation.py`."""
        top_p = self.top_p if self.temperature else 1.0
        return SamplingSettings(
            model=model,
            temperature=self.temperature,
            top_p=top_p,
            max_tokens=self.max_new_tokens,
            seed=self.seed,
        )


class Answering(Protocol):
    """A model that can be asked."""

    def answer(
        self, questions: Sequence[Question], sampling: Sampling, folder: Path | None, progress: Progress
    ) -> Answers:
        """`question.samples` answers to each question; `folder` keeps them (None: nothing is kept)."""


@dataclass
class InProcess:
    """transformers' `generate` in batches, for models small enough to sit in this process.

    weights: what tells these weights from others at the same path (`weights_identity`).
    """

    model: Any
    tokenizer: Any
    batch_size: int
    weights: str = ""

    def answer(
        self, questions: Sequence[Question], sampling: Sampling, folder: Path | None, progress: Progress
    ) -> Answers:
        """As `Answering.answer`. The caller's random state is left alone (`sampling.generate`)."""
        rows = [(p, s) for p, question in enumerate(questions) for s in range(question.samples)]
        lengths = [self._length(question) for question in questions]
        rows.sort(key=lambda row: lengths[row[0]])  # long and short prompts apart: little padding
        written: list[list[Written]] = [[None] * question.samples for question in questions]
        done, tokens, seconds = 0, 0, 0.0
        identity = self._identity(questions, sampling)
        with _log_in(folder) as log:
            for number, first in enumerate(range(0, len(rows), self.batch_size)):
                batch = rows[first : first + self.batch_size]
                kept = [log and log.get((p, s, identity)) for p, s in batch]
                if not all(kept):
                    start = time.perf_counter()
                    kept = self._write(questions, batch, sampling, number)
                    seconds += time.perf_counter() - start
                    tokens += sum(record["tokens"] for record in kept)
                    if log:
                        keys = [dict(zip(KEY, (p, s, identity), strict=True)) for p, s in batch]
                        log.append(key | record for key, record in zip(keys, kept, strict=True))
                for (p, s), record in zip(batch, kept, strict=True):
                    written[p][s] = Written(record["text"], record["tokens"], record["finished"])
                done += len(batch)
                progress(done, len(rows))
        return Answers(written, seconds, tokens)

    def _write(
        self, questions: Sequence[Question], batch: list, sampling: Sampling, number: int
    ) -> list[dict]:
        from r1kit.evaluation.sampling import generate

        found = generate(
            self.model, self.tokenizer, [questions[p].prompt for p, _ in batch],
            temperature=sampling.temperature, top_p=sampling.top_p, max_new_tokens=sampling.max_new_tokens,
            batch_size=len(batch), seed=sampling.seed + 1_000_003 * number,
        )  # fmt: skip
        return [
            {"text": text[0], "tokens": tokens[0], "finished": finished[0]}
            for text, tokens, finished in zip(found.completions, found.tokens, found.finished, strict=True)
        ]

    def _length(self, question: Question) -> int:
        text = self.tokenizer.apply_chat_template(question.prompt, tokenize=False, add_generation_prompt=True)
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _identity(self, questions: Sequence[Question], sampling: Sampling) -> str:
        asked = [(question.prompt, question.samples) for question in questions]
        return _digest([asked, vars(sampling), self.batch_size, self.weights])


@dataclass
class Served:
    """Chat completions of one or several servers with the same model.

    urls: up to their version (http://host:8000/v1); questions are dealt to them in turn.
    model: the name under which they serve it; None asks them.
    key_variable: environment variable with the API key; `key` goes before it.
    """

    urls: list[str]
    model: str | None = None
    key: str = ""
    key_variable: str = "OPENAI_API_KEY"
    patience: PatienceSettings = field(default_factory=PatienceSettings)

    def answer(
        self, questions: Sequence[Question], sampling: Sampling, folder: Path | None, progress: Progress
    ) -> Answers:
        """As `Answering.answer`.

        Raises:
            Unanswered: some requests failed after all attempts.
            NotAllowed, EndpointLost: see `data/generation.py`.
        """
        from r1kit.data.endpoint import only_model

        request = sampling.request(self.model or only_model(self.urls[0], self._key()))
        with contextlib.ExitStack() as stack:
            if folder is None:
                import tempfile

                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            start, wanted = time.perf_counter(), sum(question.samples for question in questions)
            shares = self._shares(questions)
            counts = [0] * len(shares)

            def ask(number: int) -> None:
                url, samples, rows = shares[number]
                settings = GenerationSettings(
                    url=url, samples=samples, sampling=request, patience=self.patience
                )

                def tell(asked: Any) -> None:
                    counts[number] = asked.had + asked.answered
                    progress(sum(counts), wanted)

                self._ask(rows, settings, folder / f"server-{self.urls.index(url)}", tell)

            # Threads of their own: a notebook's kernel has an event loop already.
            with ThreadPoolExecutor(len(self.urls)) as pool:
                list(pool.map(ask, range(len(shares))))
            had = self._read(questions, request, folder)
            progress(wanted, wanted)
        tokens = sum(written.tokens or 0 for row in had for written in row)
        return Answers(had, time.perf_counter() - start, tokens)

    def _ask(self, rows: list[dict], settings: GenerationSettings, folder: Path, tell: Callable) -> None:
        from r1kit.data.generation import ask_all

        asked = ask_all(rows, settings, folder, self._key(), tell)
        if asked.failed:
            raise Unanswered(
                f"{asked.failed} of {len(rows) * settings.samples} requests to {settings.url} failed; the "
                f"reasons are in {folder / 'unanswered.jsonl'}. The same command goes on"
            )

    def _shares(self, questions: Sequence[Question]) -> list[tuple[str, int, list[dict]]]:
        """(url, samples, rows): questions with the same number of samples, dealt to the servers in turn."""
        shares: dict[tuple[str, int], list[dict]] = {}
        for place, question in enumerate(questions):
            where = (self.urls[place % len(self.urls)], question.samples)
            shares.setdefault(where, []).append({"prompt": question.prompt})
        return [(url, samples, rows) for (url, samples), rows in shares.items()]

    def _read(
        self, questions: Sequence[Question], request: SamplingSettings, folder: Path
    ) -> list[list[Written]]:
        from r1kit.data.generation import answers_in
        from r1kit.data.prompts import prompts_of

        found: dict[tuple[str, int], Written] = {}
        for part in sorted(folder.glob("server-*")):
            with answers_in(part) as log:
                for record in log:
                    if record["sampling"] == request.identity():
                        found[record["prompt_id"], record["sample"]] = written_of(record)
        return [
            [found[prompt.prompt_id, sample] for sample in range(question.samples)]
            for question in questions
            for prompt in prompts_of([{"prompt": question.prompt}])
        ]

    def _key(self) -> str:
        return self.key or os.environ.get(self.key_variable, "")


def written_of(record: dict[str, Any]) -> Written:
    """An endpoint's answer as a completion: reasoning from a field of its own goes back between its tags."""
    text, reasoning = record["content"], record.get("reasoning") or ""
    if reasoning:
        text = f"{THINK_OPEN}\n{reasoning}\n" + (f"{THINK_CLOSE}\n{text}" if text else "")
    return Written(text, record.get("completion_tokens"), record.get("finish_reason") != "length")


def weights_identity(model: str | Path) -> str:
    """16 hex digits that change with a model folder's files (names, sizes, times); a hub id as it is."""
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    return _digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _log_in(folder: Path | None) -> Iterator[AppendLog | None]:
    if folder is None:
        yield None
    else:
        with AppendLog(folder / FILE, KEY) as log:
            yield log
