from __future__ import annotations

import re
import subprocess
import sys

import pytest

from r1kit.data import stories
from r1kit.data.curation import keep_verified
from r1kit.data.datasets import (
    LeakError,
    build_heldout,
    build_prompts,
    build_traces,
    check_disjoint,
    load,
    save,
)
from r1kit.data.format import TAGS
from r1kit.data.stories import normalise
from tests.data.answers import boxed


def judge(completions, solution, **columns):
    answers = [boxed(c[0]["content"]) for c in completions]
    return [None if a is None else float(a == s) for a, s in zip(answers, solution, strict=True)]


def test_heldout_problems_are_different_and_as_many_as_asked_for_at_every_level():
    rows = build_heldout(40, seed=0)
    assert [sum(r["level"] == k for r in rows) for k in range(1, 6)] == [40] * 5
    assert len({normalise(r["problem"]) for r in rows}) == 200


def test_training_and_heldout_are_disjoint_whatever_the_seeds():
    heldout = build_heldout(100, seed=0, levels=[1, 2])
    for seed in range(3):
        assert check_disjoint(build_traces(3000, seed, [1, 2]), heldout) == 200
        assert check_disjoint(build_prompts(3000, seed, [1, 2]), heldout) == 200


def test_a_leak_is_named_even_when_it_is_written_differently():
    heldout = build_heldout(5, seed=0, levels=[1])
    leaked = [{"problem": "  " + heldout[3]["problem"].upper().replace(".", " ;")}]
    with pytest.raises(
        LeakError, match=r"1 of 5 held-out problems.*" + re.escape(normalise(heldout[3]["problem"]))
    ):
        check_disjoint(leaked, heldout)


def test_traces_and_prompts_do_not_share_their_draws():
    traces = {r["problem"] for r in build_traces(500, 0, [3])}
    prompts = {r["prompt"][0]["content"] for r in build_prompts(500, 0, [3])}
    assert len(traces & prompts) < 5


def test_the_corpus_knows_neither_the_form_of_the_task_nor_a_heldout_problem():
    text = "\n".join(stories.documents(5000, 0))
    assert not any(tag in text for tag in (*TAGS, "boxed", "Step", "<|im_start|>", "How many"))
    told = normalise(re.sub(r" Now \w+ has \d+\.", "", text))
    for row in build_heldout(60, seed=0, levels=[1, 2, 3]):
        assert normalise(row["problem"].split(" How many")[0]) + " " not in told


def test_rejection_sampling_removes_wrong_answers_and_what_cannot_be_judged():
    rows = build_traces(400, seed=0, slip_rate=0.15)
    rows[0]["messages"][1] = {"role": "assistant", "content": "no idea"}
    kept, removed = keep_verified(rows, judge)
    assert len(kept) + len(removed) == 400
    assert all(boxed(r["messages"][1]["content"]) == r["solution"] and r["verified"] for r in kept)
    assert rows[0]["problem"] == removed[0]["problem"]
    assert 0.1 < len(removed) / 400 < 0.35


def test_a_judge_that_forgets_rows_is_refused():
    with pytest.raises(ValueError, match="0 verdicts for 1"):
        keep_verified(build_traces(1, 0), lambda completions, solution: [])


def test_saved_sets_come_back_and_a_leak_is_not_saved(tmp_path):
    heldout = build_heldout(5, seed=0, levels=[1])
    save({"traces": build_traces(20, 0), "heldout": heldout}, tmp_path)
    assert load(tmp_path / "traces")[0]["messages"][0]["role"] == "user"
    assert load(tmp_path / "heldout")["problem"] == [r["problem"] for r in heldout]
    with pytest.raises(LeakError):
        save({"prompts": heldout, "heldout": heldout}, tmp_path / "leak")
    assert not (tmp_path / "leak").exists()
    with pytest.raises(FileNotFoundError, match="01_data"):
        load(tmp_path / "leak")


def test_importing_the_data_room_loads_neither_torch_nor_transformers():
    modules = ["curation", "datasets", "format", "stories", "tokenizer"]
    code = "import sys;" + ";".join(f"import r1kit.data.{m}" for m in modules)
    code += ";assert not {'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
