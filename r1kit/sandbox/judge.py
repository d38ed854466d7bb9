"""Judge many programs by their test cases, over the workers of a sandbox: `judge`.

One process per case; outputs are compared outside the sandbox; a case that did not run counts as failed. The
cases of a program run one after the other from the smallest to the largest: a wrong program ends early, and
its verdict does not depend on the number of workers. Equal jobs run once, and verdicts are remembered. A
failure of the sandbox (`infra`) is retried once, then the program's score is None, never 0: open-r1 returned
0.0 whenever its cloud service failed, and one case over its time (5 s) voided the others.

Printed output is compared by line and by token:

- Blank lines and the amount of space between tokens do not count; line breaks do ("1 2" is not "1\n2").
- **The output must have every expected line and no other.** open-r1 (`rewards.py`, `evaluate_code`) zips the
  lines of both outputs, so printing only the first correct line passed.
- A number that is expected with a decimal point or an exponent is compared by value, everything else exactly:
  7 for 7.0 is right, 7.0 for 7 and 007 for 7 are not, nor is "Yes" for "YES". The tolerance is one millionth
  of the expected value, or half a unit of its last printed decimal but at most 1e-6: "0.333333" may be
  printed in full, while 0 is wrong for 0.0000001 (the usual `1e-6 * max(1, |x|)` of contest checkers lets it
  pass) and 0.3333 is wrong if two decimals are expected.

Results of functions arrive as JSON, so no object of the program (with an `__eq__` that is always true) is
compared; types count exactly: True is not 1, 2.0 is not 2, a tuple is a list, keys of a dict are strings. A
program can write anything to its output: it may print, exit, patch `json`, or find the harness in memory.
Therefore:

- The expected result is not in the sandbox. A forged line is worth no more than a wrong `return`.
- The result line starts with a mark drawn for this run, which must occur exactly once: several candidates are
  no result, and other output has no effect.
- A missing line, with exit code 0 or not (`os._exit(0)`, `sys.exit()`), is a failed case.
- After the line the process exits at once: `atexit`, threads and `__del__` add nothing.

The function is a name of the program, or a method of its class `Solution` (LeetCode's form). `__name__` is
not "__main__", so a program may also contain its own trial run. No imports are added to it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from r1kit.sandbox.execution import KIB, MIB, Execution, Limits, Verdict
from r1kit.sandbox.programs import Case
from r1kit.sandbox.runner import Sandbox

PATIENCE = 3
_LARGEST_OUTPUT = 8 * MIB
_SLOW = (Verdict.TIMEOUT, Verdict.CPU)
_log = logging.getLogger(__name__)


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
    """The verdict on one program.

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
    """Judge each job. Block until all are done; callable from any thread, also under a running event loop.

    Args:
        sandbox: where the programs run.
        jobs: programs with their cases.
        all_cases: run every case, for a fraction; else the first that fails ends a program.
        limits: for each case; None means the sandbox's own. More output is allowed where more is expected.
        patience: with this many cases over the time limit, the program ends even under `all_cases`, and the
            rest, all larger, count as failed. Twenty cases of an endless loop would take 80 s of a core.
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
            interrupted.set()  # wait for the runs in progress only
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

    A compiler gets hostile text (`#include </dev/zero>`, templates that never end), so it has limits of its
    own (COMPILER_LIMITS). A program that does not compile within them fails; a machine without a compiler is
    `infra`.
    """

    def __init__(self, sandbox: Sandbox, job: Job) -> None:
        self.sandbox, self.job = sandbox, job
        self._compiled = None, Execution(Verdict.INFRA)

    def run(self, stdin: bytes, limits: Limits, *, calls: bool = False) -> Execution:
        """Run once; with `calls`, call a function as standard input asks."""
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
    """Return (verdict, detail, seconds) of one case, remembered or run."""
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
    """Raise the output limit if more is expected; the program can learn from it only that length."""
    needed = min(_LARGEST_OUTPUT, 2 * len(case.expected) + KIB)
    return limits if needed <= limits.output_bytes else replace(limits, output_bytes=needed)


# Calling a function of the program.

_HARNESS = """
def _call(source):
    import json, os, sys, types
    dumps, write, leave = json.dumps, os.write, os._exit
    order = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    # A module of its own: dataclasses and typing look a class's module up by name.
    program = sys.modules["program"] = types.ModuleType("program")
    exec(compile(source, "program.py", "exec", dont_inherit=True), program.__dict__)
    name, arguments = order["function"], order["arguments"]
    if not hasattr(program, name) and hasattr(program, "Solution"):
        program = program.Solution()
    function = getattr(program, name)
    result = function(**arguments) if isinstance(arguments, dict) else function(*arguments)
    line = ("\\n" + order["mark"] + dumps(result) + "\\n").encode()
    try:
        sys.stdout.flush()
    except Exception:
        pass  # the program's own output does not matter
    while line:
        line = line[write(out, line):]
    leave(0)
"""


def call_source(program: str) -> str:
    """Return Python that calls a function of `program` as standard input asks, and prints the result."""
    return f"{_HARNESS}\n_call({program!r})\n"


