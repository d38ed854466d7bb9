"""A rank knows what `accelerate launch` would have told it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # imports torch in processes of their own

DUMP = "import json, os; print(json.dumps(dict(os.environ)))"
OURS = (
    "import json, pathlib, sys; from r1kit.runs.nodes import accelerate_environment; "
    "print(json.dumps(accelerate_environment(pathlib.Path(sys.argv[1]))))"
)


def output(*command: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=os.environ, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_rank_has_the_variables_that_accelerate_launch_sets(tmp_path):
    config, script = tmp_path / "accelerate.yaml", tmp_path / "dump.py"
    config.write_text(
        'compute_environment: LOCAL_MACHINE\ndistributed_type: "NO"\nnum_machines: 1\nnum_processes: 1\n'
        'mixed_precision: "no"\nuse_cpu: true\n'
    )
    script.write_text(DUMP)
    theirs = output("-m", "accelerate.commands.launch", "--config_file", str(config), str(script))
    theirs = {name: value for name, value in theirs.items() if os.environ.get(name) != value}
    config.write_text(
        config.read_text()
        .replace('"NO"', "MULTI_CPU")
        .replace("machines: 1", "machines: 2")
        .replace("processes: 1", "processes: 2")
    )
    ours = output("-c", OURS, str(config))
    assert ours["ACCELERATE_USE_CPU"] == "True"
    assert {name: value for name, value in theirs.items() if name in ours} == ours


def test_deepspeeds_settings_reach_a_rank(tmp_path):
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\nnum_machines: 2\nmachine_rank: 0\n"
        "num_processes: 16\nmixed_precision: bf16\nuse_cpu: false\n"
        "deepspeed_config: {zero_stage: 2, deepspeed_multinode_launcher: standard, zero3_init_flag: false}\n"
    )
    ours = output("-c", OURS, str(config))
    assert ours["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert ours["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "2"
    assert ours["ACCELERATE_MIXED_PRECISION"] == "bf16"
