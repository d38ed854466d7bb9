"""Score programs: the share of test cases passed, all of them passed, and the form of the answer.

Public names and arguments are open-r1's (`src/open_r1/rewards.py`); programs run on this host, in
`r1kit.sandbox`, in one sandbox per process that the first program starts. The differences from open-r1:

- **A failure of the sandbox is None, not 0.0.** open-r1's direct E2B and Morph paths called the client with a
  wrong argument, caught the TypeError and gave every program 0.0 (its pull request #682), as they did on any
  failure of the cloud service.
- **A row that cannot be judged is None too**: no test cases (a ZeroDivisionError in open-r1), malformed ones,
  or a language that the sandbox does not run. Each reason is logged once.
- **A case passes only if all its lines are right**, and **a case over its time fails on its own**: open-r1
  accepted output whose first line was right, and one timeout voided the other cases (`sandbox/judge.py`).
- **The program is the one in the answer, after the reasoning** (`sandbox/programs.py`); no program is 0.0.
- **No event loop**: `asyncio.run` raised inside Jupyter. Everything here is threads and blocking calls.
- `binary_code_reward` stops at a program's first failing case; open-r1 runs all and asks for more than 0.99.
- `get_code_format_reward` matches the whole text: with re.MULTILINE, text after `</answer>` passed.
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
from r1kit.sandbox import Limits, Sandbox
from r1kit.sandbox.execution import MIB, Verdict
from r1kit.sandbox.judge import Job, judge
from r1kit.sandbox.programs import Problem, answer_part, blocks, language_name, program, read_problem
from r1kit.sandbox.runner import default_workers
from r1kit.settings.machine import SandboxSettings

_log = logging.getLogger(__name__)
_logged: set[str] = set()


def code_reward(
    completions: list,
    verification_info: Sequence,
    num_parallel: int | None = None,
    provider_type: str = "local",
    enforce_same_language: bool = False,
    require_reasoning: bool = False,
    *,
    prompts: Sequence | None = None,
    **columns,
) -> list[float | None]:
    """Return the share of its test cases that each completion's program passes; open-r1's `code_reward`.

    Args:
        completions: TRL's completions, B strings or B conversations.
        verification_info: B rows `{"language", "test_cases"}`, or their JSON (`sandbox/programs.py`).
        num_parallel: programs to run at the same time; None means one per worker of the sandbox.
        provider_type: "local", this host's sandbox; open-r1's cloud services are refused.
        enforce_same_language: refuse rows of more than one language.
        require_reasoning: count no program before `</think>`. Needed for chat templates that open the
            reasoning themselves, since a completion cut off inside it then holds no tag at all.
        prompts: B prompts; one that ends in `<think>` requires reasoning for its row.
        columns: the dataset's other columns; not used.

    Returns:
        B values in [0, 1]: 0.0 without a program, None where the row could not be judged.

    Raises:
        ValueError: another provider, a number of rows other than B, or several languages although
            `enforce_same_language` is set.
        SandboxError: no isolation works on this machine.
    """
    jobs = _jobs(
        completions, verification_info, provider_type, enforce_same_language, require_reasoning, prompts
    )
    return _scores(jobs, all_cases=True, at_once=num_parallel)


def binary_code_reward(
    completions: list,
    verification_info: Sequence,
    num_parallel: int | None = None,
    provider_type: str = "local",
    enforce_same_language: bool = False,
    require_reasoning: bool = False,
    *,
    prompts: Sequence | None = None,
    **columns,
) -> list[float | None]:
    """Return 1.0 for each completion that passes all its test cases; open-r1's `binary_code_reward`.

    Arguments and errors are those of `code_reward`. Values are 0.0 or 1.0, None where the row could not be
    judged.
    """
    jobs = _jobs(
        completions, verification_info, provider_type, enforce_same_language, require_reasoning, prompts
    )
    return _scores(jobs, all_cases=False, at_once=num_parallel)


def _jobs(
    completions: list,
    verification_info: Sequence,
    provider_type: str,
    enforce_same_language: bool,
    require_reasoning: bool,
    prompts: Sequence | None,
) -> list[Job | float | None]:
    """Return the program to judge in each row, or the row's score where there is nothing to run."""
    if provider_type != "local":
        raise ValueError(f"provider_type must be local, found {provider_type!r}: programs run on this host")
    if len(verification_info) != len(completions):
        rows = f"{len(verification_info)} rows for {len(completions)} completions"
        raise ValueError(f"verification_info has {rows}")
    problems = [_problem(row) for row in verification_info]
    languages = sorted({problem.language for problem in problems if problem})
    if enforce_same_language and len(languages) > 1:
        raise ValueError(f"verification_info must be of one language, found {', '.join(languages)}")
    jobs: list[Job | float | None] = []
    for row, (completion, problem) in enumerate(zip(completions, problems, strict=True)):
        if problem is None:
            jobs.append(None)
            continue
        begun = require_reasoning or (prompts is not None and begins_reasoning(completion_text(prompts[row])))
        source = program(completion_text(completion), problem.language, reasoning=begun)
        jobs.append(0.0 if source is None else Job(source, problem.cases, problem.language))
    return jobs


