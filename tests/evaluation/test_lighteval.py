"""The second opinion, for real where lighteval is installed (`make setup-lighteval`), offline."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from r1kit.cli.main import app
from r1kit.evaluation import benchmarks, lighteval
from r1kit.evaluation.sampler import Sampling
from tests.evaluation import shards

SAMPLING = Sampling(0.6, 0.95, 24, seed=1)


def installed() -> bool:
    try:
        return lighteval.interpreter().is_file()
    except lighteval.LightevalMissing:
        return False


needs_lighteval = pytest.mark.skipif(
    not installed(), reason="lighteval is not installed: make setup-lighteval"
)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    mirror = str(shards.write_mirror(tmp_path_factory.mktemp("mirror")))
    return [
        question
        for name in ("aime24", "math_500", "gpqa_diamond")
        for question in benchmarks.benchmark_questions(name, samples=2, mirror=mirror, most=4)
    ]


def said(question, sample):
    """Right in the second sample, wrong in the first."""
    answer = (
        question.solution
        if sample
        else {"letter": "ABCD".replace(question.solution, "")[0]}.get(question.judge, "98765")
    )
    if question.judge == "letter":
        return f"<think>\nhm\n</think>\nAnswer: {answer}"
    return (
        f"<think>\nhm\n</think>\nTherefore, the final answer is: $\\boxed{{{answer}}}$. I hope it is correct"
    )


@pytest.mark.slow
@needs_lighteval
def test_lighteval_judges_the_answers_that_we_keep(questions, tmp_path):
    frame = pd.DataFrame(
        {"problem": q.problem, "level": q.level, "sample": s, "greedy": False, "completion": said(q, s)}
        for q in questions
        for s in range(q.samples)
    )
    found = lighteval.replayed(frame, questions, SAMPLING, tmp_path)
    assert {name: numbers["value"] for name, numbers in found.items()} == {
        "aime24": 0.5, "math_500": 0.5, "gpqa_diamond": 0.5,
    }  # fmt: skip


@pytest.mark.slow
@needs_lighteval
def test_lighteval_asks_a_tiny_model_itself(questions, tiny, tmp_path):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    asked = [question for question in questions if question.level == "aime24"][:2]
    found = lighteval.asked_anew(str(tmp_path / "model"), asked, SAMPLING, tmp_path / "out", batch_size=2)
    assert found["aime24"]["value"] == 0.0, "random weights know no answer"


@pytest.mark.slow
@needs_lighteval
@pytest.mark.parametrize(("how", "answers"), [("judge", "the same answers"), ("model", "answers of its own")])
def test_the_command_puts_its_scores_beside_ours(tiny, tmp_path, monkeypatch, how, answers):
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("R1KIT_MIRROR", str(shards.write_mirror(tmp_path / "mirror")))
    for part in tiny:
        part.save_pretrained(tmp_path / "model")
    command = ["eval", str(tmp_path / "model"), "--benchmark", "gsm8k", "--samples", "2", "--json"]
    small = ["--set", "evaluation.max_new_tokens=8", "--set", "evaluation.batch_size=8"]
    done = CliRunner().invoke(app, [*command, *small, "--second-opinion", how])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["second_opinion"]["answers"] == answers
    scores = result["second_opinion"]["scores"]
    assert scores["gsm8k"]["value"] == result["scores"]["gsm8k"]["pass@1"]["value"] == 0


def test_programs_are_not_given_to_a_harness_without_isolation(tmp_path):
    mirror = str(shards.write_mirror(tmp_path / "mirror"))
    code = benchmarks.benchmark_questions("lcb", mirror=mirror)
    with pytest.raises(ValueError, match="without isolation"):
        lighteval._write_tasks(code, SAMPLING, tmp_path / "out")


def test_a_missing_lighteval_is_said_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv(lighteval.PYTHON, str(tmp_path / "none"))
    with pytest.raises(lighteval.LightevalMissing, match="make setup-lighteval"):
        lighteval.interpreter()


def test_its_results_become_numbers_of_ours(tmp_path):
    results = {
        "r1kit_aime24|0": {"pass@1:n=64": 0.5, "pass@1:n=64_stderr": 0.07},
        "all": {"pass@1:n=64": 0.5},
    }
    folder = tmp_path / "results" / "model"
    folder.mkdir(parents=True)
    (folder / "results_2026.json").write_text(json.dumps({"results": results}))
    assert lighteval.parse(tmp_path) == {"aime24": {"value": 0.5, "standard_error": 0.07}}
    with pytest.raises(FileNotFoundError, match="left no results"):
        lighteval.parse(tmp_path / "elsewhere")
