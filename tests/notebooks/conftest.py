"""Whole runs, started as a user starts them: `r1kit run`, over a runs folder of the test session."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from r1kit.settings import yaml_dump, yaml_load

PROJECT = Path(__file__).parents[2]


@dataclass
class Runs:
    """A runs folder and the ways to start something in it."""

    folder: Path

    @property
    def environment(self):
        inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        return inherited | {"R1KIT_RUNS": str(self.folder), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}

    def start(self, *arguments, prefix=(), **options):
        command = [*prefix, sys.executable, "-m", "r1kit", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=self.environment, cwd=PROJECT, **(pipes | options))

    def run(self, *arguments, prefix=()):
        """(exit code, all that was printed)."""
        with self.start(*arguments, prefix=prefix) as process:
            output = process.communicate()[0]
        return process.returncode, output

    def papermill(self, notebook, output, *parameters):
        command = [sys.executable, "-m", "papermill", notebook, output, "--no-progress-bar", *parameters]
        return subprocess.run(command, env=self.environment, cwd=PROJECT, capture_output=True, text=True)

    def summary(self, run_id):
        return json.loads((self.folder / run_id / "summary.json").read_text())


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """One runs folder for the whole session, so that later tests can stand on earlier runs."""
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def short_profile(tmp_path_factory):
    """cpu-tiny with other values, as any user could write it: the same path through everything in minutes."""
    folder = tmp_path_factory.mktemp("profiles") / "short"
    shutil.copytree(PROJECT / "configs" / "cpu-tiny", folder)
    changes = {
        "data": {"base_documents": 600, "traces": 600, "prompts": 64, "heldout_per_level": 8},
        "base": {"max_steps": 6, "warmup_steps": 1},
        "sft": {"max_steps": 12, "warmup_steps": 1, "save_steps": 4, "logging_steps": 1},
        "grpo": {
            "max_steps": 6,
            "warmup_steps": 1,
            "save_steps": 2,
            "logging_steps": 1,
            "collapse": {"learning_rate": 0.5, "max_steps": 2},
            "programs": {
                "traces": 200,
                "prompts": 16,
                "cases": 2,
                "slip_rate": 0.1,
                "hurry_rate": 0.5,
                "sft_steps": 4,
                "max_steps": 2,
                "num_generations": 8,
                "per_device_train_batch_size": 16,
                "max_completion_length": 80,
            },
        },
        "evaluation": {"problems_per_level": 8, "samples": 4, "expect": {}},
    }
    for section, values in changes.items():
        path = folder / f"{section}.yaml"
        path.write_text(yaml_dump(yaml_load(path.read_text()) | values))
    return folder


@pytest.fixture(scope="session")
def without_network():
    """A command prefix that takes all network interfaces away, loopback too; empty where not allowed."""
    prefix = ("unshare", "--net")
    allowed = (
        shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    )
    return prefix if allowed else ()


def real_small(folder, changes):
    """gpu-small on a CPU: whole weights in float32, written answers without vLLM, and `changes` by file."""
    shutil.copytree(PROJECT / "configs" / "gpu-small", folder)
    gone = ("use_peft", "lora_r", "lora_alpha", "lora_target_modules", "gradient_checkpointing_kwargs")
    plain = dict.fromkeys(gone) | {
        "attn_implementation": "sdpa", "dtype": "float32", "bf16": False, "gradient_checkpointing": False,
        "gradient_accumulation_steps": 1, "warmup_steps": 1,
    }  # fmt: skip
    on_a_cpu = {
        "machine": {"device": "cpu", "accelerator": None, "environment": {"HF_HUB_OFFLINE": "1"}},
        "accelerate": {"use_cpu": True, "mixed_precision": "no"},
        "data": {"excerpt": True},
        "sft": plain | {"packing": False, "packing_strategy": None},
        "grpo": plain | {"use_vllm": False},
        "evaluation": {},
    }
    for section, values in on_a_cpu.items():
        path = folder / f"{section}.yaml"
        merged = yaml_load(path.read_text()) | values | changes.get(section, {})
        kept = {
            key: value for key, value in merged.items() if value is not None and not key.startswith("vllm_")
        }
        path.write_text(yaml_dump(kept))
    return folder
