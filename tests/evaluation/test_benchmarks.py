"""Benchmarks by name: from a mirror to questions, and answers of every format judged."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import pytest

from r1kit.evaluation import benchmarks
from r1kit.evaluation.benchmarks import BenchmarkError, Question
from r1kit.evaluation.judges import judge_rows, letter_after_reasoning
from tests.evaluation import shards


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return str(shards.write_mirror(tmp_path_factory.mktemp("mirror")))


def judged(questions, texts, finished=True):
    return judge_rows(texts, questions, [finished] * len(texts))[0]


def thought(answer: str) -> str:
    return f"<think>\nIs it \\boxed{{17}}?\n</think>\nTherefore, the final answer is: $\\boxed{{{answer}}}$."


def test_every_benchmark_loads_from_a_mirror_with_the_published_samples_and_the_old_prompts(mirror):
    samples = {"aime24": 64, "aime25": 64, "math_500": 4, "gpqa_diamond": 8, "lcb": 16, "gsm8k": 1}
    assert samples.keys() == benchmarks.BENCHMARKS.keys()
    for name, count in samples.items():
        questions = benchmarks.benchmark_questions(name, mirror=mirror)
        assert {q.samples for q in questions} == {count}
        assert {q.level for q in questions} == {name}
        assert len(questions) == {"aime24": 30, "aime25": 30, "lcb": 2, "math_500": 12}.get(name, 3)
    math = benchmarks.benchmark_questions("math_500", mirror=mirror, most=1)[0].prompt[0]["content"]
    assert math.startswith("Solve the following math problem efficiently and clearly.  The last line")
    assert math.endswith("Think step by step before answering.\n\nWhat is three quarters?")
    assert "$\\boxed{ANSWER}$. I hope it is correct'" in math


def test_math_answers_are_right_in_every_clothing_and_wrong_ones_are_not(mirror):
    questions = benchmarks.benchmark_questions("math_500", mirror=mirror)
    for question, (_, gold, right, wrong) in zip(questions, shards.MATH, strict=True):
        answers = [gold, *right, wrong]
        verdicts = judged([question] * len(answers), [thought(answer) for answer in answers])
        assert verdicts == [1.0] * (len(answers) - 1) + [0.0], question.problem


def test_integers_with_leading_zeros_and_golds_with_commas(mirror):
    aime = benchmarks.benchmark_questions("aime24", mirror=mirror)
    assert judged(aime, [thought(q.solution.lstrip("0") or "0") for q in aime]) == [1.0] * 30
    gsm8k = benchmarks.benchmark_questions("gsm8k", mirror=mirror)
    assert [q.solution for q in gsm8k] == ["6", "34", "1600"]
    assert judged(gsm8k, [thought("6"), thought("34"), thought("1,600")]) == [1.0] * 3


def test_a_finished_answer_without_tags_counts_and_a_cut_off_thought_does_not(mirror):
    question = benchmarks.benchmark_questions("gsm8k", mirror=mirror)[0]
    assert judged([question], ["She has \\boxed{6}."]) == [1.0]
    assert judged([question], ["She has \\boxed{6}. Wait,"], finished=False) == [0.0]
    assert judged([question], ["<think>\nShe has \\boxed{6}."]) == [0.0]
    story = Question(
        "p", "6", 1, [{"role": "user", "content": "p"}]
    )  # judged as in training: tags are the form
    assert judged([story], ["She has \\boxed{6}."]) == [0.0]


def test_choices_keep_their_order_in_every_run_and_the_letters_are_spread(mirror):
    first, again = (benchmarks.benchmark_questions("gpqa_diamond", mirror=mirror) for _ in range(2))
    assert first == again
    for question, (_, right, _) in zip(first, shards.CHOICES, strict=True):
        assert f"\n{question.solution}) {right}" in question.prompt[0]["content"]
    golds = {
        benchmarks._gpqa({"Question": f"q{n}", "Correct Answer": "r", **dict.fromkeys(
            ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"), "w")})[2]
        for n in range(40)
    }  # fmt: skip
    assert golds == set("ABCD")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: C", "C"),
        ("**Answer:** (B)", "B"),
        ("The answer is **D**.", "D"),
        (r"Answer: $\text{A}$", "A"),
        (r"The final answer is $\boxed{C}$", "C"),
        (r"$\boxed{\text{b) covalent}}$", "B"),
        ("Answer: A would be wrong.\nAnswer: D", "D"),
        ("It depends.", None),
        ("Answer: Every one of them", None),
    ],
)
def test_the_letter_that_a_reader_would_take(text, letter):
    assert letter_after_reasoning(f"<think>\nAnswer: A?\n</think>\n{text}") == letter
    assert letter_after_reasoning(text) is None, "nothing counts before the reasoning is closed"


def test_programs_run_in_the_sandbox_with_public_and_private_cases(mirror):
    reads, called = benchmarks.benchmark_questions("lcb", mirror=mirror)
    assert "reads the inputs" in reads.prompt[0]["content"]
    assert "class Solution" in called.prompt[0]["content"]
    good = "</think>\n```python\na, b = map(int, input().split())\nprint(a + b)\n```"
    only_public = "</think>\n```python\nprint(3)\n```"
    method = "</think>\n```python\nclass Solution:\n    def add(self, a, b):\n        return a + b\n```"
    questions = [reads, reads, called, called]
    assert judged(questions, [good, only_public, method, "</think>\nNo idea."]) == [1.0, 0.0, 1.0, 0.0]


def test_the_window_chooses_contests_and_an_empty_one_is_an_error(mirror):
    old = benchmarks.benchmark_questions("lcb", mirror=mirror, window=("2023-01-01", "2023-12-31"))
    assert [q.problem.split(":")[0] for q in old] == ["old"]
    with pytest.raises(BenchmarkError, match="no problem between 2020-01-01 and 2020-02-01"):
        benchmarks.benchmark_questions("lcb", mirror=mirror, window=("2020-01-01", "2020-02-01"))


class Malicious:
    def __reduce__(self):
        return eval, ("1/0",)


@pytest.mark.parametrize(
    "packed",
    [
        base64.b64encode(zlib.compress(pickle.dumps(Malicious()))).decode(),
        base64.b64encode(zlib.compress(pickle.dumps(["no", "text"]))).decode(),
        base64.b64encode(b"not zlib").decode(),
        "neither JSON nor base64",
    ],
)
def test_test_cases_that_are_anything_but_a_text_are_refused(packed):
    with pytest.raises(ValueError, match="private_test_cases"):
        benchmarks.private_cases(packed)
    with pytest.raises(BenchmarkError, match="LiveCodeBench: test cases that cannot be read"):
        benchmarks.code_cases({"public_test_cases": "[]", "private_test_cases": packed, "metadata": "{}"})


def test_what_is_missing_or_changed_is_said(tmp_path, mirror, monkeypatch):
    with pytest.raises(BenchmarkError, match=r"no benchmark is called 'aime_24'.*Did you mean aime24"):
        benchmarks.benchmark_questions("aime_24", mirror=mirror)
    with pytest.raises(
        BenchmarkError, match=r"AIME 2024: no .parquet or .jsonl below .*HuggingFaceH4/aime_2024"
    ):
        benchmarks.benchmark_questions("aime24", mirror=str(tmp_path))
    changed = tmp_path / "HuggingFaceH4/MATH-500/test.jsonl"
    changed.parent.mkdir(parents=True)
    changed.write_text(json.dumps({"question": "1+1?", "answer": "2"}) + "\n")
    with pytest.raises(BenchmarkError, match="has no column 'problem'; it has question, answer"):
        benchmarks.benchmark_questions("math_500", mirror=str(tmp_path))
    monkeypatch.setenv("R1KIT_MIRROR", mirror)
    assert len(benchmarks.benchmark_questions("math_500")) == 12
