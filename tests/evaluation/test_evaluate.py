"""Sampling from, and evaluation of, tiny models; one of them with answers known beforehand."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from r1kit.data.datasets import build_heldout
from r1kit.data.format import user_prompt, write_completion
from r1kit.data.tokenizer import train_tokenizer
from r1kit.evaluation import evaluate, generate, pass1_entry
from r1kit.evaluation.benchmarks import story_questions
from r1kit.evaluation.sampler import ContextTooShort

HELDOUT = build_heldout(6, seed=5, levels=(1, 2))
SETTINGS = {
    "problems_per_level": 4, "samples": 3, "levels": [1, 2], "temperature": 1.0, "top_p": 1.0,
    "max_new_tokens": 24, "batch_size": 5, "k": [1, 2], "seed": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(
        [row["problem"] for row in HELDOUT] + [write_completion(["Step 1: 1 + 1 = 2"], "2")], 300
    )


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=320,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


@pytest.fixture(scope="module")
def prompts():
    return [user_prompt(row["problem"]) for row in HELDOUT]


@pytest.fixture
def recites(model, tokenizer, monkeypatch):
    """Make the model answer every prompt with one known text, by allowing no other token."""

    def teach(text: str):
        script = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        whole = type(model).generate

        def scripted(self, inputs, *, max_new_tokens, **kwargs):
            def force(_, ids):
                at = len(ids) - inputs.shape[1]
                return [script[min(at, len(script) - 1)]]

            return whole(
                self, inputs, max_new_tokens=max_new_tokens, prefix_allowed_tokens_fn=force, **kwargs
            )

        monkeypatch.setattr(type(model), "generate", scripted)

    return teach


def test_the_same_seed_gives_the_same_completions_and_leaves_the_callers_randomness_alone(
    model, tokenizer, prompts
):
    before = torch.random.get_rng_state()
    first = generate(model, tokenizer, prompts, 2, max_new_tokens=16, batch_size=5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = generate(model, tokenizer, prompts, 2, max_new_tokens=16, batch_size=5, seed=3)
    other = generate(model, tokenizer, prompts, 2, max_new_tokens=16, batch_size=5, seed=4)
    assert first.completions == again.completions != other.completions
    assert [len(c) for c in first.completions] == [2] * len(prompts)
    assert first.tokens_per_second > 0


def test_padding_and_batching_do_not_change_a_greedy_answer(model, tokenizer, prompts):
    together = generate(model, tokenizer, prompts, temperature=0, max_new_tokens=16, batch_size=64)
    alone = generate(model, tokenizer, prompts, temperature=0, max_new_tokens=16, batch_size=1)
    assert together.completions == alone.completions


def test_generation_stops_at_the_end_of_the_turn_and_counts_tokens_up_to_it(
    model, tokenizer, prompts, recites
):
    text = write_completion(["Step 1: 1 + 1 = 2"], "2")
    recites(text)
    done = generate(model, tokenizer, prompts[:3], 2, max_new_tokens=64)
    assert done.completions == [[text] * 2] * 3
    assert done.finished == [[True] * 2] * 3
    assert done.tokens == [[len(tokenizer(text)["input_ids"]) + 1] * 2] * 3
    cut = generate(model, tokenizer, prompts[:1], max_new_tokens=4)
    assert (cut.finished, cut.tokens) == ([[False]], [[4]])


def test_progress_counts_completions(model, tokenizer, prompts):
    seen = []
    generate(
        model, tokenizer, prompts[:4], 2, max_new_tokens=4, batch_size=3, progress=lambda *a: seen.append(a)
    )
    assert seen == [(3, 8), (6, 8), (8, 8)]


def test_a_prompt_that_leaves_no_room_for_the_answer_is_an_error(model, tokenizer, prompts):
    with pytest.raises(ContextTooShort, match="exceeds the model's context of 320"):
        generate(model, tokenizer, prompts, max_new_tokens=310)
    with pytest.raises(ValueError, match="greedy"):
        generate(model, tokenizer, prompts, 2, temperature=0)


def test_an_evaluation_has_a_judged_row_per_completion(model, tokenizer, recites, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    problems = story_questions(HELDOUT, 4)
    answer = problems[0].solution
    recites(write_completion(["so it is"], answer))
    seen = []
    settings = SETTINGS | {"max_new_tokens": 40}
    frame = evaluate(tmp_path, HELDOUT, settings, progress=lambda *a: seen.append(a))
    assert len(frame) == 8 * (3 + 1)
    assert frame["greedy"].sum() == 8
    assert seen[-1] == (32, 32)
    right = frame["solution"] == answer
    assert frame.loc[right, "correct"].eq(1.0).all()
    assert frame.loc[~right, "correct"].eq(0.0).all()
    assert frame["form"].eq(1.0).all()
    share = sum(question.solution == answer for question in problems) / 8
    assert pass1_entry(frame, [1, 2])["value"] == pytest.approx(share)


def test_every_checkpoint_is_asked_the_same_problems_and_too_few_are_an_error():
    asked = [question.problem for question in story_questions(HELDOUT, 2)]
    assert asked == [row["problem"] for row in HELDOUT[:2] + HELDOUT[6:8]]
    with pytest.raises(ValueError, match="level 1 has 6 held-out problems"):
        story_questions(HELDOUT, 7)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        evaluate(tmp_path / "none", HELDOUT, SETTINGS)
