"""From answers to traces: brought into the one form, verified, and sorted into what can be trained on and
what cannot, with the reason.

Verification needs no endpoint, so it can be repeated with other rewards; verdicts are remembered beside the
answers, since running a program on all its tests is no small thing either. What is written follows from the
prompts and the answers alone, not from the order in which they came:

- `traces.parquet`: one row a verified trace, as SFT reads it (`messages`, `problem`, `solution`, ...)
- `failures.parquet`: one row an answer that is no verified trace, with `reason`, and what was said
- `prompts.parquet`: one row a prompt with its `pass_rate`, for `r1kit data curate` and GRPO
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.append_log import AppendLog
from r1kit.data.chat_answer import Answer
from r1kit.data.generation import answers_in, unanswered_in
from r1kit.data.prompts import Prompt, prompts_of
from r1kit.data.reasoning import NoTrace, completion_of
from r1kit.data.row_files import RowFile, in_batches, parquet_writer, parts
from r1kit.data.texts import problem_text
from r1kit.data.verdicts import UNCHECKED, UNJUDGED, Judge, Verdicts, reason_of

if TYPE_CHECKING:
    import pyarrow as pa

TRACES, FAILURES, PROMPTS, VERDICTS = (
    "traces.parquet",
    "failures.parquet",
    "prompts.parquet",
    "verdicts.jsonl",
)
TOGETHER = 32
"""Prompts whose answers are judged at once."""


@dataclass
class Harvest:
    """Counts of what was written."""

    prompts: int = 0
    answers: int = 0
    traces: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Answers that are no verified trace, by reason."""

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON's own types, the commonest failure first."""
        return {**vars(self), "failures": dict(self.failures.most_common())}


