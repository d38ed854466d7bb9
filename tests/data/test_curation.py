from __future__ import annotations

import json
import random

import pytest

from r1kit.data.curation import NoSuchColumn, curate
from r1kit.data.row_files import open_rows
from r1kit.settings.data import (
    CurationSettings,
    DecontaminationStep,
    LanguageStep,
    PassRateStep,
    RepetitionStep,
    VerifiedStep,
)
from tests.data.rows import problem, row, write_jsonl
from tests.data.test_filters import CHINESE

ALL = CurationSettings(
    verified=VerifiedStep(),
    pass_rate=PassRateStep(),
    language=LanguageStep(),
    repetition=RepetitionStep(),
    decontamination=DecontaminationStep(),
)
BAD = {
    "verified": row(100, verified=False),
    "pass_rate": row(101, pass_rate=0.9),
    "language": row(102, trace=CHINESE),
    "repetition": row(103, trace="Wait, 3 plus 4 is 7, and so the farmer is right. " * 40),
    "decontamination": row(104),
    "exact": row(1, problem=problem(1).upper()),
    "near": row(2, problem=problem(2) + " Thank you."),
}


@pytest.fixture
def source(tmp_path):
    rows = [*(row(n) for n in range(20)), *BAD.values()]
    return open_rows(write_jsonl(tmp_path / "set.jsonl", rows))


def curated(source, out, settings=ALL, **options):
    report = curate(source, settings, out, {"held out": [problem(104)]}, **options)
    return report, list(open_rows(out / "kept.parquet")), list(open_rows(out / "removed.parquet"))


def test_each_step_removes_its_row_and_says_so(source, tmp_path):
    report, kept, removed = curated(source, tmp_path / "out")
    assert report.rows == 27
    assert report.kept == len(kept) == 20
    assert {step.step: step.removed for step in report.steps} == dict.fromkeys(BAD, 1)
    assert [step.rows for step in report.steps] == [27, 26, 25, 24, 23, 22, 21]
    assert [(found["row"], found["step"]) for found in removed if found["twin"] is None] == list(
        enumerate(["verified", "pass_rate", "language", "repetition", "decontamination"], start=20)
    )
    contaminated = report.steps[4]
    assert contaminated.reasons == {"held out": 1}
    assert contaminated.examples[0].text == problem(104)[:160]
    near = report.steps[6].examples[0]
    assert near.twin is not None
    assert near.similarity >= 0.8
    assert json.loads((tmp_path / "out/curation.json").read_text())["kept"] == 20


def test_what_stays_is_whole_and_in_order_and_does_not_depend_on_the_order_of_the_set(source, tmp_path):
    _, kept, _ = curated(source, tmp_path / "out")
    rows = list(source)
    assert kept == [found for found in rows if found in kept]
    for seed in range(2):
        shuffled = random.Random(seed).sample(rows, len(rows))
        other = open_rows(write_jsonl(tmp_path / "shuffled.jsonl", shuffled))
        _, again, _ = curated(other, tmp_path / f"out{seed}")
        assert sorted(map(repr, again)) == sorted(map(repr, kept))


def test_curating_the_result_again_removes_nothing(source, tmp_path):
    curated(source, tmp_path / "out")
    report, _, removed = curated(open_rows(tmp_path / "out/kept.parquet"), tmp_path / "again")
    assert report.kept == 20
    assert removed == []


@pytest.mark.slow
def test_several_cores_give_the_same_result_as_one(source, tmp_path):
    _, alone, removed = curated(source, tmp_path / "one")
    _, together, removed_together = curated(source, tmp_path / "two", workers=2)
    assert together == alone
    assert removed_together == removed


def test_prompts_without_traces_are_curated_as_well(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": problem(n % 5)}], "solution": "1"} for n in range(10)]
    source = open_rows(write_jsonl(tmp_path / "prompts.jsonl", rows))
    report = curate(source, CurationSettings(), tmp_path / "out")
    assert report.kept == 5
    assert report.steps[0].examples[0].text == problem(0)[:160]


def test_a_step_without_its_column_and_decontamination_against_nothing_are_refused(source, tmp_path):
    with pytest.raises(NoSuchColumn, match="pass_rate needs a column 'rate'"):
        curate(source, CurationSettings(pass_rate=PassRateStep(column="rate")), tmp_path / "out")
    with pytest.raises(ValueError, match="needs the evaluation sets"):
        curate(source, CurationSettings(decontamination=DecontaminationStep()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
