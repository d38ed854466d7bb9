"""The `evaluate` stage of a pipeline on benchmarks: what it asks, what it keeps, who answers."""

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1kit.evaluation import checkpoints, load_results, rejection_sampling, server_sampler
from r1kit.evaluation.sampler import Completion, Samples
from r1kit.evaluation.server_sampler import answering_machine, on_all
from r1kit.pipeline import composition
from r1kit.pipeline.stages import pipeline_stages
from r1kit.runs import jsonl
from r1kit.settings import load_profile, yaml_dump
from r1kit.settings.machine import LayoutSettings, ServerSettings
from r1kit.settings.profile import CONFIG_ROOT
from r1kit.training.program import Job, StopRequest, read_job
from tests.evaluation import shards
from tests.evaluation.conftest import tiny  # noqa: F401 - a fixture
from tests.pipeline.test_composition import opened, profile, programs  # noqa: F401 - two fixtures

SETTINGS = {
    "benchmarks": {"gsm8k": 2, "math_500": 1}, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 4,
    "batch_size": 8, "seed": 3,
}  # fmt: skip


@pytest.fixture
def job(tmp_path, tiny):  # noqa: F811
    """Two checkpoints with the same weights, and benchmarks of our own making."""
    model, tokenizer = tiny
    for name in ("base", "final"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "judged").mkdir()
    settings = {
        "evaluation": SETTINGS,
        "machine": load_profile("cpu-tiny").machine.model_dump(mode="json"),
        "data": {"source": "hub", "mirror": str(shards.write_mirror(tmp_path / "mirror"))},
        "parameters": {"names": ["base", "final"]},
    }
    inputs = {name: str(tmp_path / name) for name in ("base", "final")}
    return Job(tmp_path / "judged", settings, inputs, stop=StopRequest())


def test_every_checkpoint_is_asked_every_benchmark_and_the_same_again_gives_the_same_rows(job):
    checkpoints.judge(job)
    first = {name: load_results(job.folder / f"{name}.parquet") for name in ("base", "final")}
    assert first["base"].groupby("level").size().to_dict() == {"gsm8k": 6, "math_500": 12}
    assert first["base"]["completion"].tolist() == first["final"]["completion"].tolist()
    assert jsonl.read(job.metrics)[-1]["step"] == jsonl.read(job.metrics)[-1]["total_steps"] == 36
    # Killed after the answers were written: they are judged again, and nobody is asked.
    (job.folder / "final.parquet").unlink()
    checkpoints.judge(job)
    assert load_results(job.folder / "final.parquet").equals(first["final"])


def test_a_checkpoint_that_is_judged_is_not_loaded_again(job, monkeypatch):
    checkpoints.judge(job)
    monkeypatch.setattr(checkpoints, "sampler_of", lambda *_, **__: pytest.fail("asked again"))
    checkpoints.judge(job)
    assert len(jsonl.read(job.metrics)) == 2


@pytest.mark.slow
@pytest.mark.failures
def test_killed_twice_it_ends_with_the_rows_of_one_that_was_not(job):
    """Once for each checkpoint, among its answers."""
    job.settings["evaluation"] = SETTINGS | {"batch_size": 2}
    checkpoints.judge(job)
    killed = job.folder.with_name("killed")
    killed.mkdir()
    (killed / "resolved.yaml").write_text(yaml_dump(job.settings | {"inputs": job.inputs}))
    command = [sys.executable, "-m", "r1kit.evaluation.checkpoints", str(killed / "resolved.yaml")]

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def answers(name):
        found = list((killed / "answers" / name).rglob("answers.jsonl"))
        return sum(path.read_bytes().count(b"\n") for path in found)

    for name in ("base", "final"):
        process = start()
        while answers(name) < 6:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert answers(name) < 18, "killed too late to show anything"
    last = start()
    said, _ = last.communicate(timeout=120)
    assert last.returncode == 0, said
    for name in ("base", "final"):
        assert load_results(killed / f"{name}.parquet").equals(load_results(job.folder / f"{name}.parquet"))


def test_each_checkpoint_has_a_server_of_its_own_that_ends_before_the_next(job, monkeypatch):
    """As in 05_evaluation: two models of 7 billion parameters do not fit on a device together."""
    heard = []

    class Server:
        def __init__(self, folder, model):
            self.folder, self.model = folder, model

        def wait_ready(self):
            heard.append(f"{self.model.rpartition('/')[2]} is served")

        def stop(self):
            heard.append("stopped")

    class Sampler:
        def sample(self, prompts, sampling, samples, folder, progress):
            heard.append(folder.name)
            return Samples([[Completion("4", 1, True)] * n for n in samples])

    machine = load_profile("cpu-cluster").machine
    monkeypatch.setattr(checkpoints, "answering_machine", lambda machine_, tokens: machine)
    monkeypatch.setattr("r1kit.serving.server.serve", lambda folder, own, model, tell: Server(folder, model))
    monkeypatch.setattr(checkpoints, "sampler_at", lambda server, concurrency: Sampler())
    checkpoints.judge(job)
    assert heard == ["base is served", "base", "stopped", "final is served", "final", "stopped"]


