from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from r1kit.cli.main import app
from r1kit.settings import SettingsError
from r1kit.settings.data import load_curation
from tests.data.rows import problem, row, write_jsonl


def curate(*arguments):
    return CliRunner().invoke(app, ["data", "curate", *map(str, arguments), "--workers", "1"])


@pytest.fixture
def rows(tmp_path):
    found = [*(row(n) for n in range(6)), row(0), row(7, verified=False), row(8)]
    return write_jsonl(tmp_path / "rows.jsonl", found)


def test_the_report_counts_and_shows_what_each_step_removed(rows, tmp_path):
    (tmp_path / "steps.yaml").write_text("verified: {}\nnear: null\n")
    exam = write_jsonl(tmp_path / "exam.jsonl", [{"problem": problem(8)}])
    done = curate(rows, "--out", tmp_path / "out", "--steps", tmp_path / "steps.yaml", "--against", exam)
    assert done.exit_code == 0, done.output
    assert "6 of 9 rows kept" in done.output
    assert "1 of 9 removed\n            1 refused by the verifier\n    row 7" in done.output
    assert "row 8 (exam: problem 1, " in done.output
    assert "(the same text, like row" in done.output
    assert "near" not in done.output


def test_a_benchmark_is_named_and_read_from_the_mirror(rows, tmp_path):
    exam = [{"problem": problem(number), "answer": "1"} for number in range(2, 32)]
    (tmp_path / "mirror/HuggingFaceH4/aime_2024").mkdir(parents=True)
    write_jsonl(tmp_path / "mirror/HuggingFaceH4/aime_2024/train.jsonl", exam)
    done = curate(rows, "--out", tmp_path / "out", "--against", "aime24", "--mirror", tmp_path / "mirror")
    assert done.exit_code == 0, done.output
    assert "6 aime24" in done.output
    done = curate(rows, "--out", tmp_path / "other", "--against", "aime24", "--mirror", tmp_path / "nowhere")
    assert done.exception.exit_code == 2


def test_json_is_what_lies_in_the_folder(rows, tmp_path):
    done = curate(rows, "--out", tmp_path / "out", "--json")
    assert json.loads(done.output) == json.loads((tmp_path / "out/curation.json").read_text())


def test_decontamination_against_nothing_is_refused(rows, tmp_path):
    done = curate(rows, "--out", tmp_path / "out", "--set", "curation.decontamination.ngram=8")
    assert isinstance(done.exception, SettingsError)
    assert "--against BENCHMARK or FILE" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nearly: {}", "steps.yaml:1  nearly.*Did you mean `near`"),
        ("near: {threshold: 0.1}", "near.threshold.*0.4"),
        ("language: {allowed: [eng]}", "Did you mean `en`"),
        ("pass_rate: {least: 0.6, most: 0.2}", "0.6 to 0.2.*least < most"),
        ("near: [", "This is not readable YAML"),
        ("- near", "a mapping of keys to values"),
    ],
)
def test_a_bad_step_is_one_message(tmp_path, text, message):
    (tmp_path / "steps.yaml").write_text(text)
    with pytest.raises(SettingsError, match=f"(?s){message}"):
        load_curation(tmp_path / "steps.yaml")


def test_steps_are_switched_on_and_off_by_options():
    found = load_curation(overrides={"curation.near": None, "curation.language.allowed": ["en", "zh"]})
    assert found.near is None
    assert found.language.allowed == ["en", "zh"]
    with pytest.raises(SettingsError, match=r"near\.threshold.*\n.*\n.*curation\.…"):
        load_curation(overrides={"near.threshold": 0.9})
