"""Judging programs by their cases: in the real sandbox, and with trouble injected by a scripted one."""

from __future__ import annotations

import threading

import pytest

from r1kit.sandbox import Execution, Limits, Sandbox, Verdict
from r1kit.sandbox.judge import Job, Judgement, VerdictCache, judge
from r1kit.sandbox.programs import Case
from tests.sandbox.hostile_calls import HOSTILE_CALLS, LEGAL_CALLS

QUICK = Limits(cpu_seconds=1, wall_seconds=2.0)
SUM = (Case("3 4\n", "7\n"), Case("10 20\n", "30\n"))
ADD = "a, b = map(int, input().split())\nprint(a + b)\n"
CALL = (Case("[3, 4]", "7", "add"),)


@pytest.fixture(scope="module", params=[False, True], ids=["spawn", "fork-server"])
def sandbox(request):
    with Sandbox(workers=2, fork_server=request.param, limits=QUICK) as started:
        yield started


def one(sandbox, program, cases=SUM, **options) -> Judgement:
    return judge(sandbox, [Job(program, cases)], cache=VerdictCache(), **options)[0]


class Scripted:
    """A sandbox whose executions are given by a function of (source, stdin)."""

    def __init__(self, answer, workers=2):
        self.answer, self.workers, self.limits, self.runs = answer, workers, Limits(), []

    def run(self, source, stdin=b"", *, limits=None):
        self.runs.append((source, stdin))
        said = self.answer(source, stdin)
        return said if isinstance(said, Execution) else Execution(said, stdout=b"7\n")


def test_a_right_program_passes_and_a_wrong_one_fails(sandbox):
    right, wrong, broken = judge(
        sandbox,
        [Job(ADD, SUM), Job("print(7)", SUM), Job("print(", SUM)],
        all_cases=True,
        cache=VerdictCache(),
    )
    assert (right.verdict, right.passed, right.total, right.score) == (Verdict.OK, 2, 2, 1.0)
    assert (wrong.verdict, wrong.verdicts, wrong.score) == (Verdict.WRONG, (Verdict.OK, Verdict.WRONG), 0.5)
    assert (broken.verdict, broken.score) == (Verdict.ERROR, 0.0)
    assert right.seconds > 0
    assert "case 1" in wrong.detail


@pytest.mark.parametrize(
    "program",
    [
        "",
        "pass",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "print()",
        "print(7); raise SystemExit(1)",
    ],
)
def test_a_program_that_prints_nothing_or_fails_at_the_end_has_failed(sandbox, program):
    assert one(sandbox, program, SUM[:1]).passed == 0


def test_the_first_correct_line_is_not_enough(sandbox):
    """open-r1 zipped the lines of both outputs: printing only the first one passed."""
    assert one(sandbox, "print(1)", (Case("", "1\n2\n3\n"),)).verdict is Verdict.WRONG


def test_one_time_out_does_not_void_the_other_cases(sandbox):
    """In open-r1 one case over its 5 s aborted the script, and the whole program earned 0."""
    program = "n = int(input())\nwhile n == 2: pass\nprint(n)"
    cases = tuple(Case(f"{n}\n", f"{n}\n") for n in (1, 2, 3))
    judged = one(sandbox, program, cases, all_cases=True)
    assert judged.verdicts[::2] == (Verdict.OK, Verdict.OK)
    assert judged.verdict in (Verdict.CPU, Verdict.TIMEOUT)
    assert judged.score == pytest.approx(2 / 3)


def test_output_beyond_the_limit_counts_unless_as_much_is_expected(sandbox):
    long = "x" * 100_000
    assert one(sandbox, "print('x' * 100_000)", (Case("", "x"),)).verdict is Verdict.OUTPUT
    assert one(sandbox, "print('x' * 100_000)", (Case("", long),)).verdict is Verdict.OK


def test_expected_outputs_never_enter_the_sandbox():
    seen = Scripted(lambda source, stdin: Verdict.OK)
    one(seen, ADD, (Case("1", "secret-a"),))
    one(seen, "def add(a): ...", (Case("[1]", '"secret-b"', "add"),))
    assert len(seen.runs) == 2
    assert not any("secret" in str(source) + stdin.decode() for source, stdin in seen.runs)


@pytest.mark.parametrize("program", LEGAL_CALLS.values(), ids=LEGAL_CALLS.keys())
def test_a_function_is_called_and_its_result_compared(sandbox, program):
    judged = one(sandbox, program, CALL)
    assert judged.verdict is Verdict.OK, judged.detail