def _scores(jobs: list[Job | float | None], *, all_cases: bool, at_once: int | None) -> list[float | None]:
    """Return the share of cases passed if `all_cases` are run, else 1.0 or 0.0 for all of them passed."""
    scores = [None if isinstance(job, Job) else job for job in jobs]
    rows = [row for row, job in enumerate(jobs) if isinstance(job, Job)]
    if rows:
        judgements = judge(
            shared_sandbox(), [jobs[row] for row in rows], all_cases=all_cases, at_once=at_once
        )
        for row, judgement in zip(rows, judgements, strict=True):
            if judgement.verdict is not Verdict.INFRA:
                scores[row] = judgement.score if all_cases else float(judgement.verdict is Verdict.OK)
    return scores


def _problem(verification_info: Any) -> Problem | None:
    try:
        return read_problem(verification_info)
    except ValueError as error:
        reason = str(error)
        if reason not in _logged and len(_logged) < 100:
            _logged.add(reason)
            _log.warning("a row cannot be judged: %s", reason)
        return None


def get_code_format_reward(language: str = "python") -> Callable[..., list[float]]:
    """Make a reward for the form of `format_reward` with a program in the answer; open-r1's function name.

    The program is a complete fenced block with text in it, labelled with the language ("```py" is Python
    too). The reward gives 1.0 or 0.0 per completion, never None. A dataset column `language` of B names
    replaces the argument, as in open-r1.

    Raises:
        ValueError: the sandbox does not run this language.
    """
    language_name(language)

    def code_format_reward(completions: list, **columns) -> list[float]:
        languages = columns.get("language") or [language] * len(completions)
        return [
            float(has_code_form(completion_text(completion), name or language))
            for completion, name in zip(completions, languages, strict=True)
        ]

    return code_format_reward


def has_code_form(text: str, language: str) -> bool:
    """Check for one reasoning and one answer block with nothing around them, and a program in the answer."""
    # Here, because it loads the comparison of answers, which opening a stage does not need.
    from r1kit.rewards.format import has_form

    wanted = language_name(language)
    return has_form(text) and any(
        block.closed and block.language == wanted and block.text.strip()
        for block in blocks(answer_part(text) or "")
    )


# The sandbox that all code rewards of this process share: TRL calls a reward as a bare function and cannot
# pass one. It is closed at exit; the child of a fork starts brokers of its own.
_lock = threading.RLock()
_options: dict[str, Any] = {"fork_server": True}
_sandbox: Sandbox | None = None


def configure(*, fork_server: bool = True, **options: Any) -> None:
    """Set the options of the shared sandbox, as `Sandbox` takes them; close one that runs with others.

    Without `workers`, the LOCAL_WORLD_SIZE processes of a host share the usual number of workers: eight times
    all cores would make programs time out.
    """
    global _options
    with _lock:
        wanted = {"fork_server": fork_server, **options}
        if wanted != _options:
            close_shared()
            _options = wanted


def configure_by(settings: SandboxSettings) -> None:
    """Call `configure` with the section `sandbox` of machine.yaml."""
    options = settings.model_dump()
    limits = {key: options.pop(key) for key in ("cpu_seconds", "wall_seconds")}
    limits["memory_bytes"] = options.pop("memory_mb") * MIB
    configure(limits=Limits(**limits), **options)


def shared_sandbox() -> Sandbox:
    """Return the sandbox of this process, started on the first call.

    Raises:
        SandboxError: no tier of isolation works here, and `unsafe` was not configured.
    """
    from r1kit.rewards.verifier import local_processes

    global _sandbox
    with _lock:
        if _sandbox is None:
            workers = _options.get("workers") or max(1, default_workers() // local_processes())
            _sandbox = Sandbox(**{**_options, "workers": workers})
        return _sandbox


def close_shared() -> None:
    """End the shared sandbox, if there is one; the next program starts a new one."""
    global _sandbox
    with _lock:
        if _sandbox is not None:
            _sandbox.close()
        _sandbox = None


def _renew_lock() -> None:
    """In the child of a fork: another thread of the parent may have held the lock."""
    global _lock
    _lock = threading.RLock()


atexit.register(close_shared)
os.register_at_fork(after_in_child=_renew_lock)
