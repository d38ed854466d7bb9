"""Answers of OpenAI-compatible servers (vLLM's), kept answer by answer.

An answer is the unit, with a seed of its own (`data/generation.py`). vLLM's numbers depend a little on what
else is in the batch, so equal seeds give equal answers only where it computes alike.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.data.format import THINK_CLOSE, THINK_OPEN
from r1kit.evaluation.answering import Answers, Progress, Sampling, Written
from r1kit.evaluation.questions import Question
from r1kit.settings.generation import GenerationSettings, PatienceSettings, SamplingSettings


class Unanswered(RuntimeError):
    """Some requests failed for good; the same call asks them again."""


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
