"""Rewards for the style of a completion: reasoning in steps, and no repetition.

Public names and arguments are open-r1's. Where they judge differently, and why:

- **A step has content, and content of its own.** `First,Second,Next,` scored 1.0 in open-r1: three marks and
  nothing said. Here at least two words or numbers follow each mark, and a repeated step counts once.
- **Numbered lines count anywhere.** Its pattern has `^` without re.MULTILINE, so a numbered list counted only
  if it was the very first thing written: the 1., 2., 3. of a real solution earned nothing.
- **Only the reasoning counts**, once it is closed: steps in the answer are no reasoning, and a list cut off
  at the length limit is no finished one.
- **The repetition of Chinese is seen.** open-r1's registry never passes `language` on, and splitting at white
  space sees one long Chinese word: nothing but repetition cost 0. Here each Chinese character counts by
  itself in either language.
- **No jieba.** open-r1 splits Chinese into words by jieba's dictionary, one more dependency whose words
  change with its version. Most Chinese words have one or two characters, so an n-gram here spans less text:
  take about one and a half times the ngram_size.
- **A positive max_penalty is refused** when the reward is made: it would reward repetition.

Both see form, not sense: three different idle remarks are three steps. Weigh them lightly, beside accuracy.

Rewards as they are first written, kept to be fooled: the lesson 04b_rewards trains on one of them.

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
from collections.abc import Callable
from functools import partial

from r1kit.rewards.code import binary_code_reward
from r1kit.rewards.completions import completion_text, finite_number, one_of, whole_number
from r1kit.rewards.format import IDEOGRAPHS, split_reasoning

FULL = 3  # steps, as in open-r1
_LEAST_WORDS = 2
_MARK = re.compile(
    r"\bStep \d+:|^[ \t]*(?:\d+[.)]|[-*•])[ \t]+|\b(?:First|Second|Third|Next|Then|Finally),", re.MULTILINE
)
_WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W_{IDEOGRAPHS}]+")

# English keeps punctuation at its word, as splitting at white space does, so that open-r1's values hold.
# Chinese is written without spaces: its punctuation is a unit, and a Latin word or a number within it is one.
_UNITS = {
    "en": re.compile(rf"[{IDEOGRAPHS}]|[^\s{IDEOGRAPHS}]+"),
    "zh": re.compile(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+|[^\w\s]"),
}


def reasoning_steps_reward(completions: list, **columns) -> list[float]:
    """min(1, steps / 3) of each completion, in {0, 1/3, 2/3, 1}.

    A step begins at `Step 1:`, at a numbered or bulleted line, or at `First,`, `Second,`, `Third,`, `Next,`,
    `Then,` or `Finally,`, and goes on to the next of them.

    Args:
        completions: TRL's completions, B strings or B conversations.
        columns: the dataset's columns; not used.
    """
    return [min(1.0, count_steps(completion_text(c)) / FULL) for c in completions]


def count_steps(text: str) -> int:
    """Number of different steps with content in the closed reasoning of text."""
    reasoning, _ = split_reasoning(text) or ("", "")
    marks = list(_MARK.finditer(reasoning))
    ends = [mark.start() for mark in marks[1:]] + [len(reasoning)]
    contents = (reasoning[mark.end() : end] for mark, end in zip(marks, ends, strict=False))
    return len({_same(content) for content in contents if len(_WORD.findall(content)) >= _LEAST_WORDS})


def _same(content: str) -> str:
    """Content without what a copy could differ in: letter case, spaces, emphasis, punctuation at its ends."""
    return "".join(content.casefold().split()).strip(".,;:!*#")


def get_repetition_penalty_reward(ngram_size: int, max_penalty: float, language: str = "en") -> Callable:
    """The reward function `f(completions, **columns) -> list[float]`, values from max_penalty to 0.

    max_penalty * (1 - different n-grams / all n-grams) of each completion, after Yeo et al.
    (arXiv:2502.03373) as open-r1 writes it. It reads the text, so that it means the same for every
    tokenizer; a completion shorter than one n-gram earns 0.

    Args:
        ngram_size: words of an n-gram; characters in Chinese text.
        max_penalty: what a completion approaches that only repeats itself; 0 or less.
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
    """Share of the n-grams of text that occurred before in it, 0 to 1; 0.0 if text is shorter than one."""
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
