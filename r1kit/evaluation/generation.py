"""Trace generation: ask a teacher for answers to a set of prompts, verify them, keep what can be trained on.

First `ask_teacher` requests what is missing in a folder (`server_sampler.ask_all`). open-r1's
`generate_reasoning.py` does the same with one file keyed by a hash of the prompt; there one failed answer
loses all answers to its prompt, and the order is shuffled without a seed.

Then `write_traces` verifies the answers. It needs no server, so it can be repeated with other rewards;
verdicts are logged beside the answers, since running a program on all its tests takes long. Its files follow
from the prompts and the answers alone, not from the order in which the answers came:

- `traces.parquet`: one row per verified trace, as SFT reads it (`messages`, `problem`, `solution`, ...)
- `failures.parquet`: one row per answer that is not a verified trace, with its text and the `reason`
- `prompts.parquet`: one row per prompt with its `pass_rate`, for `r1kit data curate` and GRPO
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.format import THINK_CLOSE, THINK_OPEN, user_prompt
from r1kit.data.row_files import RowFile, in_batches, parquet_writer, parts
from r1kit.data.texts import problem_text
from r1kit.evaluation.server_sampler import RequestCounts, answers_in, ask_all, prompt_id, unanswered_in
from r1kit.runs.jsonl import AppendLog
from r1kit.settings.data import GenerationSettings

if TYPE_CHECKING:
    import pyarrow as pa

TRACES, FAILURES, PROMPTS = "traces.parquet", "failures.parquet", "prompts.parquet"
VERDICTS = "verdicts.jsonl"
JUDGED_PROMPTS = 32
"""Prompts whose answers are judged at once."""
WRONG, UNJUDGED, UNCHECKED = "wrong", "not judged", "nothing to check against"

Verdicts = dict[str, float | None]
Judge = Callable[[list[str], list[Mapping[str, Any]]], list[Verdicts]]
"""Completions and their rows -> for each the rewards that apply; 1.0 and more is right, None not judged."""


class NoTrace(ValueError):
    """An answer cannot be used as a trace; the message is the reason, in a word or two."""


@dataclass(frozen=True)
class PromptRow:
    """A row of the prompt set and its conversation."""

    prompt_id: str
    messages: list[dict[str, str]]
    row: Mapping[str, Any]


# Asking


def ask_teacher(
    rows: Iterable[Mapping[str, Any]],
    settings: GenerationSettings,
    folder: str | Path,
    key: str = "",
    progress: Callable[[RequestCounts], None] = lambda counts: None,
) -> RequestCounts:
    """Request every answer to the rows' prompts that is not in the folder yet; see `ask_all`."""
    wanted = ((prompt.messages, settings.samples) for prompt in prompts_of(rows))
    return ask_all(wanted, settings.url, settings.sampling, settings.patience, folder, key, progress)


