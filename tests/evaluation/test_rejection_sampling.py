"""Rejection sampling: what is kept and why not, and the same dataset however often it was interrupted."""

import shutil

import pytest

from r1kit.evaluation import checkpoints, rejection_sampling
from r1kit.evaluation.rejection_sampling import reason_against, repetition, select
from r1kit.evaluation.sampler import Completion, Samples
from r1kit.pipeline import data as pipeline_data
from r1kit.runs.files import read_json
from r1kit.settings import load_profile
from r1kit.training import program

RULES = {
    "prompts": None, "samples": 2, "keep": 1, "deduplicate": True, "longest": 20, "repetition": 0.5,
    "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 20, "batch_size": 4, "seed": 0, "forms": ["format"],
}  # fmt: skip
FORM = "<think>\n{}\n</think>\n<answer>\n\\boxed{{{}}}\n</answer>"


def answered(**changes):
    return {"completion": "a b c d", "correct": 1.0, "form": 1.0, "tokens": 9, "finished": True} | changes


@pytest.mark.parametrize(
    ("changes", "had", "reason"),
    [
        ({}, [], ""),
        ({"finished": False}, [], "unfinished"),
        ({"correct": None}, [], "unjudged"),
        ({"correct": 0.0, "form": 0.0}, [], "wrong"),
        ({"form": 0.5}, [], "form"),
        ({"tokens": 21}, [], "long"),
        ({"completion": "so it is " * 6}, [], "repetitive"),
        ({"completion": "a  b\nc d"}, ["a b c d"], "duplicate"),
        ({}, ["another"], "surplus"),
    ],
)
def test_an_answer_is_left_out_for_the_first_reason_that_holds(changes, had, reason):
    assert reason_against(answered(**changes), had, RULES) == reason


def test_repetition_is_the_share_of_word_four_grams_that_came_before():
    assert repetition("one two three") == 0.0
    assert repetition("a b c d e") == 0.0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)


def test_what_is_kept_looks_like_the_teachers_traces_and_everything_is_counted():
    prompts = [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "solution": str(i), "level": 1} for i in (1, 2)
    ]
    answers = [answered(problem="q1"), answered(problem="q1"), answered(problem="q2", correct=0.0)]
    kept, counts = select(answers, prompts, RULES)
    assert [turn["role"] for turn in kept[0]["messages"]] == ["user", "assistant"]
    assert (kept[0]["solution"], kept[0]["level"], kept[0]["verified"]) == ("1", 1, True)
    assert counts["answers"] == counts["kept"] + sum(counts[r] for r in rejection_sampling.REASONS) == 3
    assert (counts["duplicate"], counts["wrong"], counts["prompts_solved"]) == (1, 1, 1)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job whose model answers rightly by the parity of prompt and seed, in shards of two prompts."""
    from r1kit.data import datasets

    datasets.save({"prompts": datasets.build_prompts(7, 0)}, tmp_path)
    solutions = {row["prompt"][-1]["content"]: row["solution"] for row in datasets.build_prompts(7, 0)}
    asked = []

    class Scripted:
        def sample(self, prompts, sampling, samples):
            asked.append(sampling.seed)
            return Samples(
                [[self.answer(p[-1]["content"], sampling.seed, s) for s in range(samples)] for p in prompts]
            )

        def answer(self, problem, sample, seed):
            right = (len(problem) + seed + sample) % 2 == 0
            text = FORM.format(f"thought {seed}", solutions[problem] if right else 99)
            return Completion(text, 9, True)

    monkeypatch.setattr(rejection_sampling, "sampler_of", lambda job, told: Scripted())

    def make(folder):
        (tmp_path / folder).mkdir(exist_ok=True)
        inputs = {"prompts": str(tmp_path / "prompts"), "model": "none"}
        return program.Job(tmp_path / folder, {"parameters": RULES}, inputs)

    return make, asked


def test_interrupted_sampling_goes_on_with_the_next_shard_and_ends_with_the_same_rows(job):
    from r1kit.data import datasets

    make, asked = job
    whole, broken = make("whole"), make("broken")
    rejection_sampling.sample(whole)
    rejection_sampling.sample(broken)
    shutil.rmtree(broken.folder / "data")
    (broken.folder / "shards" / "0000004.json").unlink()
    (broken.folder / "shards" / "0000006.json").write_text('[{"half a')
    asked.clear()
    rejection_sampling.sample(broken)
    assert asked == [2, 3]
    rows = [datasets.load(j.folder / "data").to_list() for j in (whole, broken)]
    assert rows[0] == rows[1]
    assert read_json(whole.folder / "counts.json") == read_json(broken.folder / "counts.json")
    assert read_json(whole.folder / "counts.json")["answers"] == 14


def test_a_model_that_is_never_right_is_an_error_not_an_empty_dataset(job, monkeypatch):
    make, _ = job
    monkeypatch.setattr(
        rejection_sampling, "judge_of", lambda forms: lambda c, s: ([0.0] * len(c), [1.0] * len(c))
    )
    with pytest.raises(ValueError, match="no answer was kept"):
        rejection_sampling.sample(make("wrong"))


def test_the_judge_is_the_accuracy_reward_and_the_form_that_grpo_rewards():
    judge = rejection_sampling.judge_of(["format"])
    right, form = judge(
        [FORM.format("s", 4), FORM.format("s", 5), "<think>\ns\n</think>\n\\boxed{4}"], ["4"] * 3
    )
    assert (right, form) == ([1.0, 0.0, 1.0], [1.0, 1.0, 0.0])


def test_a_union_keeps_a_trace_once_and_says_where_it_is_from():
    def trace(text):
        return {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}],
            "level": 1,
        }

    rows, counts = pipeline_data.merge(
        {"sampled": [trace("a"), trace("b")], "traces": [trace("a "), trace("c")]}
    )
    assert [(row["messages"][1]["content"], row["source"]) for row in rows] == [
        ("a", "sampled"),
        ("b", "sampled"),
        ("c", "traces"),
    ]
    assert counts == {"sampled": 2, "traces": 1, "duplicates": 1}


def test_parts_hold_all_problems_once_with_seeds_of_their_own(tmp_path):
    from r1kit.data import datasets

    rows = [
        {"level": level, "problem": f"{level}-{i}", "solution": "1"} for level in (1, 3) for i in range(5)
    ]
    datasets.save({"heldout": rows}, tmp_path)
    settings = load_profile("cpu-tiny").evaluation.model_copy(
        update={"problems_per_level": 5, "samples": 4, "batch_size": 8}
    )
    job = program.Job(tmp_path, {}, {"heldout": str(tmp_path / "heldout")})
    parts = checkpoints.parts_of(job, settings)
    assert [len(questions) for _, questions in parts] == [2, 2, 1, 2, 2, 1]
    assert [q.problem for _, questions in parts for q in questions] == [row["problem"] for row in rows]
    assert [seed for seed, _ in parts] == [1000, 1001, 1002, 3000, 3001, 3002]
