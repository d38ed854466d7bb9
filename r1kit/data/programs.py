r"""The embedded world's code track: the same stories, answered by a tiny Python program.

The program reads the story's first number, so that it must be right for any start::

    Ann has 7 apples. Ann gives away 3. Ann gets 9 more. How many apples does Ann have? Write Python that
    reads the 7.

    <think>
    Step 1: - 3
    Step 2: + 9
    </think>
    <answer>
    ```python
    n = int(input())
    print(n - 3 + 9)
    ```
    </answer>

Rows carry open-r1's `verification_info`: the language, and test cases (input and expected output). The first
case is the story's own start; a program that prints a constant passes no other case.

The teacher has two faults, as in `stories.py`. A slip is an operation with the wrong sign, which any test
finds. In a hurry it writes the story's number into the program (`n = 7`) instead of reading it. A single
test with the story's own start misses that, and a student that imitates it scores well until it is tested
with other starts. DeepSeek-R1 filtered its code data by running test cases too (paper section 2.3.3); weak
tests let such hard-coded answers into the data.

The code track leaves the tokenizer and the other datasets unchanged: words that the stories do not contain
take several tokens each, so a prompt has about 50 tokens and a completion 50 to 65.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from r1kit.data.format import user_prompt, write_answer
from r1kit.data.stories import LARGEST_VALUE, Problem, Trace, generate

Row = dict[str, Any]
PROGRAM_TRACES_SEED, PROGRAM_PROMPTS_SEED = 4_000_037, 5_000_011
"""Added to a run's seed, like the seeds in `datasets.py`."""
CASES = 3
"""Test cases per problem: the story's own start and two others."""


def build_program_traces(
    n: int,
    seed: int,
    levels: Sequence[int] = (1, 2, 3),
    slip_rate: float = 0.0,
    hurry_rate: float = 0.0,
    cases: int = CASES,
) -> list[Row]:
    """Build `n` traces for SFT as the teacher wrote them, right and wrong.

    Rows: `messages`, `problem`, `solution` (the answer for the story's own start), `verification_info`,
    `level`, `slips`, `hurried`.
    """
    rng = random.Random(f"program-teacher-{seed}")
    rows = []
    for problem in generate(n, seed + PROGRAM_TRACES_SEED, levels):
        trace = write_program(problem, rng, slip_rate, hurry_rate)
        messages = [*user_prompt(task(problem)), {"role": "assistant", "content": trace.text}]
        columns = {"level": problem.level, "slips": trace.slips, "hurried": trace.hurried}
        rows.append({"messages": messages, **_gold(problem, rng, cases), **columns})
    return rows


def build_program_prompts(
    n: int, seed: int, levels: Sequence[int] = (1, 2, 3), cases: int = CASES
) -> list[Row]:
    """Build `n` prompts for GRPO with their test cases.

    Rows: `prompt` (one user turn), `problem`, `solution` (the answer for the story's own start),
    `verification_info`, `level`.
    """
    rng = random.Random(f"program-cases-{seed}")
    return [
        {"prompt": user_prompt(task(problem)), **_gold(problem, rng, cases), "level": problem.level}
        for problem in generate(n, seed + PROGRAM_PROMPTS_SEED, levels)
    ]


def _gold(problem: Problem, rng: random.Random, cases: int) -> Row:
    info = verification_info(problem, rng, cases)
    return {"problem": problem.text, "solution": problem.solution, "verification_info": info}


def task(problem: Problem) -> str:
    """Write the prompt: the story, and the request for a program that reads its first number."""
    return f"{problem.text} Write Python that reads the {problem.start}."


def write_program(
    problem: Problem, rng: random.Random, slip_rate: float = 0.0, hurry_rate: float = 0.0
) -> Trace:
    """Write the teacher's completion.

    Each operation has the wrong sign with probability `slip_rate`; with probability `hurry_rate` the program
    does not read its start.
    """
    operations, slips = [], 0
    for sign, amount in problem.operations:
        slipped = rng.random() < slip_rate
        slips += slipped
        operations.append(f"{'+-'[sign == '+'] if slipped else sign} {amount}")
    hurried = rng.random() < hurry_rate
    start = problem.start if hurried else "int(input())"
    program = f"```python\nn = {start}\nprint(n {' '.join(operations)})\n```"
    steps = [f"Step {number}: {operation}" for number, operation in enumerate(operations, start=1)]
    return Trace(write_answer(steps, program), slips, hurried)


def verification_info(problem: Problem, rng: random.Random, cases: int = CASES) -> Row:
    r"""Return the test cases of a program for `problem`, in open-r1's schema.

    The first case has the story's own start, the others have different ones from which no operation leads
    below zero. They may lead above `LARGEST_VALUE`, which only limits the stories.

    Returns:
        `{"language": "python", "test_cases": [{"input": "7\n", "output": "13\n", "type": "stdin_stdout"},
        ...]}`

    Raises:
        ValueError: `cases` is below 1.
    """
    if cases < 1:
        raise ValueError(f"a program is judged by at least one test case, cases is {cases}")
    change = problem.values[-1] - problem.start
    lowest = problem.start - min(problem.values)
    others = [start for start in range(lowest, lowest + LARGEST_VALUE + cases) if start != problem.start]
    starts = [problem.start, *rng.sample(others, cases - 1)]
    test_cases = [
        {"input": f"{start}\n", "output": f"{start + change}\n", "type": "stdin_stdout"} for start in starts
    ]
    return {"language": "python", "test_cases": test_cases}


def own_case(info: Row) -> Row:
    """Keep only the case with the story's own start: a weak test, which a hard-coded number passes."""
    return {**info, "test_cases": info["test_cases"][:1]}
