from __future__ import annotations

import itertools
import random

import pytest

from r1kit.data.curation import (
    EvaluationIndex,
    NoSuchColumn,
    filters_of,
    foreign,
    outside_band,
    repeated_share,
    repetitive,
    unverified,
)
from r1kit.settings.data import (
    CurationSettings,
    DecontaminationStep,
    LanguageStep,
    PassRateStep,
    RepetitionStep,
    VerifiedStep,
)
from tests.data.rows import problem, row

CHINESE = "首先我们考虑所有满足条件的正整数，然后证明它们的和是偶数，因此答案是四。"
FRENCH = "Soient a et b deux entiers positifs tels que a divise b; montrer que b est plus grand que a."


@pytest.mark.parametrize(
    ("verified", "reason"), [(True, ""), (False, "refused by the verifier"), (None, "not judged")]
)
def test_only_what_a_verifier_accepted_is_kept(verified, reason):
    assert unverified(row(1, verified=verified), VerifiedStep()) == reason


@pytest.mark.parametrize(
    ("rate", "reason"),
    [
        (0.1, ""),
        (0.6, ""),
        (0.0, "pass rate below 0.1"),
        (0.61, "pass rate above 0.6"),
        (None, "pass rate not measured"),
    ],
)
def test_the_band_of_pass_rates_holds_both_its_ends(rate, reason):
    assert outside_band(row(1, pass_rate=rate), PassRateStep()) == reason


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(NoSuchColumn, match=r"verified needs a column 'ok'.*messages, pass_rate, problem"):
        unverified(row(1), VerifiedStep(column="ok"))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (FRENCH, "fr"),
        (CHINESE, "zh"),
        ("Пусть n натуральное число, большее единицы и нечётное.", "ru"),
        (problem(3), ""),
        ("Compute $x^2$.", ""),  # too short to tell
        (r"\[ \int_0^1 x^2 dx = \frac{1}{3} \] $$\sum_{k=1}^n k = \frac{n(n+1)}{2}$$", ""),  # no prose at all
        ("Given ```python\nprint('bonjour tout le monde, comment allez-vous')\n```", ""),
        ("", ""),
    ],
)
def test_the_language_of_prose_is_told_and_formulas_have_none(text, language):
    assert foreign(row(1, problem=text), LanguageStep(texts=["problem"])) == language


def test_a_trace_that_changes_its_language_half_way_is_found():
    said = "Let us look at the farmer and the apples that he sells at the market. " * 40
    assert foreign(row(1, trace=said), LanguageStep()) == ""
    assert foreign(row(1, trace=said + CHINESE * 40 + said), LanguageStep()) == "zh"
    assert foreign(row(1, trace=said + CHINESE * 40 + said), LanguageStep(allowed=["en", "zh"])) == ""


def test_a_trace_that_goes_round_in_circles_is_found_and_one_that_checks_itself_is_not():
    step = RepetitionStep()
    assert repetitive(row(1), step) == ""
    assert repetitive(row(1, trace="Wait, let me check that once more, since 3 plus 4 is 7. " * 30), step)
    assert repetitive(row(1, trace="short"), step) == ""
    assert repetitive({"prompt": problem(1)}, step) == "", "a prompt has no trace"


@pytest.mark.parametrize(
    ("said", "n", "share"),
    [
        ("a b c d", 2, 0.0),
        ("a b a b a b", 2, 3 / 5),
        ("a a a a", 1, 3 / 4),
        ("a b", 3, 0.0),
        ("b a a b", 2, 0.0),
    ],
)
def test_the_repeated_share_counts_ngrams_that_occurred_before(said, n, share):
    assert repeated_share(said.split(), n) == pytest.approx(share)


def test_filters_commute():
    rows = [
        row(
            n,
            verified=n % 3 > 0,
            pass_rate=(n % 10) / 10,
            problem=FRENCH + str(n) if n % 4 == 0 else problem(n),
        )
        for n in range(40)
    ]
    index = EvaluationIndex()
    index.add("held out", [problem(5), problem(14), problem(17)])
    settings = CurationSettings(
        verified=VerifiedStep(),
        pass_rate=PassRateStep(),
        language=LanguageStep(),
        repetition=RepetitionStep(),
        decontamination=DecontaminationStep(),
    )
    filters = filters_of(settings, index)
    assert list(filters) == ["verified", "pass_rate", "language", "repetition", "decontamination"]
    results = set()
    for order in random.Random(0).sample(list(itertools.permutations(filters)), 20):
        left = rows
        for step in order:
            left = [found for found in left if not filters[step](found)]
        results.add(tuple(found["solution"] for found in left))
    assert len(results) == 1
    assert 0 < len(results.pop()) < 40
