"""The corpus of answer pairs: `corpus.tsv` holds them with the right verdict, math-verify's, and a reason."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from r1kit.rewards.accuracy import judge_all

CORPUS = Path(__file__).with_name("corpus.tsv")
VERDICTS = {"1": 1.0, "0": 0.0, "none": None}


class Pair(NamedTuple):
    form: str
    gold: str
    answer: str
    verdict: str
    math_verify: str
    reason: str


def pairs() -> list[Pair]:
    lines = [line for line in CORPUS.read_text().splitlines() if line and not line.startswith("#")]
    return [Pair(*line.split("\t")) for line in lines[1:]]


def test_every_pair_of_the_corpus_is_judged_right():
    corpus = pairs()
    found = judge_all([(pair.answer, pair.gold) for pair in corpus])
    wrong = [(pair, one) for pair, one in zip(corpus, found, strict=True) if one != VERDICTS[pair.verdict]]
    assert wrong == []


def test_the_corpus_has_enough_pairs_of_every_form_and_says_how_many():
    corpus = pairs()
    counts = Counter(pair.form for pair in corpus)
    assert len(set(corpus)) == len(corpus) >= 300
    assert min(counts.values()) >= 8
    head = CORPUS.read_text().split("\nform\t")[0]
    assert f"# {len(corpus)} pairs: " + ", ".join(f"{n} {form}" for form, n in counts.items()) in head
    for form in counts:
        assert {pair.verdict for pair in corpus if pair.form == form} >= {"1"}
    assert 0.4 < sum(pair.verdict == "1" for pair in corpus) / len(corpus) < 0.6
    assert f"math-verify differs on {sum(_differs(pair) for pair in corpus)} of them" in head


@pytest.mark.slow
def test_the_differences_from_math_verify_are_those_that_the_corpus_names():
    """A new version of math-verify that judges otherwise changes what our documentation says of it."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    for pair in pairs():
        if pair.math_verify == "-":
            continue
        theirs = verify(parse(rf"\boxed{{{pair.gold}}}"), parse(rf"\boxed{{{pair.answer}}}"))
        assert str(int(theirs)) == pair.math_verify, pair


def _differs(pair: Pair) -> bool:
    return pair.math_verify not in ("-", pair.verdict)
