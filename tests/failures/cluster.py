"""A GRPO job beside a stand-in server: small enough for seconds, with every bound short."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from r1kit.runs.files import read_json
from r1kit.runs.launch import Job, launch

GRPO = {
    "rewards": [{"name": "cosine", "weight": 1.0}],  # varies with the length even for an untrained model
    "learning_rate": 3e-3,
    "num_generations": 4,
    "max_completion_length": 24,
    "max_steps": 6,
    "save_steps": 2,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_vllm": True,
    "vllm_mode": "server",
    "vllm_importance_sampling_mode": "token_truncate",
}
MACHINE = {
    "device": "cpu",
    "step_seconds": 60,
    "server": {"max_model_len": 96, "generation_seconds": 15, "sync_seconds": 10, "start_seconds": 60},
    "weight_sync": {"transport": "file", "drift": 0.02},
}
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
}  # fmt: skip


def write(
    folder: Path, world: Path, backend: str = "one", machine: dict | None = None, **grpo: object
) -> Path:
    """The job folder, with accelerate.yaml; the server's folder is `folder`/server."""
    (folder / "server").mkdir(parents=True, exist_ok=True)
    processes = BACKENDS[backend]["num_processes"]
    inputs = {name: str(world / name) for name in ("tokenizer", "prompts")}
    inputs |= {"model": str(world / "base"), "server": str(folder / "server")}
    settings = {
        "profile": "test", "stage": "test", "run_id": "test", "inputs": inputs,
        "machine": {name: MACHINE[name] | (machine or {}).get(name, {}) if isinstance(MACHINE[name], dict)
                    else (machine or {}).get(name, MACHINE[name]) for name in MACHINE},
        "grpo": GRPO | {"per_device_train_batch_size": 8 // processes} | grpo,
    }  # fmt: skip
    (folder / "resolved.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "accelerate.yaml").write_text(yaml.safe_dump(ACCELERATE | BACKENDS[backend]), encoding="utf-8")
    return folder


class StandIn:
    """A stand-in server in a process of its own."""

    def __init__(self, job: Path, world: Path, *options: str, port: int = 0):
        self.folder = job / "server"
        (self.folder / "server.json").unlink(missing_ok=True)
        self.arguments = [str(self.folder), "--model", str(world / "base")]
        self.process = self.start(*options, "--port", str(port))

    def start(self, *options: str) -> subprocess.Popen:
        """Start and wait until it serves."""
        before = read_json(self.folder / "server.json", {}).get("started")
        with open(self.folder / "train.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.training.stand_in_server", *self.arguments, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 120
        while (state := read_json(self.folder / "server.json", {})).get("started") in (None, before):
            assert process.poll() is None, (self.folder / "train.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.port = int(state["urls"][0].rsplit(":", 1)[1])
        return process

    def restart(self) -> None:
        """As the keeper does: wait for the death, start again at the same address."""
        self.process.wait(timeout=120)
        self.process = self.start("--port", str(self.port), "--restarts", "1")

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def train(folder: Path) -> Job:
    """Start the training under the supervisor."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()}
    return launch("r1kit.training.grpo", folder, environment=environment, grace=20.0)


def ended(job: Job, seconds: float) -> tuple[int, dict]:
    """The exit code and status.json's `job` once it has ended, within `seconds` and with nothing left."""
    deadline = time.monotonic() + seconds
    while job.poll() is None:
        assert time.monotonic() < deadline, job.log_tail(60)
        time.sleep(0.05)
    deadline = time.monotonic() + 5
    while (left := processes_of(job.folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, left
    return job.poll(), read_json(job.folder / "status.json")["job"]


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


def until_step(job: Job, step: int) -> None:
    """Wait for the row of `step` in metrics.jsonl."""
    path = job.folder / "metrics.jsonl"
    while not path.exists() or f'"step": {step},' not in path.read_text(encoding="utf-8"):
        assert job.poll() is None, job.log_tail(60)
        time.sleep(0.01)


def checkpoints_in(folder: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    from r1kit.training import checkpoints

    return [checkpoints.step_of(p) for p in checkpoints.all_checkpoints(folder / "checkpoints")
            if checkpoints.is_complete(p)]  # fmt: skip
