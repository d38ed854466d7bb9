"""Rewards for programs: the share of test cases passed, all of them passed, and the form of the answer.

Public names and arguments are open-r1's (`src/open_r1/rewards.py`); programs run on this host, in
`r1kit.sandbox`. Where they judge differently, and why:

- **Trouble of ours is None, not 0.0.** Its direct E2B and Morph paths called the client with a wrong
  argument, caught the TypeError and gave every program 0.0 (its pull request #682); so did any failure of the
  cloud service.
- **A row that cannot be judged is None too**: no test cases (there a ZeroDivisionError), malformed ones, a
  language that is not judged here. The reason is logged, once for each.
- **A case passes only if all its lines are right**; there the first correct line was enough
  (`sandbox/compare.py`).
- **A case over its time fails alone**; there it voided the program's other cases (`sandbox/judge.py`).
- **The program is what the answer gives after the reasoning** (`sandbox/programs.py`); no program is 0.0.
- **No event loop**: `asyncio.run` raised inside Jupyter. All of this is threads and blocking calls.
- `binary_code_reward` stops at a program's first failing case; open-r1 runs all and asks for more than 0.99.
- `get_code_format_reward` matches the whole text: with re.MULTILINE, anything after `</answer>` passed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from r1kit.data.format import begins_reasoning
from r1kit.rewards.completions import completion_text
from r1kit.rewards.format import has_form
from r1kit.rewards.shared_sandbox import configure, shared_sandbox
from r1kit.sandbox.cases import Problem, read_problem
from r1kit.sandbox.judge import Job, judge
from r1kit.sandbox.programs import answer_part, blocks, language_name, program
from r1kit.sandbox.verdicts import Verdict

__all__ = ["binary_code_reward", "code_reward", "configure", "get_code_format_reward", "shared_sandbox"]

_log = logging.getLogger(__name__)
_logged: set[str] = set()


def code_reward(
    completions: list,
    verification_info: Sequence,
    num_parallel: int | None = None,
    provider_type: str = "local",
    enforce_same_language: bool = False,
    require_reasoning: bool = False,
    **columns,
) -> list[float | None]:
    """The share of its test cases that each completion's program passes: 0.0 without a program.

    Args:
        completions: TRL's completions, B strings or B conversations.
        verification_info: B rows `{"language", "test_cases"}`, or their JSON (`sandbox/cases.py`).
        num_parallel: programs at the same time; None means as many as the sandbox has workers.
        provider_type: "local", this host's sandbox; open-r1's cloud services are refused.
        enforce_same_language: refuse rows of more than one language.
        require_reasoning: no program counts before a `</think>`. For chat templates that begin the reasoning
            themselves: a completion cut off inside it shows no sign of it.
        columns: the dataset's other columns. A prompt in `prompts` that ends in `<think>` requires reasoning.

    Returns:
        B values in [0, 1], None where a row could not be judged.

    Raises:
        ValueError: another provider, not one row for each completion, or several languages where one is
            asked for.
        SandboxError: nothing isolates programs on this machine.
    """
    return _scores(
        completions, verification_info, num_parallel, provider_type, enforce_same_language, require_reasoning,
        prompts=columns.get("prompts"), all_cases=True,
    )  # fmt: skip


def binary_code_reward(
    completions: list,
    verification_info: Sequence,
    num_parallel: int | None = None,
    provider_type: str = "local",
    enforce_same_language: bool = False,
    require_reasoning: bool = False,
    **columns,
) -> list[float | None]:
    """1.0 if a completion's program passes every test case, else 0.0; None where it could not be judged.

    Arguments and errors are those of `code_reward`.
    """
    return _scores(
        completions, verification_info, num_parallel, provider_type, enforce_same_language, require_reasoning,
        prompts=columns.get("prompts"), all_cases=False,
    )  # fmt: skip


def _scores(
    completions: list,
    verification_info: Sequence,
    num_parallel: int | None,
    provider_type: str,
    enforce_same_language: bool,
    require_reasoning: bool,
    *,
    prompts: Sequence | None,
    all_cases: bool,
) -> list[float | None]:
    """The share of cases that each program passes if `all_cases` are run, else whether it passes them all."""
    if provider_type != "local":
        raise ValueError(f"provider_type must be local, found {provider_type!r}: programs run on this host")
    if len(verification_info) != len(completions):
        rows = f"{len(verification_info)} rows for {len(completions)} completions"
        raise ValueError(f"verification_info has {rows}")
    problems = [_problem(row) for row in verification_info]
    languages = sorted({problem.language for problem in problems if problem})
    if enforce_same_language and len(languages) > 1:
        raise ValueError(f"verification_info must be of one language, found {', '.join(languages)}")
    scores: list[float | None] = [None] * len(completions)
    jobs: dict[int, Job] = {}
    for row, (completion, problem) in enumerate(zip(completions, problems, strict=True)):
        if problem is None:
            continue
        begun = require_reasoning or (prompts is not None and begins_reasoning(completion_text(prompts[row])))
        source = program(completion_text(completion), problem.language, reasoning=begun)
        if source is None:
            scores[row] = 0.0
        else:
            jobs[row] = Job(source, problem.cases, problem.language)
    if jobs:
        judgements = judge(shared_sandbox(), list(jobs.values()), all_cases=all_cases, at_once=num_parallel)
        for row, judgement in zip(jobs, judgements, strict=True):
            if judgement.verdict is not Verdict.INFRA:
                passed_all = float(judgement.verdict is Verdict.OK)
                scores[row] = judgement.score if all_cases else passed_all
    return scores


def get_code_format_reward(language: str = "python") -> Callable[..., list[float]]:
    """A reward of 1.0 for the form of `format_reward` with a program in its answer, else 0.0.

    The program is a complete fenced block, not blank and labelled with the language ("```py" is Python too).
    A dataset column `language`, B names, takes the argument's place, as in open-r1.

    Raises:
        ValueError: a language that is not judged here.
    """
    language_name(language)

    def code_format_reward(completions: list, **columns) -> list[float]:
        languages = columns.get("language") or [language] * len(completions)
        return [
            float(has_code_form(completion_text(completion), name or language))
            for completion, name in zip(completions, languages, strict=True)
        ]

    return code_format_reward


def has_code_form(text: str, language: str = "python") -> bool:
    """True for one reasoning and one answer block with nothing around them, and a program in the answer."""
    wanted = language_name(language)
    return has_form(text) and any(
        block.closed and block.language == wanted and block.text.strip()
        for block in blocks(answer_part(text) or "")
    )


def _problem(verification_info: Any) -> Problem | None:
    """The problem of one row, or None if it cannot be judged; each reason is logged once."""
    try:
        return read_problem(verification_info)
    except ValueError as error:
        reason = str(error)
        if reason not in _logged and len(_logged) < 100:
            _logged.add(reason)
            _log.warning("a row cannot be judged: %s", reason)
        return None
