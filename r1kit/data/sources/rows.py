r"""How a row of somebody else's dataset becomes rows of ours, or a reason why it does not.

Ours are those of the embedded world (`r1kit/data/datasets.py`) without its levels and slips:

- traces: `messages` (user, assistant), `problem`, `solution` ("" where nobody states it), `verified` (None
  where nobody looked)
- prompts: `prompt` (one user turn), `problem`, `solution`, `verification_info` (JSON, "" without test cases)

Departures from open-r1, which takes `messages` and a solution column as they are:

- A trace without an end of its thoughts is left out: cut off by a limit, it teaches to think without end.
- OpenR1-Math's `messages` holds the first generation that a verifier liked. We read `generations` and its
  flags: `correctness_math_verify`, and where that says no `correctness_llama`; complete ones only.
- A gold in prose counts only through its last `\boxed{}`; without one the row is left out (open-r1's
  verifier reads the last number, which fails right answers).
- A program's problem needs a case that can fail, read from and written to the standard streams: problems with
  a checker of their own, files or an interactor cannot be judged by comparing outputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from r1kit.data.format import THINK_CLOSE, THINK_OPEN, user_prompt

Row = dict[str, Any]


@dataclass(frozen=True)
class Read:
    """A row of ours, or why there is none."""

    row: Row | None
    reason: str = ""


def trace(row: Mapping[str, Any]) -> Iterator[Read]:
    """A row whose `messages` are a question and a trace in R1's form, possibly behind a system turn."""
    if row.get("finish_reason") not in (None, "stop"):
        yield Read(None, "the generation was cut off")
        return
    yield _trace(row["messages"] or [], think=True)


def local_trace(row: Mapping[str, Any]) -> Iterator[Read]:
    """A row of one's own: in any form, with its `solution` and `verified` where it has them."""
    read = _trace(row["messages"] or [], think=False)
    if read.row:
        given = {name: row[name] for name in ("problem", "solution", "verified") if row.get(name) is not None}
        read = Read(read.row | given)
    yield read


def generations(row: Mapping[str, Any], most: int) -> Iterator[Read]:
    """OpenR1-Math: at most `most` of the row's right and complete generations."""
    texts = row["generations"] or []
    complete, by_rules, by_model = (
        row[name] or [] for name in ("is_reasoning_complete", "correctness_math_verify", "correctness_llama")
    )
    right = [
        text
        for number, text in enumerate(texts)
        if _flag(complete, number) and (_flag(by_rules, number) or _flag(by_model, number))
    ]
    reads = [
        _trace([*user_prompt(row["problem"]), {"role": "assistant", "content": text}], think=True)
        for text in right
    ]
    good = [read for read in reads if read.row][:most]
    if not good:
        yield reads[0] if reads else Read(None, "no right and complete generation")
    for read in good:
        yield Read(read.row | {"solution": row["answer"] or "", "verified": True})


def problem(
    row: Mapping[str, Any], prompt: str, solution: str, prose: bool = False, instruction: str = ""
) -> Iterator[Read]:
    """A problem with an answer to check against, or with test cases in `verification_info`."""
    text = _question(row[prompt])
    if not text:
        yield Read(None, "no problem")
        return
    gold = str(row[solution] if solution and row[solution] is not None else "").strip()
    tests = row.get("verification_info") or ""
    if prose and gold:
        gold = last_box(gold)
        if not gold:
            yield Read(None, "the solution is prose without a box")
            return
    if not gold and not tests:
        yield Read(None, "no solution")
        return
    info = tests if isinstance(tests, str) else json.dumps(tests)
    yield Read(_prompt(text, gold, info, instruction))


def program(row: Mapping[str, Any], prompt: str, instruction: str = "") -> Iterator[Read]:
    """open-r1/codeforces, `verifiable-prompts`: a prompt, its language, and tests as pairs of texts."""
    if row["interaction_format"]:
        yield Read(None, "interactive")
    elif row["generated_checker"]:
        yield Read(None, "needs a checker of its own")
    elif (row["input_mode"] or "stdio") != "stdio":
        yield Read(None, "reads and writes files")
    else:
        pairs = row["official_tests"] or row["examples"] or []
        cases = [
            {"type": "stdin_stdout", "input": pair["input"], "output": pair["output"]}
            for pair in pairs
            if (pair["output"] or "").strip()
        ]
        text = (row[prompt] or "").strip()
        if not cases or not text:
            yield Read(None, "no problem" if cases else "no test that expects anything")
            return
        info = {"language": row["language"] or "python", "test_cases": cases}
        yield Read(_prompt(text, "", json.dumps(info, ensure_ascii=False), instruction))


def last_box(text: str) -> str:
    r"""The content of the last `\boxed{}` of a text, "" if there is none or it is never closed."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return ""
    depth, start = 1, start + len(r"\boxed{")
    for position in range(start, len(text)):
        escaped = text[position - 1] == "\\"
        depth += ((text[position] == "{") - (text[position] == "}")) * (not escaped)
        if depth == 0:
            return text[start:position].strip()
    return ""


def _trace(messages: list[Mapping[str, Any]], think: bool) -> Read:
    turns = [{"role": turn["role"], "content": turn["content"] or ""} for turn in messages]
    asked = next((turn["content"] for turn in turns if turn["role"] == "user"), "")
    answer = turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else ""
    if not asked.strip() or not answer.strip():
        return Read(None, "no question or no answer")
    if think and THINK_OPEN not in answer:
        return Read(None, "no thoughts")
    if THINK_OPEN in answer:
        if THINK_CLOSE not in answer:
            return Read(None, "the thoughts have no end")
        if not answer.rpartition(THINK_CLOSE)[2].strip():
            return Read(None, "no answer after the thoughts")
    solution = last_box(answer.rpartition(THINK_CLOSE)[2])
    return Read({"messages": turns, "problem": asked, "solution": solution, "verified": None})


def _prompt(text: str, solution: str, info: str, instruction: str) -> Row:
    asked = f"{text}\n\n{instruction}" if instruction else text
    return {"prompt": user_prompt(asked), "problem": text, "solution": solution, "verification_info": info}


def _question(value: Any) -> str:
    """The text of a prompt: as it is, or the last user turn of a conversation."""
    if isinstance(value, str):
        return value.strip()
    asked = [turn["content"] for turn in value or () if turn["role"] == "user"]
    return asked[-1].strip() if asked else ""


def _flag(flags: list[bool | None], number: int) -> bool:
    """A flag beside a generation; the lists of `correctness_llama` are often empty."""
    return number < len(flags) and bool(flags[number])
