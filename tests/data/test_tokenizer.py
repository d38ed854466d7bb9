from __future__ import annotations

import pytest

from r1kit.data import stories
from r1kit.data.datasets import build_traces
from r1kit.data.format import TAGS
from r1kit.data.tokenizer import train_tokenizer

TRACES = build_traces(300, seed=0)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(stories.documents(500, 0) + [r["messages"][1]["content"] for r in TRACES])


def test_every_digit_is_a_token_of_its_own(tokenizer):
    for text in ("1234567890", "Step 12: 17 - 13 = 4", "\\boxed{20}"):
        tokens = tokenizer.tokenize(text)
        assert all(sum(c.isdigit() for c in token) <= 1 for token in tokens)


def test_a_copy_loaded_beside_a_qwen2_config_encodes_alike(tokenizer, tmp_path):
    """2026-11-23: AutoTokenizer rebuilt ours as Qwen2Tokenizer, which cut numbers differently."""
    from transformers import AutoTokenizer, Qwen2Config

    Qwen2Config(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "Qwen2Tokenizer"
    for row in TRACES[:50]:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        assert loaded(text).input_ids == tokenizer(text).input_ids
        assert loaded.decode(loaded(text).input_ids) == text
    assert loaded.eos_token == "<|im_end|>"
    assert loaded.pad_token == "<|endoftext|>"
    assert loaded.chat_template == tokenizer.chat_template


def test_text_survives_encoding_and_decoding(tokenizer):
    for text in ("Ann has 7 apples.\n", "naïve 漢字 🎲", TRACES[0]["messages"][1]["content"]):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_tags_are_single_tokens_that_decoding_without_special_tokens_keeps(tokenizer):
    completion = TRACES[0]["messages"][1]["content"]
    ids = tokenizer(completion + "<|im_end|>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == completion
    assert all(len(tokenizer(tag).input_ids) == 1 for tag in TAGS)


def test_the_end_of_a_turn_ends_generation_and_padding_is_something_else(tokenizer):
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_chat_template_is_chatml(tokenizer):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_assistant_mask_covers_the_answer_and_its_end_mark_only(tokenizer):
    messages = TRACES[0]["messages"]
    out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    spoken = [i for i, on in zip(out["input_ids"], out["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(spoken) == messages[1]["content"] + "<|im_end|>"


def test_a_vocabulary_without_room_for_merges_is_refused():
    with pytest.raises(ValueError, match="vocabulary_size"):
        train_tokenizer(["text"], vocabulary_size=256)
