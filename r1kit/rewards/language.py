r"""The reward for language consistency: the share of the reasoning's words that are in the target language.

DeepSeek-R1 (arXiv:2501.12948, section 2.3.2) adds it to its reinforcement learning because R1-Zero mixed
languages: `number of words in the target language / number of words`, over the chain of thought. The paper
does not say how words are told apart. Here it is by script, exactly and without a model:

- A word is one Chinese character, or a run of letters of any other script. It is English if all its letters
  are Latin, Chinese if it is a Chinese character. Most Chinese words have one or two characters, so
  Chinese weighs more in mixed text than a count of words would have it; at 0 and at 1 both agree.
- Numbers, single letters (variables), LaTeX commands, and Latin abbreviations up to three letters within
  `$...$`, `\(...\)` or `\[...\]` (sin, log, ABC) are no words. Longer ones are: a sentence hidden between
  dollars counts.
- **What it cannot see**: French, German, pinyin or nonsense are "English" to it; Japanese written in kanji
  is "Chinese" (its kana are not). It also cannot tell whether the words mean anything.
- Reasoning that never closes, or that has no word at all, earns 0.0: were silence consistent, a model would
  stop explaining. The paper reports a small loss of accuracy for this reward; readers prefer the result.

open-r1 has no such reward.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from r1kit.rewards.arguments import one_of
from r1kit.rewards.completions import completion_text
from r1kit.rewards.format import split_reasoning

# Unicode ranges, for use within a character class. Kana stand apart: they are written without spaces too.
HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
IDEOGRAPHS = HAN + KANA
LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"

_SCRIPTS = {"en": re.compile(f"[{LATIN}]+"), "zh": re.compile(f"[{HAN}]")}
_WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W\d_{IDEOGRAPHS}]{{2,}}")
_LATEX_NAME = re.compile(r"\\(?:begin|end)\{[a-zA-Z]{1,20}\*?\}|\\[a-zA-Z]+")
# Bounded, else a text of many opening signs and no closing one would take quadratic time.
_MATHS = re.compile(r"\$[^$\n]{1,400}\$|\\\([^\n]{1,400}?\\\)|\\\[.{1,400}?\\\]", re.DOTALL)
_ABBREVIATION = re.compile(r"(?<![^\W\d_])[A-Za-z]{1,3}(?![^\W\d_])")


def get_language_consistency_reward(language: str = "en") -> Callable:
    """The reward function `f(completions, **columns) -> list[float]`, values from 0 to 1.

    Args:
        language: "en" or "zh", the language of the reasoning.

    Raises:
        ValueError: another language.
    """
    reward = partial(_consistencies, _SCRIPTS[one_of("language", language, _SCRIPTS)])
    reward.__name__ = "language_consistency_reward"  # TRL names the metric after it
    return reward


def words(text: str) -> list[str]:
    """Words of text in order, without numbers, single letters and LaTeX."""
    prose = _MATHS.sub(lambda maths: _ABBREVIATION.sub(" ", _LATEX_NAME.sub(" ", maths[0])), text)
    return _WORD.findall(_LATEX_NAME.sub(" ", prose))


def _consistencies(script: re.Pattern[str], /, completions: list, **columns) -> list[float]:
    # Positional only: a dataset column may have any name.
    return [_consistency(script, completion_text(c)) for c in completions]


def _consistency(script: re.Pattern[str], text: str) -> float:
    reasoning, _ = split_reasoning(text) or ("", "")
    found = words(reasoning)
    return sum(bool(script.fullmatch(word)) for word in found) / len(found) if found else 0.0
