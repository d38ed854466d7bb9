"""A GRPO job beside a server that obeys orders: small enough for seconds, with every bound short.

The server is kept by the real keeper and behaves like vLLM until it is told otherwise (see
tests/training/stand_in_server.py). Starting costs seconds of imports, so a job goes through several failures,
one after the other, and each start goes on from the checkpoint that the last one left.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.torch import load_file, save_file

from r1kit.runs import weight_versions
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.launch import Job, launch
from r1kit.serving.server import Server, serve
from r1kit.settings.machine import MachineSettings
from r1kit.training import checkpoints

STAND_IN = Path(__file__).parent / "stand_in"
ROOT = Path(__file__).parents[2]
GRPO = {
    "rewards": [{"name": "cosine", "weight": 1.0}],  # of the length, which differs (see `eager_to_end`)
    "learning_rate": 1e-3,
    "num_generations": 4,
    "max_completion_length": 24,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_vllm": True,
    "vllm_mode": "server",
    "vllm_importance_sampling_mode": "token_truncate",
}
SERVER = {"max_model_len": 96, "generation_seconds": 60, "sync_seconds": 30, "start_seconds": 120}
SYNC = {"transport": "file", "drift": 1e-3}
ACCELERATE = {
    "compute_environment": "LOCAL_MACHINE", "num_machines": 1, "machine_rank": 0, "mixed_precision": "no",
    "use_cpu": True, "main_training_function": "main", "same_network": True, "rdzv_backend": "static",
    "debug": False, "main_process_port": 0,
}  # fmt: skip
BACKENDS = {
    "one": {"distributed_type": "NO", "num_processes": 1},
    "ddp": {"distributed_type": "MULTI_GPU", "num_processes": 2},
    "zero2": {
        "distributed_type": "DEEPSPEED",
        "num_processes": 2,
        "deepspeed_config": {
            "gradient_accumulation_steps": 1, "zero_stage": 2, "zero3_init_flag": False,
            "offload_optimizer_device": "none", "offload_param_device": "none",
        },
    },
    "fsdp2": {
        "distributed_type": "FSDP",
        "num_processes": 2,
        "fsdp_config": {
            "fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT", "fsdp_reshard_after_forward": True,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_cpu_ram_efficient_loading": False,
        },
    },
}  # fmt: skip


def write(
    folder: Path,
    world: Path,
    server: Server | Path,
    backend: str = "one",
    sync: dict | None = None,
    step_seconds: float = 60,
    model: Path | None = None,
    **grpo: object,
) -> Path:
    """The job folder, with accelerate.yaml, of a training that generates through `server` (or its folder)."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = isinstance(server, Server)
    inputs = {name: str(world / name) for name in ("tokenizer", "prompts")}
    inputs |= {"model": str(model or world / "base"), "server": str(server.folder if kept else server)}
    share = {"per_device_train_batch_size": 8 // BACKENDS[backend]["num_processes"]}
    machine = {
        "device": "cpu", "step_seconds": step_seconds, "weight_sync": SYNC | (sync or {}),
        "server": server.machine.server.model_dump(mode="json") if kept else SERVER,
    }  # fmt: skip
    content = {"profile": "test", "stage": "test", "run_id": "test", "inputs": inputs, "machine": machine}
    content["grpo"] = GRPO | share | grpo
    (folder / "resolved.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "accelerate.yaml").write_text(yaml.safe_dump(ACCELERATE | BACKENDS[backend]), encoding="utf-8")
    return folder


def eager_to_end(model: Path) -> Path:
    """Let an untrained model end completions at all lengths: rewards differ, and every step changes weights.

    The row of the end token in the (tied) embedding grows, and with it what contexts say for or against it.
    """
    path = model / "model.safetensors"
    weights = load_file(path)
    weights["model.embed_tokens.weight"][read_json(model / "config.json")["eos_token_id"]] *= 20
    save_file(weights, path, metadata={"format": "pt"})
    return model


def start_server(folder: Path, world: Path, model: Path | None = None, **settings: object) -> Server:
    """The stand-in under the real keeper; returns at once."""
    environment = {"PYTHONPATH": f"{STAND_IN}:{ROOT}", "STAND_IN_FOLDER": str(folder), "OMP_NUM_THREADS": 1}
    machine = {
        "device": "cpu", "grace_seconds": 5, "server": SERVER | {"environment": environment} | settings,
    }  # fmt: skip
    return serve(
        folder, MachineSettings.model_validate(machine), model or world / "base", tell=lambda line: None
    )


def generations(server: Server) -> int:
    """How many generations a server was asked for so far, over all its starts."""
    return read_json(server.folder / "generations", 0)


def order(server: Server, **what: str) -> None:
    """`order(server, second="die")`: what happens in the generations to come, the first, the second, ..."""
    numbers = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "eighth": 8}
    orders = {str(generations(server) + numbers[name]): act for name, act in what.items()}
    write_json_atomic(server.folder / "orders.json", orders)


def train(folder: Path, accelerate: bool = True, program: str = "r1kit.training.grpo") -> Job:
    """Start the training under the supervisor."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return launch(program, folder, environment=environment, grace=20.0, accelerate=accelerate)


def ended(job: Job, seconds: float = 500) -> tuple[int, str]:
    """Exit code and message once it has ended, within `seconds`, with no process and no weights left."""
    deadline = time.monotonic() + seconds
    while job.poll() is None:
        assert time.monotonic() < deadline, job.log_tail(60)
        time.sleep(0.05)
    deadline = time.monotonic() + 5
    while (left := processes_of(job.folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, left
    trainer = read_json(job.folder / "ranks/0.json", {}).get("pid")
    assert not list(weight_versions.shared_root().glob(f"*-{trainer}-*")), "weights stayed in shared memory"
    return job.poll(), read_json(job.folder / "status.json")["job"]["message"]


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that work on the job in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if str(folder / "resolved.yaml") in line and process.status() != psutil.STATUS_ZOMBIE:
                found.append(line)
        except psutil.Error:
            continue
    return found


def until(condition, job: Job) -> None:
    """Wait until `condition()` while the job runs."""
    while not condition():
        assert job.poll() is None, job.log_tail(60)
        time.sleep(0.01)


def until_step(job: Job, step: int) -> None:
    """Wait for the row of `step` in metrics.jsonl."""
    path = job.folder / "metrics.jsonl"
    until(lambda: path.exists() and f'"step": {step},' in path.read_text(encoding="utf-8"), job)


def checkpoints_in(folder: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    found = checkpoints.all_checkpoints(folder / "checkpoints")
    return [checkpoints.step_of(path) for path in found if checkpoints.is_complete(path)]


def goes_on_from(folder: Path, step: int) -> None:
    """Skip a test whose job an earlier test of the file should have brought to `step`, and has not."""
    if checkpoints_in(folder)[-1:] != [step]:
        pytest.skip(f"it goes on from step {step}, to which the tests before it bring the job")
