r"""The embedded world's code track: the same stories, answered by a tiny Python program.

The story's first number is what the program reads, so that it must hold for any start::

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

Rows carry open-r1's `verification_info`: the language, and test cases with what the program reads and must
print. The first case is the story's own start; a program that prints a constant can pass no other.

The teacher has two faults, as in `teacher.py`. It slips: an event is read with the wrong sign, which any test
finds. And it is often in a hurry: it writes the story's number into the program (`n = 7`) where it should
read it. A single test, the story's own, finds nothing wrong with that; a student that imitates it does well
until it is tested with other starts. DeepSeek-R1's code data was filtered by running test cases as well
(paper section 2.3.3), and weak tests are what lets hard-coded answers into such data.

Nothing here changes the tokenizer or the other datasets: words that the stories do not have are spelt in
pieces, and a prompt takes about 50 tokens, a completion 50 to 65.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from r1kit.data.format import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, user_prompt
from r1kit.data.stories import LARGEST_VALUE, Problem, Trace, generate

Row = dict[str, Any]
PROGRAM_TRACES_SEED, PROGRAM_PROMPTS_SEED = 4_000_037, 5_000_011
"""Added to a run's seed; the other sets' are in `datasets.py`."""

CASES = 3
"""Test cases of a problem: the story's own start and two others."""


def task(problem: Problem) -> str:
    """The prompt: the story, and that a program is wanted which reads the story's first number."""
    return f"{problem.text} Write Python that reads the {problem.start}."


def starts(problem: Problem, n: int, rng: random.Random) -> list[int]:
    """`n` different starts, the story's own first; with none of them anybody gives away what is not there.

    They may lead above `LARGEST_VALUE`: a program is not bound to the numbers that a story can tell.
    """
    lowest = problem.start - min(problem.values)
    others = [start for start in range(lowest, lowest + LARGEST_VALUE + n) if start != problem.start]
    return [problem.start, *rng.sample(others, n - 1)]


def verification_info(problem: Problem, rng: random.Random, cases: int = CASES) -> Row:
    r"""What a program for `problem` is judged by, in open-r1's schema.

    Returns:
        `{"language": "python", "test_cases": [{"input": "7\n", "output": "13\n", "type": "stdin_stdout"},
        ...]}`

    Raises:
        ValueError: `cases` is below 1.
    """
    if cases < 1:
        raise ValueError(f"a program is judged by at least one test case, cases is {cases}")
    change = problem.values[-1] - problem.start
    return {
        "language": "python",
        "test_cases": [
            {"input": f"{start}\n", "output": f"{start + change}\n", "type": "stdin_stdout"}
            for start in starts(problem, cases, rng)
        ],
    }


def own_case(info: Row) -> Row:
    """`verification_info` with the story's own start alone: a weak test, which a hard-coded number passes."""
    return {**info, "test_cases": info["test_cases"][:1]}


def write_program(
    problem: Problem, rng: random.Random, slip_rate: float = 0.0, hurry_rate: float = 0.0
) -> Trace:
    """The teacher's completion: each operation has the wrong sign with probability `slip_rate`, and with
    probability `hurry_rate` the program does not read its start.
    """
    steps, slips = [], 0
    for sign, amount in problem.operations:
        slipped = rng.random() < slip_rate
        slips += slipped
        steps.append(f"{'+-'[sign == '+'] if slipped else sign} {amount}")
    hurried = rng.random() < hurry_rate
    return Trace(_completion(steps, str(problem.start) if hurried else "int(input())"), slips, hurried)


def build_program_traces(
    n: int,
    seed: int,
    levels: Sequence[int] = (1, 2, 3),
    slip_rate: float = 0.0,
    hurry_rate: float = 0.0,
    cases: int = CASES,
) -> list[Row]:
    """`n` traces as the teacher wrote them, right and wrong, for SFT once a judge has looked at them.

    Rows: `messages`, `problem`, `solution` (the story's own end), `verification_info`, `level`, `slips`,
    `hurried`.
    """
    rng = random.Random(f"program-teacher-{seed}")
    rows = []
    for problem in generate(n, seed + PROGRAM_TRACES_SEED, levels):
        trace = write_program(problem, rng, slip_rate, hurry_rate)
        rows.append(
            {
                "messages": [*user_prompt(task(problem)), {"role": "assistant", "content": trace.text}],
                "problem": problem.text,
                "solution": problem.solution,
                "verification_info": verification_info(problem, rng, cases),
                "level": problem.level,
                "slips": trace.slips,
                "hurried": trace.hurried,
            }
        )
    return rows


def build_program_prompts(
    n: int, seed: int, levels: Sequence[int] = (1, 2, 3), cases: int = CASES
) -> list[Row]:
    """`n` prompts for GRPO with the cases to judge by.

    Rows: `prompt` (one user turn), `problem`, `solution` (the story's own end), `verification_info`, `level`.
    """
    rng = random.Random(f"program-cases-{seed}")
    return [
        {
            "prompt": user_prompt(task(problem)),
            "problem": problem.text,
            "solution": problem.solution,
            "verification_info": verification_info(problem, rng, cases),
            "level": problem.level,
        }
        for problem in generate(n, seed + PROGRAM_PROMPTS_SEED, levels)
    ]


def _completion(steps: list[str], start: str) -> str:
    thoughts = "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, start=1))
    program = f"```python\nn = {start}\nprint(n {' '.join(steps)})\n```"
    return f"{THINK_OPEN}\n{thoughts}\n{THINK_CLOSE}\n{ANSWER_OPEN}\n{program}\n{ANSWER_CLOSE}"