@pytest.fixture
def gpus(monkeypatch):
    """Four GPUs with vLLM installed, as far as anyone asks."""
    monkeypatch.setattr(server_sampler, "detect_device", lambda: ("cuda:0", "told"))
    monkeypatch.setattr(server_sampler, "find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)


def test_without_a_server_in_the_profile_every_gpu_answers(gpus):
    machine = answering_machine(load_profile("h200-8").machine, 9216)
    assert (machine.server.replicas, machine.server.max_model_len) == (4, 9216)
    assert machine.layout.serve == [0, 1, 2, 3]


def test_the_trainers_devices_answer_too_while_nobody_trains(gpus):
    plain = load_profile("h200-8").machine
    layout = LayoutSettings(serve=[0, 1], train=[2, 3, 4, 5, 6, 7])
    server = ServerSettings(tensor_parallel_size=2, max_model_len=512)
    machine = answering_machine(plain.model_copy(update={"layout": layout, "server": server}), 9216)
    assert (machine.server.replicas, machine.server.max_model_len) == (4, 9216)
    assert machine.layout.serve == list(range(8))


def test_a_profile_for_the_cpu_answers_on_the_cpu_also_beside_gpus(gpus):
    assert answering_machine(load_profile("cpu-tiny").machine, 96) is None
    served = load_profile("cpu-cluster").machine
    assert answering_machine(served, 96).server == served.server


def test_without_vllm_this_process_answers(gpus, monkeypatch):
    monkeypatch.setattr(server_sampler, "find_spec", lambda name: None)
    assert answering_machine(load_profile("h200-8").machine, 9216) is None


PIPELINES = {
    "small": {
        "stages": [
            {"name": "zero", "kind": "grpo", "model": "base"},
            {"name": "judged", "kind": "evaluate", "models": ["base", "zero"]},
        ]
    }
}


def test_one_program_judges_held_out_problems_and_benchmarks(tmp_path):
    folder = tmp_path / "real"
    shutil.copytree(CONFIG_ROOT / "h200-1", folder)
    (folder / "pipeline.yaml").write_text(yaml_dump({"pipelines": PIPELINES}))
    stages = pipeline_stages(folder, {}, "small")
    assert stages["zero"].program == "r1kit.training.grpo"
    assert stages["judged"].program == "r1kit.evaluation.checkpoints"
    *_, of_levels = pipeline_stages("cpu-tiny", {}, "r1-zero").values()
    assert of_levels.program == "r1kit.evaluation.checkpoints"
    more = pipeline_stages(folder, {"evaluation.benchmarks": {"aime24": 8}}, "small")
    assert stages["zero"].inputs_hash == more["zero"].inputs_hash
    assert stages["judged"].inputs_hash != more["judged"].inputs_hash


CHOSEN = {
    "chosen": {
        "stages": [
            {"name": "begin", "kind": "sft"},
            {"name": "measured", "kind": "pass_rate", "model": "begin", "max_new_tokens": 64},
            {"name": "end", "kind": "grpo", "model": "begin", "data": "measured"},
        ]
    }
}


def test_a_stage_that_only_writes_answers_has_a_server_for_as_long_as_it_runs(
    profile,  # noqa: F811
    programs,  # noqa: F811
    monkeypatch,
):
    """Its program then loads no model of its own: the server holds the device's memory."""
    (Path(profile) / "pipeline.yaml").write_text(yaml_dump({"pipelines": CHOSEN}))
    run = opened(profile, "my-run", "chosen")
    heard = []

    class Server:
        job, folder = object(), run.folder / "server"

        async def ready(self):
            return self

        def stop(self):
            heard.append("stopped")

    def start_server(model, machine):
        heard.append((model.parent.name, machine.server.max_model_len))
        return Server()

    def one(machine, tokens):
        return on_all(machine, ServerSettings(max_model_len=tokens), [0])

    Server.folder.mkdir()
    monkeypatch.setattr(composition, "answering_machine", one)
    monkeypatch.setattr(run, "start_server", start_server)
    asyncio.run(run.pipeline("chosen").run())
    assert programs[0] == ["begin", "measured", "end"]
    longest = run.settings.data.max_prompt_length + 64
    assert heard == [("begin", longest), "stopped"]
    inputs = {name: read_job(run.folder / name / "resolved.yaml").inputs for name in ("measured", "end")}
    assert ["server" in inputs[name] for name in ("measured", "end")] == [True, False]


def test_beside_a_server_the_program_loads_a_tokenizer_only(tmp_path, tiny):  # noqa: F811
    tiny[1].save_pretrained(tmp_path)
    job = Job(tmp_path, {}, {"model": str(tmp_path), "server": str(tmp_path)}, stop=StopRequest())
    (tmp_path / "server.json").write_text('{"urls": ["http://127.0.0.1:9"]}')
    sampler = rejection_sampling.sampler_of(job, {"batch_size": 4})
    assert sampler.urls == ["http://127.0.0.1:9/v1"]
    assert sampler.tokenizer.eos_token == tiny[1].eos_token
