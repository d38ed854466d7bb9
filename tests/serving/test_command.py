"""What vLLM is started with, and what its log is taken to mean."""

from __future__ import annotations

import json

import pytest

from r1kit.serving.command import server_command, server_environment
from r1kit.serving.diagnosis import advice, errors, start_phase
from r1kit.serving.keeper import base_url
from r1kit.serving.server import exposure
from r1kit.settings.machine import MachineSettings

LAYOUT = {"serve": [0, 1, 2, 3], "train": [4, 5, 6, 7]}


def machine(layout: dict | None = None, transport: str = "file", **server: object) -> MachineSettings:
    return MachineSettings.model_validate(
        {
            "device": "cpu",
            "grace_seconds": 5,
            "layout": layout,
            "weight_sync": {"transport": transport},
            "server": {"max_model_len": 256, **server},
        }
    )


def option(command: list[str], name: str) -> str:
    return command[command.index(f"--{name}") + 1]


def test_the_command_has_what_trl_needs():
    command = server_command(machine(kv_cache_gib=0.5, eager=True), "a/model", 8000)
    assert option(command, "logprobs-mode") == "processed_logprobs"
    assert option(command, "max-logprobs") == "-1"
    assert option(command, "generation-config") == "vllm"
    assert option(command, "host") == "127.0.0.1"
    assert option(command, "kv-cache-memory-bytes") == str(2**29)
    assert "--enforce-eager" in command
    assert not {"--max-num-seqs", "--gpu-memory-utilization", "--weight-transfer-config"} & {*command}


def test_nccl_opens_the_weight_transfer_and_further_arguments_are_passed_on():
    arguments = {"swap_space": 4, "enable-prefix-caching": False, "enable-chunked-prefill": True}
    command = server_command(machine(transport="nccl", arguments=arguments), "a/model", 8000)
    assert json.loads(option(command, "weight-transfer-config")) == {"backend": "nccl"}
    assert option(command, "swap-space") == "4"
    assert {"--no-enable-prefix-caching", "--enable-chunked-prefill"} <= {*command}


def test_each_replica_sees_its_own_devices():
    two = machine(LAYOUT, replicas=2, tensor_parallel_size=2)
    masks = [server_environment(two, i, rocm=True, around={})["HIP_VISIBLE_DEVICES"] for i in (0, 1)]
    assert masks == ["0,1", "2,3"]


def test_the_key_is_in_the_environment_and_not_in_the_command():
    assert server_environment(machine(), 0, "secret")["VLLM_API_KEY"] == "secret"
    assert "VLLM_API_KEY" not in server_environment(machine(), 0, "")


def test_only_a_server_that_others_reach_is_warned_about():
    assert exposure(machine()) == ""
    assert "the key guards only /v1" in exposure(machine(host="0.0.0.0"))
    assert "no key guards it" in exposure(machine(host="10.0.0.4", shared_secret=False))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "loading the program"),
        (
            "(APIServer pid=1) INFO 11-24 06:54:38 [model.py:699] Resolved architecture",
            "starting the engine",
        ),
        ("(Worker pid=3) INFO 11-24 06:55:28 [a.py:69] Starting to load model /m...", "loading the weights"),
    ],
)
def test_a_start_is_told_in_words(line: str, words: str):
    assert start_phase(line) == words


def test_the_hollow_last_error_is_passed_over():
    text = (
        "(EngineCore pid=7) ERROR 11-24 06:43:38 [core.py:900] torch.OutOfMemoryError: HIP out of memory.\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert errors(text) == ["torch.OutOfMemoryError: HIP out of memory."]
    assert "Lower server.gpu_memory_utilization" in advice(text)


def test_addresses_are_those_that_a_client_can_use():
    assert base_url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert base_url("::1", 80) == "http://[::1]:80"
    assert "0.0.0.0" not in base_url("0.0.0.0", 80)
