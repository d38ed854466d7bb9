from __future__ import annotations

import pytest

from r1kit.data.curation import EvaluationIndex, contaminated
from r1kit.settings.data import DecontaminationStep
from tests.data.rows import problem, row

AIME = (
    "Find the number of ordered pairs $(a,b)$ of integers with $1 \\le a \\le 20$ whose product is a square."
)


@pytest.fixture
def index():
    made = EvaluationIndex()
    made.add("aime", [problem(1), AIME])
    made.add("math", ["Compute $\\dfrac{1}{2}+3$.", "What is 7 + 8?"])
    return made


def where(text, index, **step):
    return contaminated(row(0, problem=text), DecontaminationStep(**step), index)


def test_a_shared_run_of_eight_words_is_found_wherever_it_stands(index):
    words = AIME.split()
    assert where("Prove it. " + " ".join(words[:8]) + " but something else", index) == (
        'aime: problem 2, "find the number of ordered pairs a b"'
    )
    assert where("Find the number of ordered triples of integers with nothing in common", index) == ""


def test_letter_case_spaces_punctuation_and_typography_hide_nothing(index):
    hidden = AIME.upper().replace("$", " ").replace(",", " , ").replace("\\LE", "\\le\\,")
    assert where(hidden, index).startswith("aime: problem 2")


def test_a_problem_of_fewer_than_eight_words_is_compared_as_a_whole(index):
    assert where("what is  7+8", index) == 'math: problem 2, "what is 7 8"'
    assert where("Compute \\frac12 + 3", index).startswith("math: problem 1")
    assert where("What is 7 + 9?", index) == ""
    assert where("Ann asks Bob what is 7 + 8 and then she laughs aloud", index) == "", "only as a whole"


def test_a_trace_is_searched_where_the_step_says_so(index):
    leaking = row(0, problem=problem(2), trace=f"<think>\nThis is like: {AIME}\n</think>")
    assert contaminated(leaking, DecontaminationStep(), index) == ""
    assert contaminated(leaking, DecontaminationStep(texts=["problem", "trace"]), index)


def test_unrelated_problems_are_clean(index):
    assert not [n for n in range(2, 400) if where(problem(n), index)]


def test_an_evaluation_set_by_which_nothing_could_be_found_is_refused():
    with pytest.raises(ValueError, match="problem 2 of odd has no words"):
        EvaluationIndex().add("odd", ["one", "$$ . $$"])
    with pytest.raises(ValueError, match="has no problems"):
        EvaluationIndex().add("none", [])
