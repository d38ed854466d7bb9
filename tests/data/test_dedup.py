from __future__ import annotations

import random

import pytest

from r1kit.data.curation import exact_duplicates, fingerprint, near_duplicates, signature
from r1kit.settings.data import ExactStep, NearStep
from tests.data.rows import problem, row


def prints(rows, near=None, exact=None):
    return {
        position: fingerprint(found, exact or ExactStep(), near or NearStep())
        for position, found in enumerate(rows)
    }


def kept(rows, duplicates):
    return sorted(rows[position]["problem"] for position in range(len(rows)) if position not in duplicates)


def test_rows_that_differ_in_case_spaces_punctuation_or_typography_are_one():
    said = [r"Find $\dfrac{1}{2}$ of 7.", "FIND  \\frac12 OF 7", r"find $\left(\tfrac 1 2\right)$, of 7!"]
    rows = [row(1, problem=text) for text in said] + [row(1, problem="Find 1 of 7.")]
    removed = exact_duplicates(prints(rows))
    assert len(removed) == 2
    assert set(removed) | set(removed.values()) == {0, 1, 2}


def test_two_traces_of_one_problem_both_stay_unless_only_problems_are_compared():
    rows = [row(1, problem=problem(1)), row(2, problem=problem(1))]
    assert exact_duplicates(prints(rows)) == {}
    assert len(exact_duplicates(prints(rows, exact=ExactStep(texts=["problem"])))) == 1


def test_the_representative_does_not_depend_on_the_order_of_the_rows():
    rows = [row(n // 3, level=n % 3) for n in range(30)]  # three rows of each problem, different columns
    expected = sorted(repr(rows[r]) for r in range(30) if r not in exact_duplicates(prints(rows)))
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        removed = exact_duplicates(prints(shuffled))
        assert sorted(repr(shuffled[r]) for r in range(30) if r not in removed) == expected


def near_family(number, members):
    """A problem and versions of it with one word changed each: similar pair by pair, less so to the next."""
    words = problem(number).split()
    for member in range(members):
        words[9 + 3 * member] = f"indeed{'x' * member}"
        yield " ".join(words)


def test_near_duplicates_are_found_whatever_the_order_and_each_has_a_twin_that_stays():
    rows = [row(0, problem=text, trace="") for n in range(20) for text in near_family(n, 4)]
    step = NearStep(threshold=0.7)
    first = near_duplicates(prints(rows, step), step.threshold)
    assert 20 <= len(first) <= 60
    for twin, similarity in first.values():
        assert twin not in first
        assert similarity >= 0.7
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        removed = near_duplicates(prints(shuffled, step), step.threshold)
        assert kept(shuffled, removed) == kept(rows, first)


def test_problems_that_share_nothing_stay():
    rows = [row(n) for n in range(300)]
    assert near_duplicates(prints(rows), 0.8) == {}


def test_other_numbers_are_another_problem_unless_the_step_says_otherwise():
    text = problem(1)
    other = text.replace(next(word for word in text.split() if word.isdigit()), "1000")
    rows = [row(0, problem=text, trace=""), row(0, problem=other, trace="")]
    assert near_duplicates(prints(rows), 0.8) == {}
    step = NearStep(same_numbers=False)
    assert len(near_duplicates(prints(rows, step), 0.8)) == 1


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_signatures_estimate_the_jaccard_similarity_of_shingles(share):
    common = [f"w{n}" for n in range(int(1000 * share))]
    one, other = ([*common, *(f"{side}{n}" for n in range(1000 - len(common)))] for side in "ab")
    exact = share / (2 - share)
    estimate = signature(one, 1).jaccard(signature(other, 1))
    assert estimate == pytest.approx(exact, abs=0.15)  # more than three standard errors of 128 slots


def test_a_text_shorter_than_a_shingle_and_an_empty_one_have_signatures():
    assert signature(["hi"], 3).jaccard(signature(["hi"], 3)) == 1.0
    assert signature([], 3).jaccard(signature(["hi"], 3)) < 0.5
