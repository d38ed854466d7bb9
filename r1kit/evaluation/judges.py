r"""Judging benchmark answers: a final answer in a box, a letter among choices, a program with test cases.

Where training rewards (`rewards/accuracy.py`) are strict against cheating, these judges are as strict. They
are not where strictness would only punish models that were never asked for tags: a finished completion
without any reasoning tags is all answer. open-r1's tables were judged by lighteval, which reads the whole
completion, cut-off thoughts included; `lighteval.py` gives that second opinion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from r1kit.data.format import THINK_CLOSE, THINK_OPEN
from r1kit.evaluation.benchmarks import Question
from r1kit.rewards.accuracy import accuracy_reward, answer_after_reasoning, boxed, judge_all
from r1kit.rewards.code import binary_code_reward
from r1kit.rewards.equivalence import read

# "Answer: C" of simple-evals' prompt, as models write it: **Answer:** (C), Answer: $\text{C}$.
_ANSWER_LINE = re.compile(
    r"answer\W{0,6}(?:is\W{1,6})?(?:\\(?:text|mathrm|mathbf|boxed)\{)?\(?([A-D])\b", re.I
)
_LETTER = re.compile(r"\W*(?:\\(?:text|mathrm|mathbf)\{)?\W*([A-Da-d])(?:\W.*)?", re.DOTALL)


def judge_rows(
    completions: Sequence[str], questions: Sequence[Question], finished: Sequence[bool]
) -> tuple[list[float | None], list[str | None]]:
    """Return verdicts (1.0, 0.0, None if the gold cannot be judged) and final answers of B completions.

    Answers to a question that mean the same (1/2, 0.5) are the same text, the first one's, so that votes can
    be counted. A program has no final answer.
    """
    verdicts: list[float | None] = [None] * len(completions)
    answers: list[str | None] = [None] * len(completions)
    for kind in dict.fromkeys(question.judge for question in questions):
        rows = [row for row, question in enumerate(questions) if question.judge == kind]
        texts = [_closed(completions[row], finished[row], kind) for row in rows]
        judged = JUDGES[kind](texts, [questions[row].solution for row in rows])
        for row, verdict, answer in zip(rows, *judged, strict=True):
            verdicts[row], answers[row] = verdict, answer
    spelling: dict[Any, str] = {}
    for row, (answer, question) in enumerate(zip(answers, questions, strict=True)):
        if answer is not None:
            key = (question.level, question.problem, read(answer))
            answers[row] = spelling.setdefault(key, answer)
    return verdicts, answers


def letter_after_reasoning(text: str) -> str | None:
    r"""Return the last letter that the text after the reasoning answers: `Answer: C`, or `\boxed{C}`.

    None if there is none, or if the reasoning is not closed exactly once.
    """
    _, closed, rest = text.partition(THINK_CLOSE)
    if not closed or THINK_CLOSE in rest:
        return None
    if lines := _ANSWER_LINE.findall(rest):
        return lines[-1].upper()
    if boxes := boxed(rest):
        match = _LETTER.fullmatch(boxes[-1])
        return match[1].upper() if match else None
    return None


def _closed(completion: str, finished: bool, kind: str) -> str:
    """Close the reasoning of a finished completion without tags, which makes all of it the answer."""
    tagged = THINK_OPEN in completion or THINK_CLOSE in completion
    return completion if kind == "reward" or tagged or not finished else THINK_CLOSE + completion


def _reward(texts: list[str], golds: list[str]) -> tuple[list, list]:
    return accuracy_reward(texts, solution=golds), [answer_after_reasoning(text) for text in texts]


def _answer(texts: list[str], golds: list[str]) -> tuple[list, list]:
    answers = [answer_after_reasoning(text) for text in texts]
    return judge_all(zip(answers, golds, strict=True)), answers


def _letter(texts: list[str], golds: list[str]) -> tuple[list, list]:
    letters = [letter_after_reasoning(text) for text in texts]
    return [float(letter == gold) for letter, gold in zip(letters, golds, strict=True)], letters


def _code(texts: list[str], golds: list[str]) -> tuple[list, list]:
    # Problem by problem: test cases are megabytes, and the reward reads them for each completion.
    verdicts: list[float | None] = [None] * len(texts)
    for gold in dict.fromkeys(golds):
        rows = [row for row, other in enumerate(golds) if other == gold]
        rewards = binary_code_reward([texts[row] for row in rows], verification_info=[gold] * len(rows))
        for row, reward in zip(rows, rewards, strict=True):
            verdicts[row] = reward
    return verdicts, [None] * len(texts)


JUDGES: dict[str, Callable[[list[str], list[str]], tuple[list, list]]] = {
    "reward": _reward,
    "answer": _answer,
    "letter": _letter,
    "code": _code,
}
