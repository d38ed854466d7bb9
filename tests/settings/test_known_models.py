"""Shapes add up to the totals that are published, and agree with transformers' own models."""

from __future__ import annotations

import pytest

from r1kit.settings.known_models import KNOWN_MODELS, LONGER, ModelShape, shape_from_config


@pytest.mark.parametrize(
    ("name", "all_billions", "matrix_billions"),
    [
        ("Qwen/Qwen2.5-Math-7B", 7.615, 7.070),
        ("meta-llama/Llama-3.1-8B", 8.030, 7.505),
        ("Qwen/Qwen3-4B", 4.022, 4.022),
        ("Qwen/Qwen2.5-1.5B", 1.544, 1.544),
        ("Qwen/Qwen2.5-0.5B", 0.494, 0.494),
    ],
)
def test_shapes_add_up_to_the_published_totals(
    name: str, all_billions: float, matrix_billions: float
) -> None:
    model = KNOWN_MODELS[name]
    assert model.parameters / 1e9 == pytest.approx(all_billions, abs=0.0008)
    assert model.matrix_parameters / 1e9 == pytest.approx(matrix_billions, abs=0.0008)


@pytest.mark.slow
def test_counts_are_those_of_transformers_models() -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

    for kind, config in (("qwen2", Qwen2Config), ("qwen3", Qwen3Config)):
        values = {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 300,
            "max_position_embeddings": 128,
            "tie_word_embeddings": kind == "qwen2",
            "head_dim": 16,
        }
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config(**values))
        shape = shape_from_config(values | {"model_type": kind})
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_config_says_the_shape_in_old_and_new_form() -> None:
    config = {
        "model_type": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 431,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    new = shape_from_config(config | {"rope_parameters": {"rope_theta": 5e5}})
    old = shape_from_config(config | {"rope_theta": 5e5})
    assert new == old
    assert isinstance(new, ModelShape)
    assert new.rope_theta == 5e5
    with pytest.raises(KeyError, match="vocab_size"):
        shape_from_config({name: value for name, value in config.items() if name != "vocab_size"})


def test_a_longer_sibling_has_the_same_weights() -> None:
    for short, long in LONGER.items():
        assert KNOWN_MODELS[short].parameters == KNOWN_MODELS[long].parameters
        assert KNOWN_MODELS[short].max_position_embeddings < KNOWN_MODELS[long].max_position_embeddings
