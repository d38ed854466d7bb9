from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest

from r1kit.data.datasets import build_heldout, check_disjoint
from r1kit.data.programs import (
    CASES,
    build_program_prompts,
    build_program_traces,
    own_case,
    task,
    verification_info,
    write_program,
)
from r1kit.data.stories import generate

PROBLEMS = generate(300, 0, [1, 2, 3, 4, 5])


def program_of(completion):
    return re.search(r"```python\n(.*)\n```", completion, re.DOTALL)[1]


def run(program, given):
    """What the program prints for one number on its standard input."""
    printed = []
    exec(program, {"input": lambda: given, "print": printed.append})
    return f"{printed[0]}\n"


def passed(program, info):
    return [run(program, case["input"]) == case["output"] for case in info["test_cases"]]


def test_a_careful_program_passes_every_case():
    rng = random.Random(0)
    for problem in PROBLEMS:
        program = program_of(write_program(problem, rng).text)
        assert all(passed(program, verification_info(problem, rng)))


def test_a_program_that_hard_codes_the_start_passes_the_story_s_own_case_and_no_other():
    rng = random.Random(1)
    for problem in PROBLEMS:
        trace = write_program(problem, rng, hurry_rate=0.999)
        if trace.hurried:
            info = verification_info(problem, rng, cases=4)
            assert passed(program_of(trace.text), info) == [True, False, False, False]
            assert passed(program_of(trace.text), own_case(info)) == [True]


def test_one_slip_fails_every_case():
    rng = random.Random(2)
    slipped = [(p, write_program(p, rng, slip_rate=0.3)) for p in PROBLEMS]
    ones = [(p, trace) for p, trace in slipped if trace.slips == 1]
    assert len(ones) > 50
    assert not any(any(passed(program_of(t.text), verification_info(p, rng))) for p, t in ones)


def test_the_first_case_is_the_story_s_own_and_no_case_takes_away_what_is_not_there():
    rng = random.Random(3)
    for problem in PROBLEMS:
        cases = verification_info(problem, rng, cases=5)["test_cases"]
        assert cases[0] == {
            "input": f"{problem.start}\n", "output": f"{problem.solution}\n", "type": "stdin_stdout"
        }  # fmt: skip
        starts = [int(case["input"]) for case in cases]
        assert len(set(starts)) == 5
        assert all(start - problem.start + min(problem.values) >= 0 for start in starts)


def test_a_problem_without_cases_is_refused():
    with pytest.raises(ValueError, match="at least one test case, cases is 0"):
        verification_info(PROBLEMS[0], random.Random(0), cases=0)


def test_the_prompt_names_the_number_that_the_program_must_read():
    problem = PROBLEMS[0]
    assert task(problem) == f"{problem.text} Write Python that reads the {problem.start}."


def test_rows_hold_what_training_reads_and_the_same_seed_gives_the_same_rows():
    traces = build_program_traces(50, 0, slip_rate=0.1, hurry_rate=0.5)
    prompts = build_program_prompts(50, 0)
    assert [message["role"] for message in traces[0]["messages"]] == ["user", "assistant"]
    assert [message["role"] for message in prompts[0]["prompt"]] == ["user"]
    assert {len(row["verification_info"]["test_cases"]) for row in traces + prompts} == {CASES}
    assert 0.2 < sum(row["hurried"] for row in traces) / 50 < 0.8
    assert traces == build_program_traces(50, 0, slip_rate=0.1, hurry_rate=0.5)
    assert prompts == build_program_prompts(50, 0)
    assert traces != build_program_traces(50, 1, slip_rate=0.1, hurry_rate=0.5)


def test_no_program_is_asked_for_a_heldout_story():
    heldout = build_heldout(100, seed=0, levels=[1, 2])
    for rows in (build_program_traces(3000, 0, [1, 2]), build_program_prompts(3000, 0, [1, 2])):
        assert check_disjoint([{"problem": row["problem"]} for row in rows], heldout) == 200


def test_importing_the_programs_loads_no_heavy_library():
    code = "import sys, r1kit.data.programs"
    code += ";assert not {'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