def call_order(case: Case) -> tuple[str, bytes]:
    """Return (mark, standard input) for one call; a new mark each time."""
    mark = f"result {secrets.token_hex(16)} "
    order = {"mark": mark, "function": case.function, "arguments": json.loads(case.input)}
    return mark, json.dumps(order).encode()


def call_result(stdout: bytes, mark: str) -> tuple[bool, Any]:
    """Return (True, result) if exactly one well-formed line has the mark, else (False, None)."""
    token = mark.encode()
    if stdout.count(token) != 1:
        return False, None
    line = next((line for line in stdout.split(b"\n") if line.startswith(token)), b"")
    return parse_result(line[len(token) :])


def parse_result(line: bytes) -> tuple[bool, Any]:
    """Return (True, value) of a line of JSON; (False, None) for no JSON, or too deep or long a value."""
    try:
        return True, json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # no JSON or UTF-8, an integer of over 4300 digits, 1000 brackets
        return False, None


# Comparison.

RELATIVE = 1e-6
LARGEST_ABSOLUTE = 1e-6

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_LONGEST_NUMBER = 400  # characters; a longer token is compared as it stands


def same_output(stdout: bytes, expected: str) -> bool:
    """Compare printed output with the expected one. Output that is not UTF-8 is wrong."""
    try:
        found = stdout.decode("utf-8")
    except UnicodeDecodeError:
        return False
    found_lines, expected_lines = _tokens(found), _tokens(expected)
    return len(found_lines) == len(expected_lines) and all(
        len(found_line) == len(expected_line)
        and all(same_token(*pair) for pair in zip(found_line, expected_line, strict=True))
        for found_line, expected_line in zip(found_lines, expected_lines, strict=True)
    )


def same_token(found: str, expected: str) -> bool:
    """Compare one printed word with the expected one: by value for a decimal number, else exactly."""
    if found == expected:
        return True
    if not _is_number(expected) or not _is_number(found) or not any(sign in expected for sign in ".eE"):
        return False
    return close(float(found), expected)


def close(found: float, expected: str) -> bool:
    """Check that found is within the tolerance of a decimal number as it was written.

    Tolerance: max(1e-6 * |expected|, min(1e-6, half a unit of the last written decimal)).
    """
    value = float(expected)
    if not math.isfinite(value) or not math.isfinite(found):
        return found == value or (math.isnan(found) and math.isnan(value))
    mantissa, _, exponent = expected.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    written = 0.5 * 10.0 ** -min(max(decimals, 0), 300)
    return abs(found - value) <= max(RELATIVE * abs(value), min(LARGEST_ABSOLUTE, written))


def _is_number(token: str) -> bool:
    return len(token) <= _LONGEST_NUMBER and _NUMBER.fullmatch(token) is not None


def _tokens(text: str) -> list[list[str]]:
    """Return the words of each line that is not blank. Only ASCII space separates; U+00A0 does not."""
    lines = (re.split(r"[ \t\r\f\v]+", line.strip(" \t\r\f\v")) for line in text.split("\n"))
    return [words for words in lines if words != [""]]


def same_result(found: Any, expected: Any) -> bool:
    """Compare a function's result with the expected one; both are values that JSON can hold."""
    try:
        return _equal(found, expected)
    except RecursionError:
        return False


def _equal(found: Any, expected: Any) -> bool:
    if type(expected) is float:
        return type(found) in (int, float) and close(_float(found), repr(expected))
    if type(expected) in (list, tuple):
        return (
            type(found) in (list, tuple)
            and len(found) == len(expected)
            and all(_equal(*pair) for pair in zip(found, expected, strict=True))
        )
    if type(found) is not type(expected):
        return False
    if type(expected) is dict:
        return found.keys() == expected.keys() and all(_equal(found[key], expected[key]) for key in expected)
    return type(expected) in (str, int, bool, type(None)) and found == expected


def _float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


# Verdicts by hash of program, case and limits: groups repeat programs, epochs repeat problems.

CACHE_SIZE = 50_000  # verdicts; about 10 MB


class VerdictCache:
    """A bounded memory of verdicts; it drops the least recently used first. Thread-safe."""

    def __init__(self, size: int = CACHE_SIZE) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[Verdict, str]] = OrderedDict()

    def get(self, key: bytes) -> tuple[Verdict, str] | None:
        """Return (verdict, detail), or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: bytes, verdict: Verdict, detail: str) -> None:
        """Remember a verdict unless the next run may differ: a failure of the sandbox, a busy machine."""
        if verdict in (Verdict.INFRA, Verdict.TIMEOUT):
            return
        with self._lock:
            self._kept[key] = verdict, detail
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    def forked(self) -> None:
        """Renew the lock in the child of a fork, since another thread of the parent may have held it."""
        self._lock = threading.Lock()


def verdict_key(language: str, program: str, case: Case, limits: Limits) -> bytes:
    """Return a hash of everything that decides a verdict."""
    parts = (language, program, case.function, case.input, case.expected, repr(limits))
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


_remembered = VerdictCache()
os.register_at_fork(after_in_child=_remembered.forked)
