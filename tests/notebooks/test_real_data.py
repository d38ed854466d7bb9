"""The lessons under a profile with real data, offline: a mirror, a model folder, two steps of each training.

One run of notebooks 00 to 05, of which each test reads a part.
"""

import json

import pandas as pd
import pytest

from r1kit.data import synthetic_mirror
from r1kit.data.datasets import load
from r1kit.views.rollouts import load_rollouts
from tests.evaluation.shards import write_mirror
from tests.notebooks.conftest import real_small

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

BENCHMARKS = {"aime24": 2, "math_500": 2, "gpqa_diamond": 1, "lcb": 1}
MODEL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="session")
def mirror(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirror")
    synthetic_mirror.write_mirror(folder)
    return write_mirror(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model nobody trained, as a folder with a tokenizer and a chat template."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r1kit.data.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["Ann has 17 apples and gives 3 away. How many are left?"], 300)
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **MODEL, **ends)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real_profile(tmp_path_factory, mirror, model):
    """A tiny model, an excerpt of the same datasets."""
    changes = {
        "data": {"mirror": str(mirror), "heldout_share": 0.2, "max_prompt_length": 400},
        "sft": {
            "model_name_or_path": str(model), "max_length": 2048, "max_steps": 2, "num_train_epochs": None,
            "save_steps": 2,
        },
        "grpo": {
            "max_steps": 2, "num_train_epochs": None, "num_generations": 4, "per_device_train_batch_size": 8,
            "max_completion_length": 16, "mask_truncated_completions": False,
        },
        "evaluation": {"benchmarks": BENCHMARKS, "most": 2, "max_new_tokens": 16},
    }  # fmt: skip
    return real_small(tmp_path_factory.mktemp("profiles") / "real-small", changes)


@pytest.fixture(scope="module")
def run(runs, real_profile):
    """The folder of a run of all that `--stages 00-05` means on a machine with GPUs, 04b_rewards aside."""
    code, output = runs.run(
        "run", "--profile", str(real_profile), "--run-id", "real", "--stages", "00,01,02,03,04,05"
    )
    assert code == 0, output[-4000:]
    return runs.folder / "real"


def result(stage):
    return json.loads((stage / "result.json").read_text())


def test_the_data_lesson_prepares_the_profiles_data(run):
    stage = run / "01_data"
    card = json.loads((stage / "datasets" / "card.json").read_text())
    assert result(stage)["metrics"]["traces_prepared"] == card["sets"]["traces"] > 30
    assert not (stage / "model").exists(), "real data needs no base model of the stories"
    traces = load(stage / "datasets" / "traces")
    assert traces[0]["messages"][-1]["content"].startswith("<think>")
    notebook = (stage / "notebook.ipynb").read_text()
    assert "Data card" in notebook
    assert "open-r1/Mixture-of-Thoughts/math/train" in notebook


def test_the_sft_trains_on_it(run):
    assert result(run / "02_sft")["metrics"]["steps"] == 2  # as sft.yaml says


def test_grpo_answers_its_problems_and_judges_them_by_their_solutions(run):
    stage = run / "04_grpo"
    prepared = {row["problem"] for row in load(run / "01_data" / "datasets" / "prompts")}
    rollouts = load_rollouts(stage / "rollouts")
    assert set(rollouts["step"]) == {1, 2}
    asked = set(rollouts["prompt"])
    assert asked
    assert all(any(problem in prompt for problem in prepared) for prompt in asked)
    assert rollouts["reward_accuracy"].notna().all(), "an answer that could not be judged"


def test_the_evaluation_asks_the_benchmarks_of_every_checkpoint(run):
    stage = run / "05_evaluation"
    assert set(result(stage)["pass@1"]) == {"base", "sft", "grpo"}
    for name in ("base", "sft", "grpo"):
        frame = pd.read_parquet(stage / f"{name}.parquet")
        assert frame.groupby("level").size().to_dict() == {name: 2 * n for name, n in BENCHMARKS.items()}
        assert frame["correct"].notna().all()
