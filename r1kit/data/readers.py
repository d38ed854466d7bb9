r"""Turn a row of a known dataset or a local file into rows for training, or into the reason to drop it.

The rows have the columns of the embedded world (`r1kit/data/datasets.py`) without its levels and slips:

- traces: `messages` (user, assistant), `problem`, `solution` ("" if not stated), `verified` (None if not
  checked)
- prompts: `prompt` (one user turn), `problem`, `solution`, `verification_info` (JSON, "" without test cases)

Departures from open-r1, which takes `messages` and a solution column as they are:

- A trace without `</think>` is dropped: a limit cut it off, and it would teach to think without end.
- OpenR1-Math's `messages` has the first generation that a verifier accepted. We read `generations` and their
  flags (`correctness_math_verify`, or `correctness_llama` if the first is false) and take complete ones only.
- A solution in prose counts only by its last `\boxed{}`; a row without one is dropped (open-r1's verifier
  reads the last number, which fails right answers).
- A programming problem needs a test case that can fail, with the standard streams as input and output:
  problems with their own checker, with files or with an interactor cannot be judged by comparing outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from r1kit.data.format import THINK_CLOSE, THINK_OPEN, user_prompt

Row = dict[str, Any]
Read = Row | str
"""A row for training, or the reason for dropping it."""


def trace(row: Mapping[str, Any], most: int = 1) -> list[Read]:
    """Read a row whose `messages` are a question and a trace in R1's form, possibly behind a system turn."""
    if row.get("finish_reason") not in (None, "stop"):
        return ["the generation was cut off"]
    return [_trace(row["messages"] or [], think=True)]


def local_trace(row: Mapping[str, Any], most: int = 1) -> list[Read]:
    """Read a row of a local file: a trace in any form, with its `solution` and `verified` if it has them."""
    read = _trace(row["messages"] or [], think=False)
    if isinstance(read, str):
        return [read]
    given = {name: row[name] for name in ("problem", "solution", "verified") if row.get(name) is not None}
    return [read | given]


def generations(row: Mapping[str, Any], most: int = 1) -> list[Read]:
    """Read at most `most` right and complete generations of a row of OpenR1-Math."""
    complete, by_rules, by_model = (
        row[name] or [] for name in ("is_reasoning_complete", "correctness_math_verify", "correctness_llama")
    )
    reads = [
        _trace([*user_prompt(row["problem"]), {"role": "assistant", "content": text}], think=True)
        for number, text in enumerate(row["generations"] or [])
        if _flag(complete, number) and (_flag(by_rules, number) or _flag(by_model, number))
    ]
    good = [read for read in reads if not isinstance(read, str)][:most]
    if not good:
        return reads[:1] or ["no right and complete generation"]
    return [read | {"solution": row["answer"] or "", "verified": True} for read in good]


def problem(
    row: Mapping[str, Any], prompt: str, solution: str, prose: bool = False, instruction: str = ""
) -> list[Read]:
    """Read a problem with a solution to check answers against, or with test cases in `verification_info`.

    Args:
        prompt, solution: the names of these columns; "" for no solution.
        prose: the solution is prose, and its last box is the answer.
        instruction: text added to the question.
    """
    text = _question(row[prompt])
    if not text:
        return ["no problem"]
    gold = str(row[solution] if solution and row[solution] is not None else "").strip()
    tests = row.get("verification_info") or ""
    if prose and gold:
        gold = last_box(gold)
        if not gold:
            return ["the solution is prose without a box"]
    if not gold and not tests:
        return ["no solution"]
    return [_prompt(text, gold, tests if isinstance(tests, str) else json.dumps(tests), instruction)]


def program(
    row: Mapping[str, Any], prompt: str, solution: str = "", prose: bool = False, instruction: str = ""
) -> list[Read]:
    """Read a row of open-r1/codeforces, `verifiable-prompts`: a prompt, its language, and test cases."""
    if row["interaction_format"]:
        return ["interactive"]
    if row["generated_checker"]:
        return ["needs a checker of its own"]
    if (row["input_mode"] or "stdio") != "stdio":
        return ["reads and writes files"]
    cases = [
        {"type": "stdin_stdout", "input": pair["input"], "output": pair["output"]}
        for pair in row["official_tests"] or row["examples"] or []
        if (pair["output"] or "").strip()
    ]
    text = (row[prompt] or "").strip()
    if not cases or not text:
        return ["no problem" if cases else "no test that expects anything"]
    info = {"language": row["language"] or "python", "test_cases": cases}
    return [_prompt(text, "", json.dumps(info, ensure_ascii=False), instruction)]


def last_box(text: str) -> str:
    r"""Return the content of the last `\boxed{}` of a text, "" if there is none or it is not closed."""
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
    question = next((turn["content"] for turn in turns if turn["role"] == "user"), "")
    answer = turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else ""
    if not question.strip() or not answer.strip():
        return "no question or no answer"
    if think and THINK_OPEN not in answer:
        return "no thoughts"
    if THINK_OPEN in answer:
        if THINK_CLOSE not in answer:
            return "the thoughts have no end"
        if not answer.rpartition(THINK_CLOSE)[2].strip():
            return "no answer after the thoughts"
    solution = last_box(answer.rpartition(THINK_CLOSE)[2])
    return {"messages": turns, "problem": question, "solution": solution, "verified": None}


def _prompt(text: str, solution: str, info: str, instruction: str) -> Row:
    question = f"{text}\n\n{instruction}" if instruction else text
    return {"prompt": user_prompt(question), "problem": text, "solution": solution, "verification_info": info}


def _question(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    questions = [turn["content"] for turn in value or () if turn["role"] == "user"]
    return questions[-1].strip() if questions else ""


def _flag(flags: list[bool | None], number: int) -> bool:
    return number < len(flags) and bool(flags[number])  # `correctness_llama` is often empty
