"""Devices, server, weight transfer and vLLM's pitfalls: each contradiction is a sentence before the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from r1kit.settings import SettingsError, examine_profile, load_profile, yaml_load

SERVER = {"max_model_len": 256}
SERVED = {"machine.server": SERVER, "grpo.use_vllm": True, "grpo.vllm_mode": "server"}
TWO = {
    "accelerate.distributed_type": "MULTI_GPU",
    "accelerate.num_processes": 2,
    "grpo.gradient_accumulation_steps": 1,
}
# A node of eight GPUs: two serve, six train.
GPUS = SERVED | {
    "machine.device": "cuda",
    "accelerate.use_cpu": False,
    "accelerate.distributed_type": "MULTI_GPU",
    "accelerate.num_processes": 6,
    "machine.layout": {"serve": [0, 1], "train": [2, 3, 4, 5, 6, 7]},
    "machine.server": SERVER | {"tensor_parallel_size": 2},
}
COLOCATE = {name: value for name, value in GPUS.items() if not name.startswith("machine.")} | {
    "machine.device": "cuda",
    "machine.layout": {"serve": [], "train": [0, 1, 2, 3, 4, 5]},
    "grpo.vllm_mode": "colocate",
    "grpo.vllm_max_model_length": 192,
}

SLEEP = COLOCATE | {"grpo.vllm_enable_sleep_mode": True}


def fsdp(**changes: Any) -> dict[str, Any]:
    config = {"fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT"} | changes
    wrap = {"fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
    kind = {"accelerate.distributed_type": "FSDP", "accelerate.fsdp_config": config | wrap}
    return GPUS | kind | {"base.alone": True, "sft.alone": True}


def server(**changes: Any) -> dict[str, Any]:
    return {"machine.server": SERVER | changes}


def layout(serve: list[int], train: list[int]) -> dict[str, Any]:
    return {"machine.layout": {"serve": serve, "train": train}}


BAD = [
    ("a layout on a CPU", SERVED | layout([0], [1]), "layout", "no devices to share out"),
    ("a device named twice", GPUS | layout([0, 0], [2, 3, 4, 5, 6, 7]), "layout.serve", "named twice"),
    ("devices that overlap", GPUS | layout([1, 2], [2, 3, 4, 5, 6, 7]), "layout.serve", "[2] would serve"),
    ("too few devices", GPUS | layout([0], [2, 3, 4, 5, 6, 7]), "layout.serve", "2 devices = 1 replicas x 2"),
    ("no server for them", COLOCATE | layout([7], [0, 1, 2, 3, 4, 5]), "layout.serve", "no `server`"),
    ("no layout on GPUs", GPUS | {"machine.layout": None}, "layout", "first sync would hang"),
    (
        "another world",
        GPUS | {"accelerate.num_processes": 7},
        "num_processes",
        "6, the devices of layout.train",
    ),
    (
        "a mask beside it",
        GPUS | {"machine.environment.CUDA_VISIBLE_DEVICES": "1"},
        "environment.CUDA_VISIBLE_DEVICES",
        "layout sets the masks",
    ),
    (
        "a batch for the wrong world",
        GPUS | {"grpo.num_generations": 9},
        "per_device_train_batch_size",
        "6 proc",
    ),
    ("a server nobody asks", {"machine.server": SERVER}, "use_vllm", "would not use"),
    (
        "an address beside it",
        SERVED | {"grpo.vllm_server_base_url": "http://a:1"},
        "vllm_server_base_url",
        "comes from the server",
    ),
    ("no server", {"grpo.use_vllm": True, "grpo.vllm_mode": "server"}, "vllm_mode", "There is no server"),
    ("vLLM inside on a CPU", {"grpo.use_vllm": True}, "vllm_mode", "no GPU to share"),
    ("a short context", SERVED | server(max_model_len=128), "server.max_model_len", "192 or more"),
    ("a long context", SERVED | server(max_model_len=512), "server.max_model_len", "at most 256"),
    (
        "no context at all",
        COLOCATE | {"grpo.vllm_max_model_length": None},
        "vllm_max_model_length",
        "192 or more",
    ),
    ("half a group", SERVED | server(max_num_seqs=4), "server.max_num_seqs", "8 (num_generations) or more"),
    ("bf16 on a CPU", SERVED | server(dtype="bfloat16"), "server.dtype", "float32"),
    (
        "an option of ours",
        SERVED | server(arguments={"data_parallel_size": 2}),
        "server.arguments.data_parallel_size",
        "server.replicas",
    ),
    ("dashes", SERVED | server(arguments={"--seed": 1}), "server.arguments.--seed", "without dashes"),
    (
        "NCCL on a CPU",
        SERVED | {"machine.weight_sync.transport": "nccl"},
        "weight_sync.transport",
        "NCCL needs GPUs",
    ),
    (
        "processes left to MPI",
        TWO | {"accelerate.distributed_type": "MULTI_CPU"},
        "distributed_type",
        "one process only",
    ),
    (
        "ranks that give up",
        SERVED | TWO | server(generation_seconds=1800),
        "ddp_timeout",
        "more than 1920 = generation_seconds + sync_seconds",
    ),
    (
        "long completions",
        SERVED
        | server(max_model_len=8192)
        | {
            "base.architecture.max_position_embeddings": 8192,
            "grpo.max_completion_length": 4096,
        },
        "vllm_importance_sampling_mode",
        "token_truncate",
    ),
    ("top_p", SERVED | {"grpo.top_p": 0.9}, "top_p", "ratios are biased"),
    ("top_k", SERVED | {"grpo.top_k": 50}, "top_k", "ratios are biased"),
    ("repetition penalty", SERVED | {"grpo.repetition_penalty": 1.05}, "repetition_penalty", "biased"),
    (
        "Muon under ZeRO",
        {"accelerate.distributed_type": "DEEPSPEED", "accelerate.deepspeed_config": {"zero_stage": 2}},
        "optimizer",
        "cuts the matrices up",
    ),
    (
        "parts of weights",
        SERVED | {"grpo.ds3_gather_for_generation": False},
        "ds3_gather_for_generation",
        "whole",
    ),
    (
        "sleep without a bed",
        SERVED | {"grpo.vllm_enable_sleep_mode": True},
        "vllm_enable_sleep_mode",
        "nothing",
    ),
    (
        "sleep in growing segments",
        SLEEP | {"machine.environment.PYTORCH_ALLOC_CONF": "expandable_segments:True"},
        "environment.PYTORCH_ALLOC_CONF",
        "memory pool",
    ),
    ("FSDP on a CPU", fsdp() | {"accelerate.use_cpu": True}, "distributed_type", "silently train with DDP"),
    ("FSDP 1", fsdp(fsdp_version=1), "fsdp_config.fsdp_version", "Only FSDP2"),
    (
        "pieces of a model",
        fsdp(fsdp_state_dict_type="SHARDED_STATE_DICT"),
        "fsdp_config.fsdp_state_dict_type",
        "no weights",
    ),
    (
        "ZeRO-3's pieces of a model",
        TWO | {"accelerate.distributed_type": "DEEPSPEED", "accelerate.deepspeed_config": {"zero_stage": 3}},
        "deepspeed_config.zero3_save_16bit_model",
        "no weights",
    ),
]


@pytest.mark.parametrize(("changes", "key", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_contradiction_is_named_with_its_key(profile_folder: Path, changes: dict, key: str, says: str):
    with pytest.raises(SettingsError) as error:
        load_profile(profile_folder, changes)
    found = [problem for problem in error.value.problems if problem.key == key]
    assert found, f"no problem of {key}, but {[p.key for p in error.value.problems]}"
    assert any(says in str(problem) for problem in found), str(error.value)


@pytest.mark.parametrize(
    "changes",
    [SERVED, SERVED | TWO, GPUS, GPUS | {"accelerate.num_processes": 8}, COLOCATE, SLEEP, fsdp()],
)
def test_a_sound_cluster_is_accepted(profile_folder: Path, changes: dict):
    load_profile(profile_folder, changes)


def test_the_fsdp_of_the_documentation_is_accepted(profile_folder: Path):
    page = (Path(__file__).parents[2] / "docs/guide-grpo.md").read_text()
    block = yaml_load(page.split("```yaml\n")[1].split("```")[0])
    alone = {"base.alone": True, "sft.alone": True}
    load_profile(profile_folder, GPUS | alone | {f"accelerate.{key}": value for key, value in block.items()})


def test_grpo_trains_on_its_devices_and_sft_on_all_eight(profile_folder: Path):
    profile = load_profile(profile_folder, GPUS | {"accelerate.num_processes": 8})
    assert "num_processes: 6" in profile.accelerate_yaml("grpo")
    assert "num_processes: 8" in profile.accelerate_yaml("sft")


def test_muon_trains_alone_beside_zero(profile_folder: Path):
    zero = {"accelerate.distributed_type": "DEEPSPEED", "accelerate.deepspeed_config": {"zero_stage": 2}}
    alone = {"accelerate.num_processes": 2, "base.alone": True, "sft.alone": True}
    profile = load_profile(profile_folder, zero | alone)
    for program in ("pretrain", "sft"):
        assert "distributed_type: 'NO'" in profile.accelerate_yaml(program)
        assert "zero_stage" not in profile.accelerate_yaml(program)
    assert "zero_stage: 2" in profile.accelerate_yaml("grpo")


def test_an_open_server_is_advice_and_no_error(profile_folder: Path):
    profile = load_profile(profile_folder, SERVED | server(host="0.0.0.0"))
    assert "replace the weights" in str(next(w for w in profile.warnings if w.key == "server.host"))


def test_sleep_mode_is_told_to_cost_a_transfer(profile_folder: Path):
    profile = load_profile(profile_folder, SLEEP)
    assert "loads all weights again" in str(
        next(w for w in profile.warnings if w.key == "vllm_enable_sleep_mode")
    )


def test_a_server_that_others_reach_is_a_warning() -> None:
    (problem,) = examine_profile("cpu-cluster", {"machine.server.host": "0.0.0.0"})
    assert (problem.rule, problem.severity) == ("a_server_outside_loopback_is_known", "warning")
