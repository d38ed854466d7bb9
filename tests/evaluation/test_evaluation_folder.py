"""`r1kit eval` and `r1kit compare` from the command line to their files."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from r1kit.cli.main import app
from r1kit.evaluation import load_results
from r1kit.runs.files import read_json
from tests.evaluation import shards

SMALL = ["--set", "evaluation.max_new_tokens=8", "--set", "evaluation.batch_size=8"]


@pytest.fixture
def r1kit(tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("R1KIT_MIRROR", str(shards.write_mirror(tmp_path / "mirror")))
    model, tokenizer = tiny
    for name in ("02_sft", "04_grpo"):
        model.save_pretrained(tmp_path / name / "model")
        tokenizer.save_pretrained(tmp_path / name / "model")

    def run(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return run


def evaluations(tmp_path, name):
    return next((tmp_path / "runs" / "evaluations").glob(f"*-{name}"))


def test_a_model_is_asked_a_benchmark_gone_on_with_and_compared(r1kit, tmp_path):
    for name in ("02_sft", "04_grpo"):
        done = r1kit(
            "eval", str(tmp_path / name / "model"), "--benchmark", "gsm8k", "--samples", "2", *SMALL, "--json"
        )
        assert done.exit_code == 0, done.output
    folder = evaluations(tmp_path, "02_sft")
    result = read_json(folder / "result.json")
    assert result["scores"]["gsm8k"]["pass@1"]["value"] == 0.0
    assert (result["scores"]["gsm8k"]["problems"], result["scores"]["gsm8k"]["samples"]) == (3, 6)
    assert result["sampling"] == "temperature 0.6, top_p 0.95, at most 8 tokens"
    rows = load_results(folder / "answers.parquet")
    again = r1kit("eval", "--resume", folder.name)
    assert again.exit_code == 0, again.output
    assert "gsm8k  pass@1 0.0 [0.0, " in again.output
    assert load_results(folder / "answers.parquet").equals(rows)
    compared = r1kit("compare", folder.name, evaluations(tmp_path, "04_grpo").name, "--json")
    assert json.loads(compared.output)["gsm8k"]["p"] == 1.0


def test_without_a_benchmark_the_profiles_own_problems_are_asked(r1kit, tmp_path):
    small = ["--set", "evaluation.problems_per_level=1", "--set", "data.heldout_per_level=2", *SMALL]
    done = r1kit(
        "eval", str(tmp_path / "02_sft" / "model"), "--samples", "1", *small, "--set", "evaluation.k=[1]"
    )
    assert done.exit_code == 0, done.output
    scores = read_json(evaluations(tmp_path, "02_sft") / "result.json")["scores"]
    assert list(scores) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "m", "--benchmark", "aime_24"], "Did you mean aime24"),
        (["eval", "--resume", "nothing"], "there is no evaluation 'nothing'"),
        (["eval", "m", "--second-opinion", "nobody"], "takes judge or model"),
        (["compare", "here", "there"], "'here' is neither an evaluation"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_asked(r1kit, arguments, message):
    done = r1kit(*arguments)
    assert done.exit_code != 0
    assert message in str(done.exception)
    assert done.exception.exit_code == 2
