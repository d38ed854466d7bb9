"""Rewards for the style of a completion: steps in the reasoning, no repetition; and the naive rewards.

Public names and arguments are open-r1's. The differences, and their reasons:

- **A step needs content of its own.** `First,Second,Next,` scored 1.0 in open-r1: three marks and nothing
  else. Here at least two words or numbers follow each mark, and a repeated step counts once.
- **Numbered lines count anywhere.** open-r1's pattern has `^` without re.MULTILINE, so a numbered list
  counted only at the very beginning: the 1., 2., 3. of a real solution earned nothing.
- **Only closed reasoning counts**: a list in the answer is not reasoning, and one that the length limit cut
  off is not finished.
- **Repetition in Chinese counts.** open-r1's registry never passes `language`, and splitting at white space
  sees one long Chinese word: pure repetition cost 0. Here each Chinese character counts as a word.
- **No jieba.** open-r1 splits Chinese into words with jieba's dictionary, a dependency whose words change
  with its version. Most Chinese words have one or two characters, so an n-gram here covers less text: use
  about one and a half times the ngram_size.
- **A positive max_penalty is refused** when the reward is made: it would reward repetition.

Both look at form, not meaning: three different idle remarks are three steps. Give them a small weight beside
accuracy.

The naive rewards are the first ones that come to mind, and the lesson 04b_rewards trains on one of them. Each
agrees with its hardened counterpart on honest answers and has a hole that training finds; do not train a
model to keep with them.

- `naive_code_reward` applies the mathematics reward to code: run the program, compare its output with the
  solution. It feeds no input, so a program that reads its input fails and one that prints the number of the
  story is paid. Over twelve steps of GRPO on cpu-tiny the share it pays rises from about 0.4 to 0.8 while the
  share of programs that pass their test cases falls to 0 (docs/experiments.md, 2026-11-24).
- `naive_accuracy_reward` searches the whole text for the solution: reasoning that lists candidates, or a
  `Step 3:`, is paid for a 3.
- `naive_steps_reward` is open-r1's `reasoning_steps` with its pattern: three marks earn the full reward,
  whatever is between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from r1kit.rewards.code import binary_code_reward
from r1kit.rewards.completions import completion_text, finite_number, one_of, whole_number
from r1kit.rewards.format import IDEOGRAPHS, split_reasoning

_FULL_STEPS = 3  # as in open-r1
_LEAST_WORDS = 2
_MARK = re.compile(
    r"\bStep \d+:|^[ \t]*(?:\d+[.)]|[-*•])[ \t]+|\b(?:First|Second|Third|Next|Then|Finally),", re.MULTILINE
)
_WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W_{IDEOGRAPHS}]+")

# In English, punctuation stays at its word as when splitting at white space, so that open-r1's values hold.
# Chinese has no spaces: a punctuation mark is a unit, and so is a Latin word or a number within it.
_UNITS = {
    "en": re.compile(rf"[{IDEOGRAPHS}]|[^\s{IDEOGRAPHS}]+"),
    "zh": re.compile(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+|[^\w\s]"),
}


def reasoning_steps_reward(completions: list, **columns) -> list[float]:
    """Return min(1, steps / 3) per completion, in {0, 1/3, 2/3, 1}, never None; open-r1's function name.

    A step begins at `Step 1:`, at a numbered or bulleted line, or at `First,`, `Second,`, `Third,`, `Next,`,
    `Then,` or `Finally,`, and ends where the next one begins.

    Args:
        completions: TRL's completions, B strings or B conversations.
        columns: the dataset's columns; not used.
    """
    return [min(1.0, count_steps(completion_text(c)) / _FULL_STEPS) for c in completions]


def count_steps(text: str) -> int:
    """Count the different steps with content in the closed reasoning of text."""
    reasoning, _ = split_reasoning(text) or ("", "")
    marks = list(_MARK.finditer(reasoning))
    ends = [mark.start() for mark in marks[1:]] + [len(reasoning)]
    contents = (reasoning[mark.end() : end] for mark, end in zip(marks, ends, strict=False))
    # Copies that differ in letter case, spaces, emphasis or punctuation at the ends are one step.
    return len(
        {
            "".join(content.casefold().split()).strip(".,;:!*#")
            for content in contents
            if len(_WORD.findall(content)) >= _LEAST_WORDS
        }
    )


def get_repetition_penalty_reward(ngram_size: int, max_penalty: float, language: str = "en") -> Callable:
    """Make the repetition penalty of Yeo et al. (arXiv:2502.03373); open-r1's function name.

    The reward `f(completions, **columns)` gives max_penalty * (1 - different n-grams / all n-grams) per
    completion: B values from max_penalty to 0, never None. It reads text, so it does not depend on the
    tokenizer; a completion shorter than one n-gram earns 0.

    Args:
        ngram_size: words per n-gram; characters in Chinese text.
        max_penalty: the limit for a completion that only repeats itself; 0 or less.
        language: "en" splits at white space (Chinese characters apart), "zh" also at punctuation.

    Raises:
        ValueError: an argument that is not allowed.
    """
    reward = partial(
        _penalties,
        whole_number("ngram_size", ngram_size, least=1),
        finite_number("max_penalty", max_penalty, most=0.0),
        one_of("language", language, _UNITS),
    )
    reward.__name__ = "repetition_penalty_reward"  # open-r1's name, after which TRL names the metric
    return reward


def repeated_share(text: str, ngram_size: int, language: str = "en") -> float:
    """Return the share of n-grams that occurred earlier in text, 0 to 1; 0.0 if text is shorter than one."""
    words = _UNITS[language].findall(text.lower())
    ngrams = list(zip(*(words[first:] for first in range(ngram_size)), strict=False))
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _penalties(
    ngram_size: int, max_penalty: float, language: str, /, completions: list, **columns
) -> list[float]:
    # The settings are positional only: a dataset's column `language` must not replace one.
    shares = [repeated_share(completion_text(c), ngram_size, language) for c in completions]
    return [share * max_penalty if share else 0.0 for share in shares]


_OPEN_R1_STEPS = re.compile(r"(Step \d+:|^\d+\.|\n-|\n\*|First,|Second,|Next,|Finally,)")


def naive_accuracy_reward(completions: list, solution: list[str], **columns) -> list[float]:
    """Return 1.0 where the solution occurs anywhere in the completion, else 0.0.

    Args:
        completions: TRL's completions, B strings or B conversations.
        solution: B solutions as text.
        columns: the dataset's other columns; not used.
    """
    return [
        float(str(gold) in completion_text(text)) for text, gold in zip(completions, solution, strict=True)
    ]


def naive_steps_reward(completions: list, **columns) -> list[float]:
    """Return min(1, marks / 3), where a mark is any match of open-r1's pattern for the start of a step."""
    return [min(1.0, len(_OPEN_R1_STEPS.findall(completion_text(text))) / 3) for text in completions]


def naive_code_reward(completions: list, solution: list[str], **columns) -> list[float | None]:
    """Return 1.0 where the completion's program, run without any input, prints the solution.

    It is `binary_code_reward` with one test case that has no input: only the test is naive, not the sandbox.

    Args:
        completions: TRL's completions, B strings or B conversations.
        solution: B solutions as text, which the program must print.
        columns: the dataset's other columns; `verification_info` is not used.

    Raises:
        SandboxError: no isolation works on this machine.
    """
    cases = [{"input": "", "output": f"{gold}\n", "type": "stdin_stdout"} for gold in solution]
    return binary_code_reward(completions, [{"language": "python", "test_cases": [case]} for case in cases])
