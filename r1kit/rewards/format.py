r"""Rewards for the form of a completion: one `<think>` block, then one `<answer>` block, nothing else.

Public names are open-r1's. Where they judge differently, and why:

- `format_reward` matches the whole text. open-r1's pattern ends in `$` with re.MULTILINE, so **any text after
  `</answer>`** and any number of further blocks passed.
- Every tag must occur exactly once: duplicate and nested tags passed there.
- Both blocks must hold something. DeepSeek's model card reports R1 skipping its reasoning with
  `<think>\n\n</think>`; such a completion must not earn the reward for reasoning.
- `tag_count_reward` checks the order: there an answer before the reasoning scored 1.0.
"""

from __future__ import annotations

import re

from r1kit.data.format import ANSWER_CLOSE, ANSWER_OPEN, TAGS, THINK_CLOSE, THINK_OPEN
from r1kit.rewards.completions import completion_text

_FORM = re.compile(
    rf"{THINK_OPEN}\n(?P<reasoning>.*?)\n{THINK_CLOSE}\n{ANSWER_OPEN}\n(?P<answer>.*?)\n{ANSWER_CLOSE}",
    re.DOTALL,
)
_TAG_LINES = (f"{THINK_OPEN}\n", f"\n{THINK_CLOSE}\n", f"\n{ANSWER_OPEN}\n", f"\n{ANSWER_CLOSE}")


def format_reward(completions: list, **columns) -> list[float]:
    r"""1.0 for exactly `<think>\n...\n</think>\n<answer>\n...\n</answer>`, else 0.0.

    Args:
        completions: TRL's completions, B strings or B conversations.
        columns: the dataset's columns; not used.
    """
    return [float(has_form(completion_text(c))) for c in completions]


def has_form(text: str) -> bool:
    """True if text is one reasoning block and one answer block, neither blank, and nothing around them."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    match = _FORM.fullmatch(text)
    return bool(match and match["reasoning"].strip() and match["answer"].strip())


def tag_count_reward(completions: list, **columns) -> list[float]:
    """0.25 for each of the four tags that stands exactly once on its own line; 0.0 if they are out of order.

    The partial credit guides an untrained model towards the form that `format_reward` then demands whole.
    """
    return [tag_count(completion_text(c)) for c in completions]


def tag_count(text: str) -> float:
    """The reward of one text, in {0, 0.25, 0.5, 0.75, 1}."""
    places = [text.find(tag) for tag in _TAG_LINES if text.count(tag) == 1]
    return 0.25 * len(places) if places == sorted(places) else 0.0
