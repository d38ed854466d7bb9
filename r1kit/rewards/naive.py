"""Rewards as they are first written, kept to be fooled: the lesson 04b_rewards trains on one of them.

Each looks right, agrees with its hardened sibling on honest answers, and has a hole that training finds. None
of them is meant for a model that anybody wants to keep.

- `naive_code_reward` is the mathematics reward carried over to code: run the program, compare what it prints
  with the solution. Nothing is fed to it, so a program that reads its input dies and one that hard-codes the
  number of the story is paid. Over twelve steps of GRPO on cpu-tiny the share it pays rises from about 0.4 to
  0.8 while the share of programs that pass their test cases falls to 0 (docs/experiments.md, 2026-11-24).
- `naive_accuracy_reward` looks for the solution anywhere in the text: reasoning that lists candidates, or a
  `Step 3:`, is paid for a 3.
- `naive_steps_reward` is open-r1's `reasoning_steps` (`src/open_r1/rewards.py`), pattern and all: three marks
  are full marks, whatever stands between them.
"""

from __future__ import annotations

import re

from r1kit.rewards.code import binary_code_reward
from r1kit.rewards.completions import completion_text

_OPEN_R1_STEPS = re.compile(r"(Step \d+:|^\d+\.|\n-|\n\*|First,|Second,|Next,|Finally,)")


def naive_accuracy_reward(completions: list, solution: list[str], **columns) -> list[float]:
    """1.0 where the solution occurs somewhere in the completion.

    Args:
        completions: TRL's completions, B strings or B conversations.
        solution: B solutions as text.
        columns: the dataset's other columns; not used.
    """
    return [
        float(str(gold) in completion_text(text)) for text, gold in zip(completions, solution, strict=True)
    ]


def naive_steps_reward(completions: list, **columns) -> list[float]:
    """min(1, marks / 3), where a mark is whatever open-r1's pattern takes for the beginning of a step."""
    return [min(1.0, len(_OPEN_R1_STEPS.findall(completion_text(text))) / 3) for text in completions]


def naive_code_reward(completions: list, solution: list[str], **columns) -> list[float | None]:
    """1.0 where the completion's program, run without any input, prints the solution.

    It is `binary_code_reward` with a single test case that feeds nothing: the sandbox is the same, the test
    alone is what is wrong.

    Args:
        completions: TRL's completions, B strings or B conversations.
        solution: B solutions as text, what the program must print.
        columns: the dataset's other columns; `verification_info` is not looked at.

    Raises:
        SandboxError: nothing isolates programs on this machine.
    """
    return binary_code_reward(completions, verification_info=[_without_input(str(gold)) for gold in solution])


def _without_input(gold: str) -> dict:
    case = {"input": "", "output": f"{gold}\n", "type": "stdin_stdout"}
    return {"language": "python", "test_cases": [case]}
