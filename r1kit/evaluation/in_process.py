"""Answers of a model in this process, kept batch by batch.

A batch is the unit: its composition and its seed follow from the questions alone, so a batch that was half
written is written again as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.data.append_log import AppendLog
from r1kit.evaluation.answering import Answers, Progress, Sampling, Written
from r1kit.evaluation.questions import Question

KEY = ("question", "sample", "identity")
FILE = "answers.jsonl"


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
