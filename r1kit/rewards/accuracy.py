r"""The accuracy reward: 1 if the answer after the reasoning equals the gold solution, else 0.

Public name and arguments are open-r1's (`src/open_r1/rewards.py`). Where it judges differently, and why:

- **The answer counts only after `</think>`.** open-r1 parses the whole completion: a `\boxed{3}` inside
  the reasoning scored 1.0 although `<answer>` said 5, and so did a completion cut off before `</think>`.
- **A plain answer needs no LaTeX.** `<answer>\n3\n</answer>` scored 0.0 there unless it was boxed, although
  no prompt of its recipes asks for `\boxed`: training then pulls towards a form nobody requested.
- **Contradicting answers earn nothing.** Several boxes or several `<answer>` blocks count only if they say
  the same, else a model learns to list candidates. A second `</think>` earns nothing either.
- **Gold is judged in the same form as the answer.** open-r1 reads "12,34" as 12.34 in the gold and as a set
  in the answer. Prose without a box is unjudgeable (None): reading its last number failed right answers.
- **No signal.alarm.** math-verify's timeouts work in the main thread only, and elsewhere they raised
  (Math-Verify#50, #55) or silently gave zeros; here it lives in a process of its own (`verifier.py`).
- **Plain numbers never reach it**: exact decimal comparison, equal to math-verify 0.9's verdict on them
  (tests/rewards/test_accuracy.py compares thousands of pairs).
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

from r1kit.data.format import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE
from r1kit.rewards.completions import completion_text

# Digits are bounded because math-verify reads decimals as floats: beyond 15 digits, or 6 decimals, it rounds.
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]*)(?:\.[0-9]{1,6})?")
_LONGEST_PLAIN_NUMBER = 15
_LONGEST_ANSWER = 2000  # characters; a longer "answer" is a wrong one and not worth the verifier's time
_PROSE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_PROSE_WORDS = 4  # so many words make a gold prose rather than "5 square metres"

_ANSWER_BLOCK = re.compile(rf"{ANSWER_OPEN}(.*?){ANSWER_CLOSE}", re.DOTALL)
_MOST_BLOCKS = 8  # thousands of unclosed blocks would make the pattern's search quadratic


def accuracy_reward(completions: list, solution: list[str], **columns) -> list[float | None]:
    r"""1.0 for a right answer, 0.0 for a wrong or missing one, None where the gold cannot be judged.

    Args:
        completions: TRL's completions, B strings or B conversations `[{"role", "content"}]`.
        solution: B gold solutions; a number, LaTeX, or text holding one `\boxed{...}`.
        columns: the dataset's other columns; not used.

    Raises:
        ImportError: math-verify is missing and an answer that is no plain number needs it.
    """
    pairs = zip(completions, solution, strict=True)
    return [judge(answer_after_reasoning(completion_text(c)), str(gold)) for c, gold in pairs]


def answer_after_reasoning(text: str) -> str | None:
    r"""The one answer given after the reasoning closes; None if there is none, or several that differ.

    `<answer>` blocks are read if there are any, else everything after `</think>` (R1's own form); in either
    the `\boxed{}` if there is one. A bare number needs the `<answer>` block.
    """
    _, closed, rest = text.partition(THINK_CLOSE)
    opened = rest.count(ANSWER_OPEN)
    if not closed or THINK_CLOSE in rest or opened > _MOST_BLOCKS:
        return None
    blocks = _ANSWER_BLOCK.findall(rest)
    if blocks and opened != len(blocks):
        return None
    answers = []
    for block in blocks or [rest]:
        boxes = boxed(block)
        answers += boxes if boxes or not blocks else [block]
    different = {_plain(answer) for answer in answers}
    return different.pop() if len(different) == 1 else None


def boxed(text: str) -> list[str]:
    r"""Contents of every complete `\boxed{...}` in text, braces balanced, in order."""
    found, start = [], text.find(r"\boxed{")
    while start != -1:
        depth, at = 1, start + len(r"\boxed{")
        first = at
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        if depth:
            break
        found.append(text[first : at - 1])
        start = text.find(r"\boxed{", at)
    return found


def judge(answer: str | None, gold: str) -> float | None:
    """1.0 if answer equals gold, 0.0 if not, None if gold cannot be understood."""
    gold = gold_answer(gold)
    if gold is None:
        return None
    gold_number = plain_number(gold)
    if answer is None or not answer or len(answer) > _LONGEST_ANSWER:
        return 0.0 if gold_number is not None else _verified(gold, "0", only_gold=True)
    answer = _plain(answer)
    answer_number = plain_number(answer)
    if gold_number is not None and answer_number is not None:
        return float(gold_number == answer_number)
    return _verified(gold, answer)


def gold_answer(gold: str) -> str | None:
    """The judgeable part of a gold solution, or None for prose, nothing, or boxes that differ."""
    boxes = {_plain(box) for box in boxed(gold)}
    if boxes:
        return boxes.pop() if len(boxes) == 1 else None
    gold = _plain(gold)
    if not gold or len(gold) > _LONGEST_ANSWER or len(_PROSE_WORD.findall(gold)) >= _PROSE_WORDS:
        return None
    return gold


def plain_number(text: str) -> Decimal | None:
    """Exact value of a plain number (sign, thousands commas, up to six decimals); None for anything else."""
    if not _PLAIN_NUMBER.fullmatch(text) or sum(c.isdigit() for c in text) > _LONGEST_PLAIN_NUMBER:
        return None
    return Decimal(text.replace(",", ""))


def _plain(answer: str) -> str:
    """Drop what carries no meaning: outer space and dollars, a closing full stop, a plus; minus is ASCII."""
    answer = answer.strip()
    if answer.endswith(".") and answer[-2:-1].isalnum():
        answer = answer[:-1]
    if len(answer) > 2 and answer[0] == answer[-1] == "$" and answer.count("$") == 2:
        answer = answer[1:-1].strip()
    # math-verify reads "+1,234" and "−1,234" as sets of two numbers, "-1,234" as one (0.9.0).
    if answer[:1] == "−":
        answer = "-" + answer[1:]
    return answer[1:] if answer[:1] == "+" and answer[1:2].isdigit() else answer


@lru_cache(maxsize=20_000)
def _verified(gold: str, answer: str, only_gold: bool = False) -> float | None:
    """math-verify's verdict, from its own process; imported at the first answer that needs it."""
    from r1kit.rewards.verifier import verify

    verdict = verify(gold, answer)
    return 0.0 if only_gold and verdict is not None else verdict
