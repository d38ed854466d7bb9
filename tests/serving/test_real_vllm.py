"""The real vLLM on the CPU, one server for all of it: traces, new weights, a GRPO trainer, a kill, the end.

Skipped where vLLM is not installed. Its start takes 20 to 40 s, nearly all imports in three processes.
"""

from __future__ import annotations

import importlib.util
import os
import signal

import psutil
import pytest

from r1kit.data.row_files import open_rows
from r1kit.evaluation.generation import ask_teacher, write_traces
from r1kit.evaluation.lesson_samplers import largest_difference, model_of, served_sampler
from r1kit.evaluation.server_sampler import NotAllowed, answers_in, only_model
from r1kit.runs.files import read_json
from r1kit.serving.server import serve
from r1kit.settings.machine import MachineSettings
from tests.data.rows import write_jsonl
from tests.evaluation.test_generation import ROWS, judge, settings
from tests.failures import cluster
from tests.serving.conftest import processes_of
from tests.training.conftest import rows, tokenizer, world  # noqa: F401 - fixtures

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
    "start_seconds": 600,
    "generation_seconds": 300,
    "environment": {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": 1},
}
SHAPE = {  # vLLM on a CPU wants heads of 32
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):  # noqa: F811
    """Two models that differ in their weights alone."""
    import torch

    from r1kit.training.pretrain import build_model

    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folders.append(tmp_path_factory.mktemp("models") / str(seed))
        build_model(SHAPE, tokenizer).save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])
        cluster.eager_to_end(folders[-1])
    return folders


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """Returns at once; whoever needs it waits."""
    machine = {"device": "cpu", "grace_seconds": 5, "environment": {"HF_HUB_OFFLINE": "1"}, "server": SERVER}
    folder = tmp_path_factory.mktemp("vllm") / "server"
    server = serve(folder, MachineSettings.model_validate(machine), models[0], tell=lambda line: None)
    yield server
    server.stop()


def answers(folder):
    """What was said, without how long it took."""
    with answers_in(folder) as log:
        return {
            (found["prompt_id"], found["sample"]): (found["content"], found["finish_reason"]) for found in log
        }


def test_it_answers_alike_streaming_or_not_in_any_order_and_all_is_kept(server, tmp_path):
    """`r1kit data generate` from a model that says nothing sensible."""
    server.wait_ready()
    url = f"{server.urls[0]}/v1"
    with pytest.raises(NotAllowed, match="401"):
        ask_teacher(ROWS, settings(url), tmp_path / "keyless")
    sampling = {"model": only_model(url, server.key), "max_tokens": 24, "temperature": 1.0, "top_p": 1.0}
    streamed = settings(url, sampling=sampling, silence=60, concurrency=1)
    whole = settings(url, sampling=sampling, silence=60, concurrency=1, stream=False)
    many = settings(url, sampling=sampling, silence=60, concurrency=12)
    ask_teacher(ROWS, streamed, tmp_path / "streamed", server.key)
    ask_teacher(ROWS[::-1], whole, tmp_path / "whole", server.key)
    assert ask_teacher(ROWS, many, tmp_path / "many", server.key).answered == 12
    too_long = [{"problem": "Ann has 3 apples. " * 200, "solution": "3"}]
    assert ask_teacher(too_long, streamed, tmp_path / "streamed", server.key).failed == 2
    first = answers(tmp_path / "streamed")
    assert first == answers(tmp_path / "whole")
    assert len(set(first.values())) == 12, "each sample has its own seed"
    source = open_rows(write_jsonl(tmp_path / "rows.jsonl", [*ROWS, *too_long]))
    names = ["accuracy", "think_format"]
    found = write_traces(source, 2, streamed.sampling.identity(), judge(), names, tmp_path / "streamed")
    assert (found.prompts, found.answers, found.traces) == (7, 12, 0)
    assert 12 <= found.completion_tokens <= 12 * 24
    assert found.failures["refused"] == 2, "a prompt longer than the model's context"
    assert sum(found.failures.values()) == 14


def test_it_takes_new_weights_and_samples_from_them(server, models, tokenizer, tmp_path):  # noqa: F811
    first, second = models
    server.wait_ready()
    sampler = served_sampler(server, tokenizer, tmp_path)
    try:
        sampler.load(second)
        prompts = [[{"role": "user", "content": f"Ann has {n} apples."}] for n in range(4)]
        rollouts = sampler.rollouts(prompts, 24, at_once=4)
    finally:
        sampler.transport.close()
    assert largest_difference(model_of(second), rollouts)[1] < 1e-4
    assert largest_difference(model_of(first), rollouts)[0] > 1e-2, "the two models are told apart"


def test_killed_during_a_generation_it_comes_back_and_the_same_run_goes_on(
    server,
    models,
    world,  # noqa: F811
    tmp_path,
):
    lengths = {"max_completion_length": 64, "max_steps": 4, "save_steps": 100}
    job_folder = cluster.write(tmp_path / "job", world, server, model=models[0], **lengths)
    job = cluster.train(job_folder, accelerate=False)
    cluster.until_step(job, 2)
    phase = job_folder / "ranks/0.json"
    cluster.until(lambda: read_json(phase, {}).get("phase") == "generate", job)
    old = processes_of(server)[1:]
    os.kill(server.state["pids"][0], signal.SIGKILL)
    code, message = cluster.ended(job, 900)
    assert code == 0, message
    log = (job_folder / "train.log").read_text()
    assert "waiting for the server to be restarted" in log
    assert log.count("the server is back; pushing the weights again") == 1
    assert server.state["restarts"] == 1
    assert not [process for process in old if process.is_running()]
    written = rows(job_folder)
    assert [row["step"] for row in written] == [1, 2, 3, 4]
    assert all(row["weights/version"] == row["weights/server_version"] == row["step"] - 1 for row in written)
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 1e-3 for row in written)
    assert all(row["sampling/sampling_logp_difference/mean"] < 1e-4 for row in written)
    assert all(row["weights/change_norm"] > 0 for row in written[1:])  # or nothing was tested


def test_it_leaves_nothing_when_it_ends(server):
    server.wait_ready()
    left = processes_of(server)
    assert len(left) > 3, "keeper, server, engine and worker"
    server.stop()
    assert not [
        process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert server.state["state"] == "stopped"
