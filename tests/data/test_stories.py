from __future__ import annotations

import pytest

from r1kit.data.stories import LARGEST_VALUE, Problem, generate, is_reserved, normalise


def test_the_solution_is_what_the_operations_give():
    problem = Problem("", "Ann", "apples", 7, (("-", 3), ("+", 9)), ())
    assert problem.level == 2
    assert problem.values == (7, 4, 13)
    assert problem.solution == "13"


def test_the_text_says_the_operations():
    for problem in generate(200, seed=1):
        numbers = [int(word) for word in normalise(problem.text).split() if word.isdigit()]
        signs = ["+" if " more" in sentence else "-" for sentence in problem.sentences[1:]]
        assert numbers == [problem.start, *(amount for _, amount in problem.operations)]
        assert signs == [sign for sign, _ in problem.operations]


def test_values_stay_in_the_world():
    assert all(0 <= v <= LARGEST_VALUE for p in generate(2000, seed=2, levels=[1, 5]) for v in p.values)


def test_the_same_seed_gives_the_same_problems_and_another_seed_others():
    assert generate(50, seed=3) == generate(50, seed=3)
    assert generate(50, seed=3) != generate(50, seed=4)


def test_levels_are_drawn_evenly():
    levels = [p.level for p in generate(3000, seed=5, levels=[1, 2, 3])]
    assert all(900 < levels.count(k) < 1100 for k in (1, 2, 3))


def test_case_spaces_and_punctuation_do_not_make_another_problem():
    assert normalise("Ann has 7  apples.\nAnn loses 3!") == normalise("ann HAS 7 apples, Ann loses 3")
    assert normalise("Ann has 7 apples") != normalise("Ann has 17 apples")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_draw_of_one_side_yields_a_problem_of_the_other(seed):
    training = {normalise(p.text) for p in generate(5000, seed, [1, 2])}
    heldout = {normalise(p.text) for p in generate(1000, seed, [1, 2], reserved=True)}
    assert not training & heldout
    assert all(is_reserved(text) for text in heldout)
    assert not any(is_reserved(text) for text in training)


def test_a_level_below_one_is_refused():
    with pytest.raises(ValueError, match="levels"):
        generate(1, seed=0, levels=[0])
