"""Real data made ready: what is drawn, held out and left out, the card, and going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from r1kit.data import card as cards
from r1kit.data import datasets, synthetic_mirror
from r1kit.data import prepare as preparation
from r1kit.data.prepare import SETS, copies_of_rows, is_heldout, problem_key
from r1kit.data.sources import open_source
from r1kit.data.tokenizer import TokenCounter
from r1kit.pipeline.data import estimate
from r1kit.settings import load_profile
from r1kit.settings.data import HubDataSettings
from tests.data.rows import write_jsonl

MIXTURE = {"dataset": "open-r1/Mixture-of-Thoughts", "config": "math"}
DAPO = {"dataset": "open-r1/DAPO-Math-17k-Processed", "config": "en"}
BYTES = TokenCounter("nobody", why="no tokenizer here")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirror")
    synthetic_mirror.write_mirror(folder)
    return folder


def settings(mirror, traces=(MIXTURE,), prompts=(DAPO,), **more):
    values = {"source": "hub", "seed": 1, "traces_from": list(traces), "prompts_from": list(prompts)}
    values |= {"prompts": 50, "max_prompt_length": 512, "excerpt": True, "mirror": str(mirror)}
    return HubDataSettings.model_validate(values | {"heldout_share": 0.2} | more)


def made(mirror, out, **more):
    return preparation.prepare(preparation.plan(settings(mirror, **more), BYTES), out)


def rows(out, name):
    return datasets.load(out / name).to_list()


def test_weights_above_one_take_rows_again_and_caps_cap(mirror):
    def copies(seed=1, **entry):
        data = settings(mirror, traces=[MIXTURE | entry])
        return copies_of_rows(open_source(data.traces_from[0], data), seed)

    assert copies().tolist() == [1] * 60
    assert sorted(copies(weight=2.5).tolist()) == [2] * 30 + [3] * 30
    assert copies(weight=0.25).sum() == 15
    assert copies(weight=3, most=100).sum() == 100
    assert copies(weight=0.5).tolist() == copies(weight=0.5).tolist()
    assert copies(weight=0.5).tolist() != copies(seed=2, weight=0.5).tolist()


def test_the_sets_have_the_columns_that_trainings_read_and_share_no_problem(mirror, tmp_path):
    card = made(mirror, tmp_path)
    sets = {name: rows(tmp_path, name) for name in SETS}
    assert card.sets == {name: len(found) for name, found in sets.items()}
    for name, schema in SETS.items():
        assert list(sets[name][0]) == schema.names
    assert sets["heldout"]
    datasets.check_disjoint([*sets["traces"], *sets["prompts"]], sets["heldout"])
    assert all(is_heldout(problem_key(row["problem"]), 1, 0.2) for row in sets["heldout"])
    assert not any(is_heldout(problem_key(row["problem"]), 1, 0.2) for row in sets["traces"])


def test_every_row_is_accounted_for(mirror, tmp_path):
    card = made(mirror, tmp_path, traces=[MIXTURE | {"weight": 2}])
    for source in card.sources:
        assert source.drawn == source.written + source.heldout + sum(source.dropped.values())
    assert card.of_set("traces")[0].drawn == 120
    assert card.of_set("prompts")[0].dropped == {"prompt longer than max_prompt_length": 1}
    written = [row["messages"][-1]["content"] for row in rows(tmp_path, "traces")]
    assert all(written.count(text) == 2 for text in written)


def test_what_is_prepared_is_found_again_and_changes_with_what_decides_it(mirror, tmp_path):
    first = preparation.plan(settings(mirror), BYTES)
    card = preparation.prepare(first, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert preparation.prepare(preparation.plan(settings(mirror), BYTES), tmp_path) == card
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set(SETS)
    others = [
        preparation.plan(settings(mirror, seed=2), BYTES),
        preparation.plan(settings(mirror, traces=[MIXTURE | {"most": 7}]), BYTES),
        preparation.plan(settings(mirror), replace(BYTES, prompt_overhead=10)),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 4
    assert preparation.plan(settings(mirror, stream=True), BYTES).digest == first.digest


def test_a_dataset_that_changed_is_prepared_anew(tmp_path):
    said = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    file = write_jsonl(tmp_path / "own.jsonl", [{"messages": said}] * 3)
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"problem": "1+1?", "solution": "2"}])
    data = settings(tmp_path, traces=[{"dataset": str(file)}], prompts=[{"dataset": str(asked)}])
    first = preparation.plan(data, BYTES)
    write_jsonl(file, [{"messages": said}] * 4)
    assert preparation.plan(data, BYTES).digest != first.digest


def test_a_band_of_pass_rates_keeps_what_is_in_it(mirror, tmp_path):
    big = {"dataset": "open-r1/Big-Math-RL-Verified-Processed", "pass_rate": [0.1, 0.6]}
    card = made(mirror, tmp_path / "own", prompts=[big], heldout_share=0)
    assert set(card.sources[1].dropped) == {"no pass rate", "pass rate outside the band"}
    assert 0 < card.sets["prompts"] < 54
    kept = rows(tmp_path / "own", "prompts")[:10]
    file = tmp_path / "rates.jsonl"
    write_jsonl(file, [{"problem": row["problem"], "pass_rate": i / 9} for i, row in enumerate(kept)])
    measured = made(mirror, tmp_path / "file", prompts=[big | {"pass_rates": str(file)}], heldout_share=0)
    assert measured.sets["prompts"] == 5  # 1/9 to 5/9


def test_a_band_without_rates_is_said_not_applied(mirror, tmp_path):
    card = made(mirror, tmp_path, prompts=[DAPO | {"pass_rate": [0.1, 0.6]}])
    assert any("was not applied" in note for note in card.sources[1].notes)
    assert "was not applied" in cards.render(card)


def test_several_processes_write_the_same_rows(mirror, tmp_path, monkeypatch):
    seen = []

    def one_by_one(work, items, workers):
        seen.append(workers)
        return map(work, items)

    monkeypatch.setattr(preparation, "STEP_ROWS", 7)
    monkeypatch.setattr(preparation, "SHARD_ROWS", 14)
    monkeypatch.setattr(preparation, "map_in_order", one_by_one)
    preparation.prepare(preparation.plan(settings(mirror), BYTES), tmp_path / "steps", workers=3)
    monkeypatch.undo()
    made(mirror, tmp_path / "whole")
    assert seen == [3, 3]
    assert rows(tmp_path / "steps", "traces") == rows(tmp_path / "whole", "traces")
    assert rows(tmp_path / "steps", "heldout") == rows(tmp_path / "whole", "heldout")


def test_the_card_tells_lengths_truncation_and_hours(mirror, tmp_path):
    card = made(mirror, tmp_path, measured_rows=None)
    profile = load_profile("gpu-small")
    text = cards.render(card, 2048, estimate(profile, card))
    assert "ESTIMATED from bytes (no tokenizer here)" in text
    lengths = card.of_set("traces")[0].lengths
    assert len(lengths) == card.sets["traces"]
    assert f"longer than max_length (2,048): {cards.longer(lengths, 2048):.1%}" in text
    assert "hours on NVIDIA L4" in text
    assert cards.Card.from_dict(json.loads(json.dumps(asdict(card)))) == card


def test_a_histogram_counts_every_length_once():
    shares = cards.histogram([1, 512, 513, 40_000], bins=(512, 1024))
    assert shares == [("up to 512", 0.5), ("to 1,024", 0.25), ("over 1,024", 0.25)]


def test_a_share_of_all_problems_is_held_out_on_both_sides_of_a_spelling():
    keys = [problem_key(f"problem {n}") for n in range(4000)]
    found = np.mean([is_heldout(key, 7, 0.1) for key in keys])
    assert found == pytest.approx(0.1, abs=0.015)
    assert problem_key(r"Is $\dfrac{1}{2}$ HALF?") == problem_key(r"is \frac12 half")


KILLED = """
import os, signal, sys
from pathlib import Path
from r1kit.data import prepare as preparation
from tests.data.test_prepare import BYTES, settings

