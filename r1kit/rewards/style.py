r"""Rewards for the style of a completion: reasoning in steps, and no repetition.

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
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from r1kit.rewards.arguments import finite_number, one_of, whole_number
from r1kit.rewards.completions import completion_text
from r1kit.rewards.format import split_reasoning
from r1kit.rewards.language import IDEOGRAPHS

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
