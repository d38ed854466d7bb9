"""Judging many programs by their test cases, over the workers of a sandbox.

One process per case; comparison outside of the sandbox; a case that was not run is a failed one. A program's
cases run from the smallest to the largest, so that a wrong one ends early, and one after the other, so that
its verdict does not depend on the number of workers. Equal jobs run once, and verdicts are remembered.

Trouble of ours (`infra`) is retried once, then the whole program is unjudged: its score is None, never 0.
open-r1 returned 0.0 whenever its cloud service failed, and one case over its time (5 s) voided the others.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from r1kit.sandbox.calls import call_order, call_result, call_source
from r1kit.sandbox.cases import Case
from r1kit.sandbox.compare import same_output, same_result
from r1kit.sandbox.runner import Sandbox
from r1kit.sandbox.verdict_cache import VerdictCache, verdict_key
from r1kit.sandbox.verdicts import KIB, MIB, Execution, Limits, Verdict

PATIENCE = 3
_LARGEST_OUTPUT = 8 * MIB
_SLOW = (Verdict.TIMEOUT, Verdict.CPU)
_log = logging.getLogger(__name__)
_remembered = VerdictCache()
os.register_at_fork(after_in_child=_remembered.forked)


@dataclass(frozen=True)
class Job:
    """One program and the cases it is judged by.

    Raises:
        ValueError: no cases.
    """

    program: str
    cases: tuple[Case, ...]
    language: str = "python"

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("a job needs at least one test case: without any, nothing can be judged")


@dataclass(frozen=True)
class Judgement:
    """How one program did.

    verdict: of the first case that failed, `ok` if none did, `infra` if it could not be judged.
    verdicts: of each case in the order given; None for those not run, which count as failed.
    seconds: of the program's runs together; what was remembered took none.
    detail: one line for a reader about `verdict`.
    """

    verdict: Verdict
    verdicts: tuple[Verdict | None, ...]
    seconds: float = 0.0
    detail: str = ""

    @property
    def total(self) -> int:
        """Number of cases."""
        return len(self.verdicts)

    @property
    def passed(self) -> int:
        """Number of cases that passed."""
        return self.verdicts.count(Verdict.OK)

    @property
    def score(self) -> float | None:
        """Share of cases passed, a fraction only if all were run (`all_cases`); None if not judged."""
        return None if self.verdict is Verdict.INFRA else self.passed / self.total


def judge(
    sandbox: Sandbox,
    jobs: Sequence[Job],
    *,
    all_cases: bool = False,
    limits: Limits | None = None,
    patience: int = PATIENCE,
    at_once: int | None = None,
    cache: VerdictCache | None = None,
) -> list[Judgement]:
    """Judge each job. Blocks until all are done; from any thread, with or without a running event loop.

    Args:
        sandbox: where the programs run.
        jobs: programs with their cases.
        all_cases: run every case, for a fraction; else the first that fails ends a program.
        limits: of each case; None means the sandbox's own. More output is allowed where more is expected.
        patience: this many cases over the time limit end a program even so: the rest, all of them larger,
            count as failed. Twenty cases of an endless loop would take 80 s of a core.
        at_once: programs at the same time; None means the sandbox's workers.
        cache: verdicts to use and extend; None means those of this process.
    """
    limits = limits or sandbox.limits
    cache = _remembered if cache is None else cache
    interrupted = threading.Event()

    def one(job: Job) -> Judgement:
        program = _Program(sandbox, job)
        verdicts: list[Verdict | None] = [None] * len(job.cases)
        first, why, seconds, slow = Verdict.OK, "", 0.0, 0
        for number in sorted(range(len(job.cases)), key=lambda n: len(job.cases[n].input)):
            if interrupted.is_set():
                return Judgement(Verdict.INFRA, tuple(verdicts), seconds, "interrupted")
            case = job.cases[number]
            verdict, detail, took = _case_verdict(program, case, _limits_for(case, limits), cache)
            verdicts[number] = verdict
            seconds += took
            slow += verdict in _SLOW
            if verdict is Verdict.INFRA:
                return Judgement(verdict, tuple(verdicts), seconds, detail)
            if verdict is not Verdict.OK and first is Verdict.OK:
                first, why = verdict, f"case {number}: {detail}"
            if first is not Verdict.OK and (not all_cases or slow >= patience):
                break
        return Judgement(first, tuple(verdicts), seconds, why)

    different = list(dict.fromkeys(jobs))
    workers = max(1, min(at_once or sandbox.workers, len(different)))
    with ThreadPoolExecutor(workers, thread_name_prefix="judge") as pool:
        try:
            done = dict(zip(different, pool.map(one, different), strict=True))
        except BaseException:
            interrupted.set()  # wait for the runs under way, not for all that are left
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    unjudged = [judgement for judgement in done.values() if judgement.verdict is Verdict.INFRA]
    if unjudged:
        _log.warning(
            "%d of %d programs could not be judged: %s", len(unjudged), len(done), unjudged[0].detail
        )
    return [done[job] for job in jobs]


class _Program:
    """A job's program in the sandbox. C++ is compiled once, inside the sandbox, before its first case.

    A compiler is a large program fed with hostile text (`#include </dev/zero>`, templates that never end), so
    it has limits of its own (COMPILER_LIMITS). What does not compile within them is the program's fault; a
    machine without a compiler is not, and says so as `infra`.
    """

    def __init__(self, sandbox: Sandbox, job: Job) -> None:
        self.sandbox, self.job = sandbox, job
        self._compiled = None, Execution(Verdict.INFRA)

    def run(self, stdin: bytes, limits: Limits, *, calls: bool = False) -> Execution:
        """One run; `calls`: of a function, as standard input asks."""
        if self.job.language != "cpp":
            source = call_source(self.job.program) if calls else self.job.program
            return self.sandbox.run(source, stdin, limits=limits)
        if self._compiled[1].verdict is Verdict.INFRA:
            self._compiled = self.sandbox.compile(self.job.program)
        binary, execution = self._compiled
        return execution if binary is None else self.sandbox.run_binary(binary, stdin, limits=limits)


def _case_verdict(
    program: _Program, case: Case, limits: Limits, cache: VerdictCache
) -> tuple[Verdict, str, float]:
    """(verdict, why, seconds) of one case, remembered or run."""
    key = verdict_key(program.job.language, program.job.program, case, limits)
    if known := cache.get(key):
        return *known, 0.0
    execution = _judged(program, case, limits)
    if execution.verdict is Verdict.INFRA:
        execution = _judged(program, case, limits)
    cache.put(key, execution.verdict, execution.detail)
    return execution.verdict, execution.detail, execution.seconds


def _judged(program: _Program, case: Case, limits: Limits) -> Execution:
    """Run one case and compare; the verdict of a run that ended well becomes `ok` or `wrong`."""
    if not case.function:
        execution = program.run(case.input.encode("utf-8", "surrogatepass"), limits)
        right, detail = same_output(execution.stdout, case.expected), "another output than expected"
        if not execution.stdout.strip():
            right, detail = False, "no output"
    else:
        mark, order = call_order(case)
        execution = program.run(order, limits, calls=True)
        found, result = call_result(execution.stdout, mark)
        right = found and any(same_result(result, value) for value in case.accepted())
        detail = "another result than expected" if found else "not exactly one result"
    if execution.verdict is not Verdict.OK or right:
        return execution
    return replace(execution, verdict=Verdict.WRONG, detail=detail)


def _limits_for(case: Case, limits: Limits) -> Limits:
    """Room for an expected output that is longer than the limit; its length is all that the limit tells."""
    needed = min(_LARGEST_OUTPUT, 2 * len(case.expected) + KIB)
    return limits if needed <= limits.output_bytes else replace(limits, output_bytes=needed)
