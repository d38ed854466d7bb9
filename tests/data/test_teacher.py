from __future__ import annotations

import random

from r1kit.data.stories import Problem, generate, write_trace
from tests.data.answers import boxed

PROBLEM = Problem("", "Ann", "apples", 7, (("-", 3), ("+", 9)), ())


def test_a_careful_teacher_writes_the_documented_format():
    trace = write_trace(PROBLEM, random.Random(0))
    assert trace.slips == 0
    assert trace.text == (
        "<think>\nStep 1: 7 - 3 = 4\nStep 2: 4 + 9 = 13\n</think>\n<answer>\n\\boxed{13}\n</answer>"
    )


def test_a_careful_teacher_is_always_right():
    rng = random.Random(0)
    assert all(boxed(write_trace(p, rng).text) == p.solution for p in generate(300, seed=1))


def test_slips_come_at_the_stated_rate_and_are_carried_on():
    rng = random.Random(0)
    problems = generate(4000, seed=1, levels=[2])
    traces = [write_trace(p, rng, 0.2) for p in problems]
    assert 0.18 < sum(t.slips for t in traces) / 8000 < 0.21
    wrong = [t for t, p in zip(traces, problems, strict=True) if boxed(t.text) != p.solution]
    assert wrong
    assert all(t.slips for t in wrong)


def test_a_hurried_teacher_writes_no_steps_but_works_as_well_in_its_head():
    trace = write_trace(PROBLEM, random.Random(0), hurry_rate=1.0)
    assert trace.hurried
    assert trace.text == "<think>\nI can see it.\n</think>\n<answer>\n\\boxed{13}\n</answer>"
    rng = random.Random(0)
    hurried = [write_trace(p, rng, hurry_rate=0.5).hurried for p in generate(2000, seed=1)]
    assert 0.46 < sum(hurried) / 2000 < 0.54


def test_two_slips_can_cancel_and_leave_a_right_answer():
    rng = random.Random(0)
    pairs = [(write_trace(p, rng, 0.5), p) for p in generate(500, seed=1, levels=[3])]
    assert any(t.slips and boxed(t.text) == p.solution for t, p in pairs)
