"""C++ programs: compiled once, run for each case."""

from __future__ import annotations

import shutil

import pytest

from r1kit.sandbox import Execution, Limits, Sandbox, Verdict, runner
from r1kit.sandbox.judge import Job, VerdictCache, judge
from r1kit.sandbox.programs import Case

CASES = (Case("3 4\n", "7\n"), Case("10 20\n", "30\n"))
ADD = '#include <cstdio>\nint main(){int a,b;scanf("%d %d",&a,&b);printf("%d\\n",a+b);}'
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")


def judged(sandbox, *programs):
    return judge(sandbox, [Job(p, CASES, "cpp") for p in programs], cache=VerdictCache(), all_cases=True)


@needs_compiler
def test_a_program_is_compiled_once_and_judged_by_every_case(monkeypatch):
    with Sandbox(workers=2, limits=Limits(cpu_seconds=1, wall_seconds=2.0)) as sandbox:
        compiled = []
        compile_ = sandbox.compile
        monkeypatch.setattr(sandbox, "compile", lambda *a, **k: compiled.append(a) or compile_(*a, **k))
        right, wrong, broken, crash = judged(
            sandbox, ADD, ADD.replace("a+b", "7"), ADD.replace(";", ""), "int main(){int *p=0;*p=1;}"
        )
        assert (right.verdict, right.score) == (Verdict.OK, 1.0)
        assert (wrong.verdict, wrong.score) == (Verdict.WRONG, 0.5)
        assert (broken.verdict, broken.score) == (Verdict.ERROR, 0.0)
        assert crash.verdict is Verdict.SIGNAL
        assert len(compiled) == 4


def test_a_machine_without_a_compiler_judges_nothing_and_says_so(monkeypatch):
    monkeypatch.setattr(runner.shutil, "which", lambda _: None)
    with Sandbox(workers=1) as sandbox:
        (judgement,) = judged(sandbox, ADD)
    assert (judgement.verdict, judgement.score) == (Verdict.INFRA, None)
    assert "no g++ on this machine" in judgement.detail


def test_trouble_while_compiling_is_tried_again_and_not_remembered():
    answers = [(None, Execution(Verdict.INFRA)), (b"binary", Execution(Verdict.OK))]

    class Flaky:
        workers, limits = 1, Limits()

        def compile(self, *_, **__):
            return answers.pop(0)

        def run_binary(self, binary, stdin, *, limits):
            return Execution(Verdict.OK, stdout=str(sum(map(int, stdin.split()))).encode())

    (judgement,) = judged(Flaky(), ADD)
    assert judgement.score == 1.0
