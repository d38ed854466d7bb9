r"""Rewards for the form of a completion: reasoning between its tags, then the answer; and its language.

Public names of the form rewards are open-r1's. The differences, and their reasons:

- `format_reward` matches the whole text. open-r1's pattern ends in `$` with re.MULTILINE, so **any text after
  `</answer>`** and any number of further blocks passed.
- Every tag must occur exactly once: duplicate and nested tags passed in open-r1.
- Both blocks must have content. DeepSeek's model card reports that R1 skips its reasoning with
  `<think>\n\n</think>`; such a completion must not earn the reward for reasoning.
- `tag_count_reward` checks the order: in open-r1 an answer before the reasoning scored 1.0. A repeated tag
  makes the whole reward 0: in open-r1 it cost a quarter, so nesting was the cheapest mistake.
- `think_format_reward` is R1's own form, which open-r1's `format` always scores 0 (its issues #235, #256,
  #489 and #560: a reward stuck at 0 on R1's distilled models, which write no `<answer>`). TRL's reward of
  the same name asks for no answer, and accepts reasoning that is empty or closed twice.

Language consistency is not in open-r1. DeepSeek-R1 (arXiv:2501.12948, section 2.3.2) adds it because R1-Zero
mixed languages: `words in the target language / words`, over the chain of thought. The paper does not say how
words are told apart, and reports a small loss of accuracy. Here scripts decide, without a model:

- A word is one Chinese character, or a run of letters of any other script. It is English if all its letters
  are Latin. Most Chinese words have one or two characters, so Chinese weighs more in mixed text than in a
  count of words; at 0 and at 1 both agree.
- Numbers, single letters (variables), LaTeX commands, and Latin abbreviations up to three letters within
  `$...$`, `\(...\)` or `\[...\]` (sin, log, ABC) do not count. Longer words there do: a sentence between
  dollars is text.
- **Not detected**: French, German, pinyin and nonsense count as English, Japanese written in kanji (not kana)
  as Chinese.
- Reasoning that never closes, or without words, earns 0.0, or else a model would stop explaining.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from r1kit.data.format import ANSWER_CLOSE, ANSWER_OPEN, TAGS, THINK_CLOSE, THINK_OPEN
from r1kit.rewards.accuracy import boxed
from r1kit.rewards.completions import completion_text, one_of

_FORM = re.compile(
    rf"{THINK_OPEN}\n(?P<reasoning>.*?)\n{THINK_CLOSE}\n{ANSWER_OPEN}\n(?P<answer>.*?)\n{ANSWER_CLOSE}",
    re.DOTALL,
)
_TAG_LINES = (f"{THINK_OPEN}\n", f"\n{THINK_CLOSE}\n", f"\n{ANSWER_OPEN}\n", f"\n{ANSWER_CLOSE}")


def format_reward(completions: list, **columns) -> list[float]:
    r"""Return 1.0 for exactly `<think>\n...\n</think>\n<answer>\n...\n</answer>`, else 0.0, never None.

    The name is open-r1's.

    Args:
        completions: TRL's completions, B strings or B conversations.
        columns: the dataset's columns; not used.
    """
    return [float(has_form(completion_text(c))) for c in completions]


def has_form(text: str) -> bool:
    """Check for one reasoning and one answer block, neither blank, and nothing around them."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    match = _FORM.fullmatch(text)
    return bool(match and match["reasoning"].strip() and match["answer"].strip())


def tag_count_reward(completions: list, **columns) -> list[float]:
    """Return 0.25 for each of the four tags on its own line; 0.0 if one is repeated or out of order.

    B values in {0, 0.25, 0.5, 0.75, 1}, never None; the name is open-r1's. The partial credit guides an
    untrained model towards the form that `format_reward` demands in full.

    Args:
        completions: TRL's completions, B strings or B conversations.
        columns: the dataset's columns; not used.
    """
    return [_tag_count(completion_text(c)) for c in completions]


def _tag_count(text: str) -> float:
    if any(text.count(tag) > 1 for tag in TAGS):
        return 0.0
    places = [text.find(tag) for tag in _TAG_LINES if tag in text]
    return 0.25 * len(places) if places == sorted(places) else 0.0


def think_format_reward(completions: list, **columns) -> list[float]:
    r"""Return 1.0 for R1's own form, `<think>...</think>` and an answer with one `\boxed{...}`, else 0.0.

    Never None. The name is TRL's. The opening tag may be missing for every model, because a chat template
    that ends in `<think>\n` (as with R1's distilled models) puts it into the prompt, which a reward does not
    see. `<answer>` blocks belong to the other form and break this one.

    Args:
        completions: TRL's completions, B strings or B conversations.
        columns: the dataset's columns; not used.
    """
    return [float(has_think_form(completion_text(c))) for c in completions]


def has_think_form(text: str) -> bool:
    r"""Check for one reasoning block, not blank, and then text with one complete, filled `\boxed`."""
    reasoning, answer = split_reasoning(text) or ("", "")
    if not reasoning.strip() or ANSWER_OPEN in text or ANSWER_CLOSE in text:
        return False
    return answer.count(r"\boxed") == 1 and any(box.strip() for box in boxed(answer))


def split_reasoning(text: str) -> tuple[str, str] | None:
    """Split text after its reasoning; None if that never closes, closes twice, or opens after the start."""
    reasoning, closed, rest = text.removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    if not closed or THINK_OPEN in reasoning or THINK_OPEN in rest or THINK_CLOSE in rest:
        return None
    return reasoning, rest


# Unicode ranges for a character class. Kana are not Chinese, but are written without spaces too.
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
    """Make the language reward of DeepSeek-R1: the share of the reasoning's words in this language.

    The reward `f(completions, **columns)` gives B values in [0, 1], never None. open-r1 has no such reward.

    Args:
        language: "en" or "zh", the language of the reasoning.

    Raises:
        ValueError: another language.
    """
    reward = partial(_consistencies, _SCRIPTS[one_of("language", language, _SCRIPTS)])
    reward.__name__ = "language_consistency_reward"  # TRL names the metric after it
    return reward


def words(text: str) -> list[str]:
    """Return the words of text in order, without numbers, single letters and LaTeX."""
    prose = _MATHS.sub(lambda maths: _ABBREVIATION.sub(" ", _LATEX_NAME.sub(" ", maths[0])), text)
    return _WORD.findall(_LATEX_NAME.sub(" ", prose))


def _consistencies(script: re.Pattern[str], /, completions: list, **columns) -> list[float]:
    # Positional only: a dataset column may have any name.
    return [_consistency(script, completion_text(c)) for c in completions]


def _consistency(script: re.Pattern[str], text: str) -> float:
    reasoning, _ = split_reasoning(text) or ("", "")
    found = words(reasoning)
    return sum(bool(script.fullmatch(word)) for word in found) / len(found) if found else 0.0
