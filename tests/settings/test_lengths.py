"""Length histograms: fills by hand, packing's bound, and what truncation drops."""

from __future__ import annotations

import random

import pytest

from r1kit.settings import SettingsError
from r1kit.settings.known_models import (
    from_counts,
    log_normal,
    packed_fill,
    packing_gain,
    padded_fill,
    read_lengths,
    trace_count,
    trace_lengths,
)

MIXTURE = {"source": "hub", "traces_from": [{"dataset": "open-r1/Mixture-of-Thoughts", "config": "all"}]}


def test_documents_of_one_length_gain_nothing_from_packing() -> None:
    equal = from_counts([[100, 5]], "test")
    assert padded_fill(equal, 8) == 1
    assert packing_gain(equal, 100, 8).gain == pytest.approx(1)


def test_padding_is_the_expected_longest_of_a_batch() -> None:
    two = from_counts([[10, 1], [30, 1]], "test")
    # Of two rows the longest is 10 in a quarter of batches: 0.25 x 10 + 0.75 x 30 = 25; the mean is 20.
    assert padded_fill(two, 2) == pytest.approx(20 / 25)


def test_padding_agrees_with_drawing_batches() -> None:
    rng = random.Random(0)
    lengths = log_normal([(1000, 500)], 0.7, "test")
    drawn = [rng.choices(lengths.tokens, lengths.share, k=4) for _ in range(4000)]
    simulated = sum(map(sum, drawn)) / sum(4 * max(batch) for batch in drawn)
    assert padded_fill(lengths, 4) == pytest.approx(simulated, rel=0.03)


def test_packing_fills_rows_but_not_with_documents_over_half_of_one() -> None:
    assert packed_fill(from_counts([[50, 1]], "test"), 100) == 1
    assert packed_fill(from_counts([[60, 1]], "test"), 100) == pytest.approx(0.6)
    mixed = from_counts([[60, 1], [40, 1]], "test")
    assert packed_fill(mixed, 100) == 1


def test_no_way_of_packing_gains_more_than_its_bound() -> None:
    lengths = trace_lengths(MIXTURE)
    for row, rows in ((4096, 4), (32768, 2), (32768, 8)):
        found = packing_gain(lengths, row, rows)
        assert 1 < found.gain <= found.bound < 3


def test_the_mixture_has_the_published_mean_and_loses_half_at_4096() -> None:
    lengths = trace_lengths(MIXTURE)
    assert trace_count(MIXTURE) == 349_317
    assert lengths.mean == pytest.approx(5_785, rel=0.01)
    assert lengths.mean * trace_count(MIXTURE) == pytest.approx(2.02e9, rel=0.01)
    assert lengths.dropped(4096) > 0.4
    assert lengths.dropped(32768) < 0.03
    assert lengths.attended > lengths.mean


def test_weights_and_caps_count() -> None:
    capped = {"dataset": "open-r1/Mixture-of-Thoughts", "config": "math", "most": 5000}
    assert trace_count({"source": "hub", "traces_from": [capped]}) == 5000
    doubled = {"dataset": "open-r1/Mixture-of-Thoughts", "config": "math", "weight": 2.0}
    assert trace_count({"source": "hub", "traces_from": [doubled]}) == 2 * 93_733


def test_a_measured_histogram_is_read_from_a_file(tmp_path) -> None:
    (tmp_path / "lengths.json").write_text("[[10, 3], [20, 1]]")
    assert read_lengths(tmp_path / "lengths.json").mean == 12.5
    (tmp_path / "lengths.json").write_text("[[10, 0]]")
    with pytest.raises(SettingsError, match="tokens, documents"):
        read_lengths(tmp_path / "lengths.json")
    with pytest.raises(SettingsError, match="No such file"):
        read_lengths(tmp_path / "nothing.json")


def test_the_length_of_a_file_of_ones_own_is_not_known():
    own = {"source": "hub", "traces_from": [{"dataset": "./mine.jsonl"}]}
    assert trace_lengths(own) is None
    openr1 = {"source": "hub", "traces_from": [{"dataset": "open-r1/OpenR1-Math-220k", "most": 1000}]}
    assert trace_count(openr1) == 1000
    assert trace_lengths(openr1).mean == pytest.approx(4_900, rel=0.01)