def prompts_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[PromptRow]:
    """Yield the prompts of a set in order, without rows whose conversation occurred before."""
    seen: set[str] = set()
    for row in rows:
        messages = conversation(row)
        name = prompt_id(messages)
        if name not in seen:
            seen.add(name)
            yield PromptRow(name, messages, row)


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row's `prompt` (text or turns), its `messages` up to the answer, or its `problem`, as turns.

    Raises:
        ValueError: the row has none of them, or no user turn at the end.
    """
    prompt = row.get("prompt") or row.get("messages") or row.get("problem")
    if isinstance(prompt, str):
        return user_prompt(prompt)
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt or ()]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or turns[-1]["role"] != "user":
        raise ValueError(f"a row asks nothing in prompt, messages or problem: {str(dict(row))[:200]}")
    return turns


# Verifying


def trace_text(answer: Mapping[str, Any]) -> str:
    """Write a logged answer in the form of `data.format`: `<think>`, reasoning, `</think>`, text.

    The reasoning arrives in a field of its own, between tags, or before a closing tag whose opening tag the
    chat template wrote. An answer in any other form is an error, not a guess.

    Args:
        answer: `content`, `reasoning` and `finish_reason` of `endpoint.Answer`.

    Raises:
        NoTrace: it was cut off (`truncated`) or stopped by a filter, it is `empty`, it has `no reasoning` or
            `no answer` after it, or its tags are `malformed`.
    """
    if answer["finish_reason"] == "length":
        raise NoTrace("truncated")
    if answer["finish_reason"] not in ("stop", "eos", ""):
        raise NoTrace(f"finish: {answer['finish_reason']}")
    content, reasoning = answer["content"].strip(), answer["reasoning"].strip()
    if not content and not reasoning:
        raise NoTrace("empty")
    if not reasoning:
        before, closed, after = content.partition(THINK_CLOSE)
        if closed:
            reasoning, content = before.strip(), after.strip()
        elif THINK_OPEN in content:
            raise NoTrace("malformed")
    reasoning = reasoning.removeprefix(THINK_OPEN).removesuffix(THINK_CLOSE).strip()
    content = content.removeprefix(f"{THINK_OPEN}{THINK_CLOSE}").strip()
    if any(tag in part for tag in (THINK_OPEN, THINK_CLOSE) for part in (reasoning, content)):
        raise NoTrace("malformed")
    if not reasoning:
        raise NoTrace("no reasoning")
    if not content:
        raise NoTrace("no answer")
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}\n{content}"


def reason_of(verdicts: Verdicts) -> str:
    """Return why an answer is not verified; "" if rewards apply and all of them are 1 or more."""
    if not verdicts:
        return UNCHECKED
    if any(value is not None and value < 1 for value in verdicts.values()):
        return WRONG
    return UNJUDGED if None in verdicts.values() else ""


def reward_judge(functions: Mapping[str, Any]) -> Judge:
    """Return a judge that applies rewards by name, each to the rows it is for (`applies(rows, columns)`)."""

    def judge(completions: list[str], rows: list[Mapping[str, Any]]) -> list[Verdicts]:
        # `prompts` and `completions` are the rewards' own arguments; rows of one file have the same columns.
        # Prepared sets have one type per column, so a missing gold is an empty text.
        names = [name for name in rows[0] if name not in ("completions", "prompts")]
        columns = {name: [None if row[name] == "" else row[name] for row in rows] for name in names}
        turns = [[{"role": "assistant", "content": completion}] for completion in completions]
        verdicts: list[Verdicts] = [{} for _ in rows]
        for name, function in functions.items():
            applies = function.applies(len(rows), columns)
            values = function(turns, **columns) if any(applies) else []
            for row, value in enumerate(values):
                if applies[row]:
                    verdicts[row][name] = value
        return verdicts

    return judge


@dataclass
class TraceCounts:
    """Counts of the rows that `write_traces` wrote."""

    prompts: int = 0
    answers: int = 0
    traces: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Answers that are not verified traces, by reason."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON's own types, the commonest failure first."""
        return {**vars(self), "failures": dict(self.failures.most_common())}


