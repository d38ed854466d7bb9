r"""Judging benchmark answers: a final answer in a box, a letter among choices, a program with test cases.

What training rewards judges strictly (`rewards/accuracy.py`) stays strict here where it guards against
cheating; what only punishes models that were never asked for tags does not: a finished completion without any
reasoning tags is all answer. open-r1's tables were judged by lighteval, which reads the whole completion,
cut-off thoughts included; `lighteval_tasks.py` is there for that second opinion.
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

# "Answer: C" of simple-evals' prompt, in the dress that models give it: **Answer:** (C), Answer: $\text{C}$.
_ANSWER_LINE = re.compile(
    r"answer\W{0,6}(?:is\W{1,6})?(?:\\(?:text|mathrm|mathbf|boxed)\{)?\(?([A-D])\b", re.I
)
_LETTER = re.compile(r"\W*(?:\\(?:text|mathrm|mathbf)\{)?\W*([A-Da-d])(?:\W.*)?", re.DOTALL)


def judge_rows(
    completions: Sequence[str], questions: Sequence[Question], finished: Sequence[bool]
) -> tuple[list[float | None], list[str | None]]:
    """Verdicts (1.0, 0.0, None for a gold that cannot be judged) and final answers of B completions.

    Answers that are equal for the judge are the same text, so that votes can be counted; a program has none.
    """
    verdicts: list[float | None] = [None] * len(completions)
    answers: list[str | None] = [None] * len(completions)
    for kind in dict.fromkeys(question.judge for question in questions):
        rows = [row for row, question in enumerate(questions) if question.judge == kind]
        texts = [whole_answer(completions[row], finished[row], kind) for row in rows]
        found = JUDGES[kind](texts, [questions[row].solution for row in rows])
        for row, verdict, answer in zip(rows, *found, strict=True):
            verdicts[row], answers[row] = verdict, answer
    return verdicts, one_text_each(answers, questions)


def whole_answer(completion: str, finished: bool, kind: str) -> str:
    """The completion, with its reasoning closed where a finished one has no tags and is all answer."""
    tagged = THINK_OPEN in completion or THINK_CLOSE in completion
    return completion if kind == "reward" or tagged or not finished else THINK_CLOSE + completion


def letter_after_reasoning(text: str) -> str | None:
    r"""The last letter that the text after the reasoning gives as its answer: `Answer: C`, or `\boxed{C}`.

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


def one_text_each(answers: Sequence[str | None], questions: Sequence[Question]) -> list[str | None]:
    """Answers in which those that mean the same (1/2, 0.5) are the same text: the first one's."""
    first: dict[Any, str] = {}
    return [
        None if answer is None
        else first.setdefault((question.level, question.problem, read(answer)), answer)
        for answer, question in zip(answers, questions, strict=True)
    ]  # fmt: skip


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
        rows = [row for row, other in enumerate(golds) if other is gold or other == gold]
        found = binary_code_reward([texts[row] for row in rows], verification_info=[gold] * len(rows))
        for row, verdict in zip(rows, found, strict=True):
            verdicts[row] = verdict
    return verdicts, [None] * len(texts)


JUDGES: dict[str, Callable[[list[str], list[str]], tuple[list, list]]] = {
    "reward": _reward,
    "answer": _answer,
    "letter": _letter,
    "code": _code,
}
