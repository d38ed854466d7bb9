"""R1's order of stages under a profile with real data and benchmarks, offline: its lesson, headless.

A mirror holds rows of our own in the schemas of the real datasets, with two answers to everything. A small
model learns the form in seconds and is right half of the time: enough for every stage to find work.
"""

import json

import nbformat
import pytest

from r1kit.evaluation.benchmarks import MATH_PROMPT
from r1kit.settings import yaml_dump
from tests.notebooks.conftest import real_small

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(2400)]

ANSWERS = ("4", "7")
SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
TAUGHT = {"sft.max_steps": 150, "sft.learning_rate": 0.005}
ASKED = {"samples": 4, "max_new_tokens": 40, "batch_size": 64}
PIPELINES = {
    "r1": {
        "about": "R1's order, small",
        "stages": [
            {"name": "cold_start", "kind": "sft", "set": TAUGHT},
            {"name": "measured", "kind": "pass_rate", "model": "cold_start", "highest": 0.9, **ASKED},
            {
                "name": "reasoning", "kind": "grpo", "model": "cold_start", "data": "measured",
                "set": {"grpo.max_steps": 2, "grpo.curriculum": {"strategy": "pass_rate"}},
            },
            {"name": "sampled", "kind": "rejection_sampling", "model": "reasoning", "keep": 2, **ASKED},
            {"name": "union", "kind": "merge_data", "data": ["sampled", "traces"]},
            {"name": "sft", "kind": "sft", "data": "union", "set": TAUGHT},
            {"name": "judged", "kind": "evaluate", "models": ["base", "cold_start", "reasoning", "sft"]},
        ],
    }
}  # fmt: skip
NAMES = [stage["name"] for stage in PIPELINES["r1"]["stages"]]


def answer(number):
    return ANSWERS[number % 2]


def trace(question, said):
    text = f"<think>\n{said}\n</think>\n\n\\boxed{{{said}}}"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": text}]


def asked_of(number):
    """A question, every second time in the benchmarks' words."""
    question = f"Which number has shelf {number}?"
    return MATH_PROMPT.format(problem=question) if number % 2 else question


def write_parts(folder):
    """The datasets of gpu-small's data.yaml and two benchmarks, as a mirror has them."""
    from r1kit.data.row_files import in_batches, write_parquet
    from r1kit.data.sources import SOURCES

    asked = [f"Which number has box {number}?" for number in range(48)]
    rows = {
        "open-r1/Mixture-of-Thoughts/math": [
            {"messages": trace(asked_of(i), answer(i // 2)), "num_tokens": 9, "source": ""}
            for i in range(120)
        ],
        "open-r1/DAPO-Math-17k-Processed/en": [
            {
                "prompt": question, "solution": answer(i), "data_source": "ours", "source_prompt": [],
                "ability": "MATH", "reward_model": {"ground_truth": answer(i), "style": "rule"},
                "extra_info": {"index": str(i)},
            }
            for i, question in enumerate(asked)
        ],
    }  # fmt: skip
    for name, made in rows.items():
        schema = SOURCES[name.rpartition("/")[0]].schema
        write_parquet(folder / name / "train-00000-of-00001.parquet", schema, in_batches(made, schema))
    for name in ("HuggingFaceH4/aime_2024/train.jsonl", "HuggingFaceH4/MATH-500/test.jsonl"):
        path = folder / name
        path.parent.mkdir(parents=True)
        lines = [{"problem": f"Which number has {name[14]} {i}?", "answer": answer(i)} for i in range(6)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_model(folder):
    """A model nobody trained, with a tokenizer that knows the words of the mirror."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r1kit.data.tokenizer import train_tokenizer

    texts = [turn["content"] for number in range(40) for turn in trace(asked_of(number), answer(number))]
    tokenizer = train_tokenizer([*texts, "box"], 400)
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **SHAPE, **ends)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The small model, the mirror."""
    place = tmp_path_factory.mktemp("real")
    changes = {
        "data": {"mirror": str(write_parts(place / "mirror")), "heldout_share": 0.1, "prompts": 40},
        "sft": {
            "model_name_or_path": str(write_model(place / "model")), "max_length": 256,
            "per_device_train_batch_size": 16,
        },
        "grpo": {
            "num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 40,
            "save_steps": 1,
        },
        "evaluation": {"benchmarks": {"aime24": 2, "math_500": 2}, "max_new_tokens": 40},
    }  # fmt: skip
    folder = real_small(place / "profiles" / "real-small", changes)
    (folder / "pipeline.yaml").write_text(yaml_dump({"pipelines": PIPELINES}))
    return folder


@pytest.fixture(scope="module")
def done(runs, profile):
    """The finished run: (summary, run folder)."""
    code, output = runs.run("run", "--profile", str(profile), "--pipeline", "r1", "--run-id", "real-r1")
    assert code == 0, output[-4000:]
    return runs.summary("real-r1"), runs.folder / "real-r1"


def test_every_stage_of_r1_is_done_and_every_checkpoint_has_its_score(done):
    summary, run = done
    stages = {f"06_pipeline/{name}" for name in NAMES}
    assert {name for name, stage in summary["stages"].items() if stage["status"] == "completed"} >= stages
    assert list(summary["pass@1"]) == ["base", "cold_start", "reasoning", "sft"]
    for entry in summary["pass@1"].values():
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert (entry["problems"], entry["samples"]) == (12, 24)
    assert summary["pass@1"]["base"]["value"] == 0  # never taught
    assert summary["pass@1"]["sft"]["value"] > 0
    metrics = json.loads((run / "06_pipeline" / "judged" / "result.json").read_text())["metrics"]
    assert {"pass@1/sft/level_aime24", "pass@1/sft/level_math_500/low"} <= set(metrics)


def test_prompts_carry_their_measured_rate_into_the_rollouts(done):
    from r1kit.data import datasets
    from r1kit.views.rollouts import load_rollouts

    folder = done[1] / "06_pipeline"
    rates = set(datasets.load(folder / "measured" / "data")["pass_rate"])
    assert rates <= {0.25, 0.5, 0.75}
    assert set(load_rollouts(folder / "reasoning" / "rollouts")["pass_rate"]) <= rates


def test_the_lesson_draws_benchmarks_and_pass_rates_where_there_are_no_levels(done):
    notebook = nbformat.read(done[1] / "06_pipeline" / "notebook.ipynb", 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = json.dumps(outputs)
    assert "aime24" in shown
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
