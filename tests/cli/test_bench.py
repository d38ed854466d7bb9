"""The benchmarks run, compare like with like, and print both sides."""

from __future__ import annotations

import json

import pytest

from r1kit.cli.benchmarks import data, rewards, sandbox
from r1kit.rewards.equivalence.expression import LONGEST_ANSWER


def test_half_of_the_answers_are_plain_numbers_and_groups_share_a_gold():
    pairs = rewards.grouped(800, 3)
    plain = sum(gold.lstrip("-").isdigit() for gold, _ in pairs) / len(pairs)
    assert 0.4 < plain < 0.6
    assert all(len({gold for gold, _ in pairs[i : i + 8]}) == 1 for i in range(0, 800, 8))
    assert len(set(rewards.distinct(500, 3))) == 500
    assert max(len(text) for pair in pairs for text in pair) < LONGEST_ANSWER


@pytest.mark.slow
def test_rewards_are_measured_beside_math_verify_with_the_same_verdicts():
    found = rewards.bench(completions=48)
    for row in found.values():
        assert row["differing"] == []
        assert row["ratio"] == pytest.approx(row["ours_per_second"] / row["math_verify_per_second"])
        assert 0 < row["right"] < 48
    text = rewards.table(json.loads(json.dumps(found)))
    assert "grouped: 48 completions" in text
    assert "distinct: 48 completions, 100% distinct" in text


@pytest.mark.slow
def test_the_sandbox_is_measured_beside_bare_python():
    rows = sandbox.bench(seconds=0.3, workers=1)
    assert rows[0]["way"].startswith("bare ")
    assert rows[0]["ratio"] == 1.0
    assert {row["way"].removesuffix(", fork server") for row in rows[1:]}
    assert all(row["runs_per_second"] > 0 for row in rows)
    assert sandbox.table(rows).count("\n") == len(rows)


@pytest.mark.slow
def test_curation_is_measured_and_finds_what_was_planted():
    found = data.bench_curation(rows=600, workers=1)
    for name in data.PLANTED:
        assert found["steps"][name]["planted"] == found["steps"][name]["removed"] > 0
    assert found["steps"]["language"]["removed"] == found["steps"]["repetition"]["removed"] == 0
    assert "planted" in data.table(found)


@pytest.mark.slow
def test_preparation_is_measured_on_the_rows_that_were_made():
    measured = data.bench_preparation(rows=100, workers=1)
    assert measured["rows"] == 100
    assert measured["rows_per_core_second"] > 0
    assert measured["megabytes"] == pytest.approx(100 * data.BYTES / 1e6, rel=0.5)
    assert "GB on disk" in data.table(measured)
