r"""The accuracy reward: 1 if the answer after the reasoning equals the gold solution, else 0.

Public name and arguments are open-r1's (`src/open_r1/rewards.py`). The differences, and their reasons:

- **The answer counts only after `</think>`.** open-r1 parses the whole completion: a `\boxed{3}` inside
  the reasoning scored 1.0 although `<answer>` said 5, and so did a completion cut off before `</think>`.
- **A plain answer needs no LaTeX.** In open-r1 `<answer>\n3\n</answer>` scored 0.0 unless boxed, although no
  prompt of its recipes asks for `\boxed`: training then pulls towards a format that nobody requested.
- **Contradicting answers earn nothing.** Several boxes or `<answer>` blocks count only if they have the same
  value, else a model learns to list candidates; a box before an `<answer>` block is one of them. A second
  `</think>` earns nothing either.
- **Gold is judged in the same form as the answer.** open-r1 reads "12,34" as 12.34 in the gold and as a set
  in the answer. Prose without a box is unjudgeable (None): reading its last number failed right answers.
- **No signal.alarm.** math-verify's timeouts work in the main thread only, and elsewhere they raised
  (Math-Verify#50, #55) or silently gave zeros; here it runs in processes of its own (`verifier.py`).
- **Most answers never reach math-verify**: `equivalence` compares the common forms exactly, and documents
  where its verdict differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from r1kit.data.format import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE
from r1kit.rewards.completions import completion_text
from r1kit.rewards.equivalence import Refused, Undecided, Unread, equal, parts, read
from r1kit.rewards.equivalence.expression import LONGEST_ANSWER, is_prose

_ANSWER_BLOCK = re.compile(rf"{ANSWER_OPEN}(.*?){ANSWER_CLOSE}", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MOST_BLOCKS = 8  # the pattern's search is quadratic in unclosed blocks
_MOST_BOXES = 16


def accuracy_reward(completions: list, solution: list[str], **columns) -> list[float | None]:
    r"""Score B answers against their gold solutions; open-r1's `accuracy_reward`.

    Args:
        completions: TRL's completions, B strings or B conversations `[{"role", "content"}]`.
        solution: B gold solutions: a number, LaTeX, or text with one `\boxed{...}`.
        columns: the dataset's other columns; not used.

    Returns:
        B values: 1.0 for a right answer, 0.0 for a wrong or missing one, None for unjudgeable gold.

    Raises:
        ImportError: math-verify is missing, and the exact rules cannot decide one of the answers.
    """
    pairs = zip(completions, solution, strict=True)
    return judge_all((answer_after_reasoning(completion_text(c)), str(gold)) for c, gold in pairs)


def judge(answer: str | None, gold: str) -> float | None:
    """Return 1.0 if answer equals gold, 0.0 if not or if it is None, None if gold cannot be understood."""
    return judge_all([(answer, gold)])[0]


def judge_all(pairs: Iterable[tuple[str | None, str]]) -> list[float | None]:
    """Judge each (answer, gold): equal pairs once, and all pairs that need math-verify in one batch."""
    pairs = list(pairs)
    verdicts = {pair: _by_rules(*pair) for pair in dict.fromkeys(pairs)}
    asked = [pair for pair, verdict in verdicts.items() if verdict is _ASK]
    if asked:
        from r1kit.rewards.verifier import verify_all

        found = verify_all([(gold_answer(gold), _sendable(answer)) for answer, gold in asked])
        verdicts.update(zip(asked, found, strict=True))
    return [verdicts[pair] for pair in pairs]


def gold_answer(gold: str) -> str | None:
    """Return the judgeable part of a gold solution; None for prose, an empty text, or boxes that differ."""
    boxes = boxed(gold)
    if boxes:
        first = boxes[0].strip()
        same = all(box.strip() == first or read(box) == read(first) for box in boxes)
        return first if first and same and len(first) <= LONGEST_ANSWER else None
    gold = gold.strip()
    return None if not gold or len(gold) > LONGEST_ANSWER or is_prose(gold) else gold


def answer_after_reasoning(text: str) -> str | None:
    r"""Return the one answer after the closed reasoning; None if there is none, or several that differ.

    Candidates are each `<answer>` block after `</think>` (the `\boxed{}` in it if there is one, else its
    text) and each box outside the blocks. If their values differ, there is no answer. A bare number needs the
    `<answer>` block.
    """
    _, closed, rest = text.partition(THINK_CLOSE)
    opened = rest.count(ANSWER_OPEN)
    if not closed or THINK_CLOSE in rest or opened > _MOST_BLOCKS:
        return None
    blocks = _ANSWER_BLOCK.findall(rest)
    if blocks and opened != len(blocks):
        return None
    answers = boxed(_ANSWER_BLOCK.sub(" ", rest))
    for block in blocks:
        answers += boxed(block) or [block]
    if not answers or len(answers) > _MOST_BOXES:
        return None
    first = answers[0].strip()
    if any(answer.strip() != first and not _alike(answer, first) for answer in answers):
        return None
    return first


def boxed(text: str) -> list[str]:
    r"""Return the contents of every complete `\boxed{...}` or `\fbox{...}`, braces balanced, in order."""
    found, start = [], _BOX.search(text)
    while start:
        depth, at = 1, start.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        if depth:
            break
        found.append(text[start.end() : at - 1])
        start = _BOX.search(text, at)
    return found


def _alike(one: str, other: str) -> bool:
    return max(len(one), len(other)) <= LONGEST_ANSWER and read(one) == read(other)


_ASK = object()


def _by_rules(answer: str | None, gold: str) -> float | object | None:
    """Return the verdict of the exact rules, or `_ASK` if only math-verify can decide."""
    text = gold_answer(gold)
    form = None if text is None else read(text)
    if form is None or isinstance(form, Refused):
        return None
    if any(isinstance(part, Unread) for part in parts(form)):
        return _ASK  # even without an answer: only math-verify can say if this gold is judgeable
    if not _sendable(answer):
        return 0.0
    try:
        return float(equal(form, read(answer)))
    except Undecided:
        return _ASK


def _sendable(answer: str | None) -> str:
    """Return the answer; empty if it is missing, too long, or prose."""
    return "" if not answer or len(answer) > LONGEST_ANSWER or is_prose(answer) else answer