preparation.STEP_ROWS, preparation.SHARD_ROWS = 7, 14
def progress(name, done, rows):
    if "DAPO" in name and done > 30:
        os.kill(os.getpid(), signal.SIGKILL)
preparation.prepare(preparation.plan(settings(sys.argv[1]), BYTES), Path(sys.argv[2]), progress=progress)
"""


@pytest.mark.slow
def test_a_preparation_that_was_killed_goes_on_and_ends_alike(mirror, tmp_path, monkeypatch):
    command = [sys.executable, "-c", KILLED, str(mirror), str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "killed" / "traces").glob("*.arrow"))) == 5
    assert preparation.finished(tmp_path / "killed") is None
    seen = []
    write = preparation._write_shard

    def noted(path, *others):
        seen.append(path.name)
        write(path, *others)

    monkeypatch.setattr(preparation, "STEP_ROWS", 7)
    monkeypatch.setattr(preparation, "SHARD_ROWS", 14)
    monkeypatch.setattr(preparation, "_write_shard", noted)
    card = made(mirror, tmp_path / "killed")
    assert seen == [f"prompts-01-0000{shard}.arrow" for shard in (2, 3, 4)]  # and none of the traces
    assert not list((tmp_path / "killed").rglob("*.tmp"))
    assert card == made(mirror, tmp_path / "whole")
    for name in SETS:
        assert rows(tmp_path / "killed", name) == rows(tmp_path / "whole", name)


def test_a_set_without_any_row_is_there_too_when_a_preparation_goes_on(mirror, tmp_path):
    card = made(mirror, tmp_path, heldout_share=0.0)
    (tmp_path / cards.CARD).unlink()  # as if killed before the last file
    assert made(mirror, tmp_path, heldout_share=0.0).sets == card.sets
    assert rows(tmp_path, "heldout") == []
