"""Rewards for programs: the share of test cases passed, all of them passed, and the form of the answer.

Public names and arguments are open-r1's (`src/open_r1/rewards.py`); programs run on this host, in
`r1kit.sandbox`. Where they judge differently, and why:

- **Trouble of ours is None, not 0.0.** Its direct E2B and Morph paths called the client with a wrong
  argument, caught the TypeError and gave every program 0.0 (its pull request #682); so did any failure of the
  cloud service.
- **A row that cannot be judged is None too**: no test cases (there a ZeroDivisionError), malformed ones, a
  language that is not judged here. The reason is logged, once for each.
- **A case passes only if all its lines are right**; there the first correct line was enough
  (`sandbox/judge.py`).
- **A case over its time fails alone**; there it voided the program's other cases (`sandbox/judge.py`).
- **The program is what the answer gives after the reasoning** (`sandbox/programs.py`); no program is 0.0.
- **No event loop**: `asyncio.run` raised inside Jupyter. All of this is threads and blocking calls.
- `binary_code_reward` stops at a program's first failing case; open-r1 runs all and asks for more than 0.99.
- `get_code_format_reward` matches the whole text: with re.MULTILINE, anything after `</answer>` passed.

The one sandbox of this process that the code rewards share: started by the first program, closed at exit.

TRL calls a reward as a bare function, so there is nobody to hand a sandbox to it.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from r1kit.data.format import begins_reasoning
from r1kit.rewards.completions import completion_text
from r1kit.rewards.format import has_form
from r1kit.sandbox import Limits, Sandbox
from r1kit.sandbox.execution import MIB, Verdict
from r1kit.sandbox.judge import Job, judge
from r1kit.sandbox.programs import Problem, answer_part, blocks, language_name, program, read_problem
from r1kit.sandbox.runner import default_workers
from r1kit.settings.machine import SandboxSettings

_lock = threading.RLock()
_options: dict[str, Any] = {"fork_server": True}  # what the next shared sandbox is started with
_sandbox: Sandbox | None = None  # in the child of a fork it starts brokers of its own


def configure(*, fork_server: bool = True, **options: Any) -> None:
    """Set the options of the shared sandbox, as `Sandbox` takes them; one that runs with others is closed.

    Without `workers` a process takes its share of the sandbox's usual number: LOCAL_WORLD_SIZE processes
    share a host, and eight times all cores would make programs time out.
    """
    global _options
    with _lock:
        wanted = {"fork_server": fork_server, **options}
        if wanted != _options:
            close_shared()
            _options = wanted


def configure_by(settings: SandboxSettings) -> None:
    """`configure` with `sandbox` of machine.yaml."""
    options = settings.model_dump()
    limits = {key: options.pop(key) for key in ("cpu_seconds", "wall_seconds")}
    limits["memory_bytes"] = options.pop("memory_mb") * MIB
    configure(limits=Limits(**limits), **options)


def shared_sandbox() -> Sandbox:
    """The sandbox of this process, started if need be.

    Raises:
        SandboxError: no tier of isolation works here, and `unsafe` was not configured.
    """
    global _sandbox
    with _lock:
        if _sandbox is None:
            workers = _options.get("workers") or share_of_workers()
            _sandbox = Sandbox(**{**_options, "workers": workers})
        return _sandbox


def close_shared() -> None:
    """End the shared sandbox, if there is one; the next program starts a new one."""
    global _sandbox
    with _lock:
        if _sandbox is not None:
            _sandbox.close()
        _sandbox = None


def share_of_workers() -> int:
    """The sandbox's usual number of workers, divided by the processes that share this host; at least one."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, default_workers() // max(1, int(processes) if processes.isdigit() else 1))


def _renew_lock() -> None:
    """In the child of a fork: another thread may have held the lock."""
    global _lock
    _lock = threading.RLock()


atexit.register(close_shared)
os.register_at_fork(after_in_child=_renew_lock)


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
        verification_info: B rows `{"language", "test_cases"}`, or their JSON (`sandbox/programs.py`).
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
