"""Trace generation: ask a teacher for answers to a set of prompts, verify them, keep what can be trained on.

`ask_teacher` is `server_sampler.ask_all` over the rows of a prompt set. open-r1's `generate_reasoning.py`
does the same with one file keyed by a hash of the prompt; there one failed answer loses all of its prompt's,
and the order is shuffled without a seed.

`harvest` needs no server, so it can be repeated with other rewards; verdicts are remembered beside the
answers, since running a program on all its tests takes long. What it writes follows from the prompts and the
answers alone, not from the order in which they came:

- `traces.parquet`: one row per verified trace, as SFT reads it (`messages`, `problem`, `solution`, ...)
- `failures.parquet`: one row per answer that is no verified trace, with `reason`, and what was said
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
from r1kit.evaluation.server_sampler import Asked, answers_in, ask_all, prompt_id, unanswered_in
from r1kit.runs.jsonl import AppendLog
from r1kit.settings.data import GenerationSettings

if TYPE_CHECKING:
    import pyarrow as pa

TRACES, FAILURES, PROMPTS = "traces.parquet", "failures.parquet", "prompts.parquet"
VERDICTS = "verdicts.jsonl"
TOGETHER = 32
"""Prompts whose answers are judged at once."""
WRONG, UNJUDGED, UNCHECKED = "wrong", "not judged", "nothing to check against"

Verdicts = dict[str, float | None]
Judge = Callable[[list[str], list[Mapping[str, Any]]], list[Verdicts]]
"""Completions and their rows -> for each the rewards that apply; 1.0 and more is right, None not judged."""


class NoTrace(ValueError):
    """An answer from which nobody can learn to reason; the message is the reason, in a word or two."""


@dataclass(frozen=True)
class PromptRow:
    """A row of the prompt set and the conversation that asks it."""

    prompt_id: str
    messages: list[dict[str, str]]
    row: Mapping[str, Any]


def ask_teacher(
    rows: Iterable[Mapping[str, Any]],
    settings: GenerationSettings,
    folder: str | Path,
    key: str = "",
    progress: Callable[[Asked], None] = lambda asked: None,
) -> Asked:
    """Ask for every answer to the rows' prompts that the folder does not hold yet; see `ask_all`."""
    wanted = ((prompt.messages, settings.samples) for prompt in prompts_of(rows))
    return ask_all(wanted, settings.url, settings.sampling, settings.patience, folder, key, progress)


def prompts_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[PromptRow]:
    """The prompts of a set, each once, in order; a row that asks what an earlier one asked is passed over."""
    seen: set[str] = set()
    for row in rows:
        messages = conversation(row)
        name = prompt_id(messages)
        if name not in seen:
            seen.add(name)
            yield PromptRow(name, messages, row)


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a row asks: its `prompt` (text or turns), its `messages` up to the answer, or its `problem`.

    Raises:
        ValueError: it has none of them, or nobody asks anything in them.
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


def trace_text(answer: Mapping[str, Any]) -> str:
    """A logged answer in the one form of a completion (`data.format`): `<think>`, reasoning, `</think>`, then
    what is said to the reader.

    The reasoning arrives in a field of its own, between tags, or before a closing tag whose opening one the
    chat template wrote. What cannot be brought into the form is not guessed at.

    Args:
        answer: `content`, `reasoning` and `finish_reason` of `server_sampler.Answer`.

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
    """Why an answer is not verified; "" where at least one reward applies and all that do are 1 or more."""
    if not verdicts:
        return UNCHECKED
    if any(value is not None and value < 1 for value in verdicts.values()):
        return WRONG
    return UNJUDGED if None in verdicts.values() else ""


def reward_judge(functions: Mapping[str, Any]) -> Judge:
    """A judge that asks rewards by name, each about the rows it applies to (`applies(rows, columns)`)."""

    def judge(completions: list[str], rows: list[Mapping[str, Any]]) -> list[Verdicts]:
        # `prompts` and `completions` are the rewards' own arguments; rows of one file have the same columns.
        # Prepared sets have one type per column, so a gold that is not there is an empty text.
        names = [name for name in rows[0] if name not in ("completions", "prompts")]
        columns = {name: [None if row[name] == "" else row[name] for row in rows] for name in names}
        said = [[{"role": "assistant", "content": completion}] for completion in completions]
        found: list[Verdicts] = [{} for _ in rows]
        for name, function in functions.items():
            own = [n for n, applies in enumerate(function.applies(len(rows), columns)) if applies]
            values = function(said, **columns) if own else []
            for n in own:
                found[n][name] = values[n]
        return found

    return judge


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

    prompt: PromptRow
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
    prompt: PromptRow, sample: int, key: tuple[str, int, str], answers: AppendLog, unanswered: AppendLog
) -> _Case:
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


def _verify(cases: list[_Case], judge: Judge, rewards: str, known: AppendLog) -> None:
    new = [case for case in cases if (case.key, rewards) not in known.places]
    judged = judge([case.completion for case in new], [case.prompt.row for case in new]) if new else []
    if new:
        pairs = zip(new, judged, strict=True)
        known.append({"case": case.key, "judge": rewards, "verdicts": found} for case, found in pairs)
    for case in cases:
        case.verdicts = known.get((case.key, rewards))["verdicts"]
        case.reason = reason_of(case.verdicts)


def _count(found: Harvest, prompts: list[PromptRow], cases: list[_Case]) -> None:
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


def _prompt(prompt: PromptRow, cases: Iterable[_Case]) -> dict[str, Any]:
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