@pytest.mark.parametrize("program", HOSTILE_CALLS.values(), ids=HOSTILE_CALLS.keys())
def test_no_trick_with_the_harness_earns_anything(sandbox, program):
    judged = one(sandbox, program, CALL)
    assert judged.passed == 0
    assert judged.verdict is not Verdict.INFRA, judged.detail  # which would be a way out of a 0


def test_the_first_failing_case_stops_and_cheap_cases_come_first():
    cases = (Case("9" * 50, "8"), Case("1", "8"), Case("22", "7"))
    stopped = Scripted(lambda source, stdin: Verdict.OK)
    assert one(stopped, ADD, cases).verdicts == (None, Verdict.WRONG, None)
    assert [stdin for _, stdin in stopped.runs] == [b"1"]
    everything = Scripted(lambda source, stdin: Verdict.OK)
    judged = one(everything, ADD, cases, all_cases=True)
    assert judged.verdicts == (Verdict.WRONG, Verdict.WRONG, Verdict.OK)
    assert judged.score == pytest.approx(1 / 3)


def test_a_program_that_is_always_late_is_not_run_for_ever():
    late = Scripted(lambda source, stdin: Verdict.TIMEOUT)
    judged = one(late, ADD, tuple(Case(str(n), "7") for n in range(20)), all_cases=True, patience=3)
    assert (len(late.runs), judged.score, judged.verdict) == (3, 0.0, Verdict.TIMEOUT)


def test_infra_is_tried_once_more_and_then_nothing_is_judged():
    lost = Scripted(lambda source, stdin: Verdict.INFRA if stdin == b"22" else Verdict.OK)
    cases = (Case("1", "7"), Case("22", "7"), Case("333", "7"))
    judged = one(lost, ADD, cases, all_cases=True)
    assert (judged.verdict, judged.score) == (Verdict.INFRA, None)
    assert [stdin for _, stdin in lost.runs] == [b"1", b"22", b"22"]
    answers = iter([Verdict.INFRA, Verdict.OK, Verdict.OK, Verdict.OK])
    assert one(Scripted(lambda *_: next(answers)), ADD, cases).verdict is Verdict.OK


def test_infra_of_one_program_leaves_the_others_judged(caplog):
    lost = Scripted(lambda source, stdin: Verdict.INFRA if source == "b" else Verdict.OK)
    jobs = [Job(name, (Case("1", "7"),)) for name in "abc"]
    scores = [judgement.score for judgement in judge(lost, jobs, cache=VerdictCache())]
    assert scores == [1.0, None, 1.0]
    assert "1 of 3 programs could not be judged" in caplog.text


def test_equal_programs_run_once_and_verdicts_are_remembered():
    cache, seen = VerdictCache(), Scripted(lambda *_: Verdict.OK)
    jobs = [Job(ADD, (Case("1", "7"),))] * 5
    assert [j.verdict for j in judge(seen, jobs, cache=cache)] == [Verdict.OK] * 5
    judge(seen, jobs, cache=cache)
    assert len(seen.runs) == 1
    judge(seen, jobs, cache=cache, limits=QUICK)  # other limits may give another verdict
    judge(seen, [Job(ADD, (Case("1", "8"),))], cache=cache)
    assert len(seen.runs) == 3


@pytest.mark.parametrize("verdict", [Verdict.INFRA, Verdict.TIMEOUT])
def test_what_may_come_out_otherwise_next_time_is_not_remembered(verdict):
    cache = VerdictCache()
    one_case = [Job(ADD, (Case("1", "7"),))]
    judge(Scripted(lambda *_: verdict), one_case, cache=cache)
    assert len(cache) == 0


def test_the_cache_is_bounded_and_forgets_the_least_used():
    cache = VerdictCache(size=2)
    for key in (b"a", b"b", b"a", b"c"):
        if cache.get(key) is None:
            cache.put(key, Verdict.OK, "")
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


def test_programs_are_judged_at_the_same_time_up_to_the_number_of_workers():
    met = threading.Barrier(3)  # three runs at once, or a BrokenBarrierError
    wide = Scripted(lambda *_: met.wait(10) >= 0 and Verdict.OK, workers=3)
    jobs = [Job(str(n), (Case("1", "7"),)) for n in range(6)]
    assert all(j.verdict is Verdict.OK for j in judge(wide, jobs, cache=VerdictCache()))


def test_a_fault_of_the_judge_itself_is_raised_and_not_judged():
    def broken(*_):
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        one(Scripted(broken), ADD)
    with pytest.raises(ValueError, match="at least one test case"):
        Job(ADD, ())
