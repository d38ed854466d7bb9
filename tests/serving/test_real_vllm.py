"""The real vLLM on the CPU, from start to end, with a model of two layers. Skipped where it is missing."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest

from r1kit.pipeline.writers import ServedWriter, largest_difference, model_of
from r1kit.serving import health
from r1kit.serving.start import serve
from r1kit.settings.models import MachineSettings
from tests.serving.conftest import processes_of, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.failures,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-cluster"
    ),
]
SERVER = {
    "max_model_len": 128,
    "dtype": "float32",
    "kv_cache_gib": 0.1,
    "eager": True,
    "restart": True,
    "environment": {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two models that differ in their weights alone; vLLM on a CPU wants heads of 32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r1kit.data import corpus
    from r1kit.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(corpus.documents(100, 0), 400)
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = Qwen2Config(
        vocab_size=len(tokenizer), intermediate_size=64, max_position_embeddings=128,
        tie_word_embeddings=True, **shape,
    )  # fmt: skip
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folders.append(tmp_path_factory.mktemp("models") / str(seed))
        Qwen2ForCausalLM(config).save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])
    return folders, tokenizer


def test_it_takes_new_weights_samples_from_them_comes_back_from_a_kill_and_leaves_nothing(
    checkpoints, tmp_path
):
    (first, second), tokenizer = checkpoints
    machine = MachineSettings.model_validate(
        {"device": "cpu", "grace_seconds": 5, "environment": {"HF_HUB_OFFLINE": "1"}, "server": SERVER}
    )
    server = serve(tmp_path / "server", machine, first, tell=lambda line: None)
    try:
        server.wait_ready()
        writer = ServedWriter(server, tokenizer, tmp_path)
        prompts = [[{"role": "user", "content": f"Ann has {n} apples."}] for n in range(4)]
        writer.load(second)
        written = writer.write(prompts, 24, at_once=4)
        assert largest_difference(model_of(second), written)[1] < 1e-4
        assert largest_difference(model_of(first), written)[0] > 1e-2, "the two models are told apart"
        os.kill(server.state["pids"][0], signal.SIGKILL)
        wait_for(lambda: server.state["state"] == "restarting")
        server.wait_ready()
        assert health.healthy(server.urls[0])
        writer.transport.close()
        left = processes_of(server)
    finally:
        server.stop()
    assert not [process for process in left if process.is_running()]