@dataclass
class _Case:
    """One sample of one prompt: `reason` is empty for a verified trace, `answer` None if none came."""

    prompt: PromptRow
    sample: int
    answer: dict[str, Any] | None
    completion: str = ""
    reason: str = ""
    detail: str = ""
    verdicts: Verdicts = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A hash of everything that a verdict depends on, except the judge."""
        text = json.dumps([self.completion, dict(self.prompt.row)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]


def write_traces(
    source: RowFile,
    samples: int,
    sampling: str,
    judge: Judge,
    rewards: Sequence[str],
    folder: str | Path,
    progress: Callable[[TraceCounts], None] = lambda counts: None,
) -> TraceCounts:
    """Judge the answers in `folder` and write the three sets; a repetition judges only what is new.

    Args:
        source: the prompts that were asked.
        samples: answers per prompt.
        sampling: identity of the sampling; answers of another one are not read.
        judge: see `Judge`; a trace is verified if at least one reward applies and all that do are 1 or more.
        rewards: names of the judge's rewards; each gets a column `reward_<name>`.
    """
    folder, counts = Path(folder), TraceCounts()
    schemas = _schemas(source.schema, rewards)
    with contextlib.ExitStack() as stack:
        answers = stack.enter_context(answers_in(folder))
        unanswered = stack.enter_context(unanswered_in(folder))
        judged = stack.enter_context(AppendLog(folder / VERDICTS, ("case", "judge")))
        write = {name: stack.enter_context(parquet_writer(folder / name, schemas[name])) for name in schemas}
        for prompts in parts(prompts_of(source), JUDGED_PROMPTS):
            cases = [
                _case(prompt, sample, sampling, answers, unanswered)
                for prompt in prompts
                for sample in range(samples)
            ]
            _verify([case for case in cases if case.completion], judge, ",".join(rewards), judged)
            rows = {
                TRACES: [_trace_row(case) for case in cases if not case.reason],
                FAILURES: [_failure_row(case) for case in cases if case.reason],
                PROMPTS: [_prompt_row(prompt, cases) for prompt in prompts],
            }
            for name, schema in schemas.items():
                for batch in in_batches(rows[name], schema):
                    write[name](batch)
            counts.prompts += len(prompts)
            counts.answers += sum(case.answer is not None for case in cases)
            counts.traces += len(rows[TRACES])
            counts.completion_tokens += sum(
                (case.answer or {}).get("completion_tokens") or 0 for case in cases
            )
            counts.failures.update(case.reason for case in cases if case.reason)
            progress(counts)
    return counts


def _case(prompt: PromptRow, sample: int, sampling: str, answers: AppendLog, unanswered: AppendLog) -> _Case:
    key = prompt.prompt_id, sample, sampling
    record = answers.get(key)
    if record is None:
        failed = unanswered.get(key) or {"reason": "not asked", "detail": ""}
        return _Case(prompt, sample, None, reason=failed["reason"], detail=failed["detail"])
    case = _Case(prompt, sample, record)
    try:
        case.completion = trace_text(record)
    except NoTrace as error:
        case.reason = str(error)
    return case


def _verify(cases: list[_Case], judge: Judge, rewards: str, judged: AppendLog) -> None:
    if new := [case for case in cases if (case.key, rewards) not in judged.places]:
        verdicts = judge([case.completion for case in new], [case.prompt.row for case in new])
        judged.append(
            {"case": case.key, "judge": rewards, "verdicts": verdict}
            for case, verdict in zip(new, verdicts, strict=True)
        )
    for case in cases:
        case.verdicts = judged.get((case.key, rewards))["verdicts"]
        case.reason = reason_of(case.verdicts)


def _trace_row(case: _Case) -> dict[str, Any]:
    return _row(case, [{"role": "assistant", "content": case.completion}])


def _failure_row(case: _Case) -> dict[str, Any]:
    answer, turns = case.answer, []
    if answer:
        text = case.completion or "\n\n".join(filter(None, (answer["reasoning"], answer["content"])))
        turns = [{"role": "assistant", "content": text}]
    return _row(case, turns) | {"reason": case.reason, "detail": case.detail}


def _row(case: _Case, turns: list[dict[str, str]]) -> dict[str, Any]:
    answer, source = case.answer or {}, case.prompt.row
    row = {"messages": [*case.prompt.messages, *turns], "problem": problem_text(source)}
    row |= {"verified": not case.reason, "prompt_id": case.prompt.prompt_id, "sample": case.sample}
    row |= {name: answer.get(name) for name in ("finish_reason", "prompt_tokens", "completion_tokens")}
    row |= {f"reward_{name}": value for name, value in case.verdicts.items()}
    return dict(source) | row


def _prompt_row(prompt: PromptRow, cases: Iterable[_Case]) -> dict[str, Any]:
    """Return a prompt with its pass rate: the share of verified traces among the answers that were judged.

    An answer cut off at the limit counts as wrong; a request without an answer does not count.
    """
    judged = [
        case
        for case in cases
        if case.prompt is prompt and case.answer and case.reason not in (UNJUDGED, UNCHECKED)
    ]
    rate = sum(not case.reason for case in judged) / len(judged) if judged else None
    return dict(prompt.row) | {"prompt_id": prompt.prompt_id, "samples": len(judged), "pass_rate": rate}


def _schemas(source: pa.Schema, rewards: Sequence[str]) -> dict[str, pa.Schema]:
    import pyarrow as pa

    text, integer, number = pa.string(), pa.int64(), pa.float64()
    turns = pa.list_(pa.struct({"role": text, "content": text}))
    added = {"messages": turns, "problem": text, "verified": pa.bool_(), "prompt_id": text, "sample": integer}
    added |= {"finish_reason": text, "prompt_tokens": integer, "completion_tokens": integer}
    added |= {f"reward_{name}": number for name in rewards}
    columns = {name: source.field(name).type for name in source.names}
    trace = {name: kind for name, kind in columns.items() if name not in ("prompt", *added)} | added
    return {
        TRACES: pa.schema(trace),
        FAILURES: pa.schema(trace | {"reason": text, "detail": text}),
        PROMPTS: pa.schema(columns | {"prompt_id": text, "samples": integer, "pass_rate": number}),
    }