@dataclass
class _Case:
    """One sample of one prompt on its way: `reason` is empty for a verified trace."""

    prompt: Prompt
    sample: int
    answer: dict[str, Any] | None
    completion: str = ""
    reason: str = ""
    detail: str = ""
    verdicts: Verdicts = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A hash of all that a verdict depends on but the judge."""
        text = json.dumps([self.completion, dict(self.prompt.row)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]


def harvest(
    source: RowFile,
    samples: int,
    sampling: str,
    judge: Judge,
    rewards: Sequence[str],
    folder: str | Path,
    progress: Callable[[Harvest], None] = lambda harvest: None,
) -> Harvest:
    """Judge the answers in `folder` and write the three sets; a repetition judges only what is new.

    Args:
        source: the prompts that were asked.
        samples: answers to each.
        sampling: identity of the sampling whose answers are taken.
        judge: see `Judge`; a trace is verified if at least one reward applies and all that do are 1 or more.
        rewards: names of the rewards that the judge may speak of; each gets a column `reward_<name>`.
    """
    folder, found = Path(folder), Harvest()
    schemas = _schemas(source.schema, rewards)
    with contextlib.ExitStack() as stack:
        answers, unanswered = (
            stack.enter_context(answers_in(folder)),
            stack.enter_context(unanswered_in(folder)),
        )
        known = stack.enter_context(AppendLog(folder / VERDICTS, ("case", "judge")))
        write = {name: stack.enter_context(parquet_writer(folder / name, schemas[name])) for name in schemas}
        for prompts in parts(prompts_of(source), TOGETHER):
            cases = [
                _case(prompt, sample, (prompt.prompt_id, sample, sampling), answers, unanswered)
                for prompt in prompts
                for sample in range(samples)
            ]
            _verify([case for case in cases if case.completion], judge, ",".join(rewards), known)
            _count(found, prompts, cases)
            rows = {
                TRACES: [_trace(case) for case in cases if not case.reason],
                FAILURES: [_failure(case) for case in cases if case.reason],
                PROMPTS: [_prompt(prompt, cases) for prompt in prompts],
            }
            for name, own in rows.items():
                for batch in in_batches(own, schemas[name]):
                    write[name](batch)
            progress(found)
    return found


def _case(
    prompt: Prompt, sample: int, key: tuple[str, int, str], answers: AppendLog, unanswered: AppendLog
) -> _Case:
    record = answers.get(key)
    if record is None:
        failed = unanswered.get(key) or {"reason": "not asked", "detail": ""}
        return _Case(prompt, sample, None, reason=failed["reason"], detail=failed["detail"])
    case = _Case(prompt, sample, record)
    try:
        case.completion = completion_of(
            Answer(**{name: record[name] for name in Answer.__dataclass_fields__})
        )
    except NoTrace as error:
        case.reason = str(error)
    return case


def _verify(cases: list[_Case], judge: Judge, rewards: str, known: AppendLog) -> None:
    new = [case for case in cases if (case.key, rewards) not in known.places]
    judged = judge([case.completion for case in new], [case.prompt.row for case in new]) if new else []
    if new:
        pairs = zip(new, judged, strict=True)
        known.append({"case": case.key, "judge": rewards, "verdicts": found} for case, found in pairs)
    for case in cases:
        case.verdicts = known.get((case.key, rewards))["verdicts"]
        case.reason = reason_of(case.verdicts)


def _count(found: Harvest, prompts: list[Prompt], cases: list[_Case]) -> None:
    found.prompts += len(prompts)
    found.answers += sum(case.answer is not None for case in cases)
    found.traces += sum(not case.reason for case in cases)
    found.completion_tokens += sum((case.answer or {}).get("completion_tokens") or 0 for case in cases)
    found.failures.update(case.reason for case in cases if case.reason)


def _trace(case: _Case) -> dict[str, Any]:
    return _said(case, [*case.prompt.messages, {"role": "assistant", "content": case.completion}])


def _failure(case: _Case) -> dict[str, Any]:
    said = case.completion
    if case.answer and not said:
        said = "\n\n".join(filter(None, (case.answer["reasoning"], case.answer["content"])))
    turn = [{"role": "assistant", "content": said}] if case.answer else []
    return _said(case, [*case.prompt.messages, *turn]) | {"reason": case.reason, "detail": case.detail}


def _said(case: _Case, messages: list[dict[str, str]]) -> dict[str, Any]:
    answer = case.answer or {}
    own = {"messages": messages, "problem": problem_text(case.prompt.row), "verified": not case.reason}
    own |= {"prompt_id": case.prompt.prompt_id, "sample": case.sample}
    own |= {name: answer.get(name) for name in ("finish_reason", "prompt_tokens", "completion_tokens")}
    own |= {f"reward_{name}": value for name, value in case.verdicts.items()}
    return dict(case.prompt.row) | own


def _prompt(prompt: Prompt, cases: Iterable[_Case]) -> dict[str, Any]:
    """A pass rate is the share of verified traces among answers that could be judged; an answer cut off at
    the limit counts as wrong, one that never came does not count.
    """
    own = [case for case in cases if case.prompt is prompt and case.answer]
    judged = [case for case in own if case.reason not in (UNJUDGED, UNCHECKED)]
    verified = sum(not case.reason for case in judged)
    rate = verified / len(judged) if judged else None
    return dict(prompt.row) | {"prompt_id": prompt.prompt_id, "samples": len(judged), "pass_rate": rate}


def _schemas(source: pa.Schema, rewards: Sequence[str]) -> dict[str, pa.Schema]:
    import pyarrow as pa

    text, number, share = pa.string(), pa.int64(), pa.float64()
    turn = pa.list_(pa.struct({"role": text, "content": text}))
    said = {"messages": turn, "problem": text, "verified": pa.bool_(), "prompt_id": text, "sample": number}
    said |= {"finish_reason": text, "prompt_tokens": number, "completion_tokens": number}
    said |= {f"reward_{name}": share for name in rewards}
    columns = {name: source.field(name).type for name in source.names}
    trace = {name: kind for name, kind in columns.items() if name not in ("prompt", *said)} | said
    asked = columns | {"prompt_id": text, "samples": number, "pass_rate": share}
    return {
        TRACES: pa.schema(trace),
        FAILURES: pa.schema(trace | {"reason": text, "detail": text}),
        PROMPTS: pa.schema(asked),
    }
