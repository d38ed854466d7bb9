"""Rewards in the processes of a training on several, which judge side by side on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
from accelerate import Accelerator
from r1kit.rewards import accuracy_reward, binary_code_reward
rank = Accelerator().process_index
form = "<think>\\nhm\\n</think>\\n<answer>\\n{}\\n</answer>".format
answers = [form(r"\\boxed{\\ln 4}"), form(r"\\boxed{\\ln 5}")]
case = {"input": str(rank), "output": str(rank + 1), "type": "stdin_stdout"}
info = {"language": "python", "test_cases": [case]}
programs = [form("```python\\nprint(int(input()) + 1)\\n```"), form("```python\\nprint(1)\\n```")]
found = {
    "accuracy": accuracy_reward(answers, solution=[r"2\\ln 2"] * 2),
    "code": binary_code_reward(programs, verification_info=[info] * 2),
}
with open(os.path.join(sys.argv[1], f"{rank}.json"), "w") as file:
    json.dump(found, file)
"""


@pytest.mark.slow
def test_two_training_processes_judge_mathematics_and_programs_at_once(tmp_path):
    script = tmp_path / "judge.py"
    script.write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {"accuracy": [1.0, 0.0], "code": [1.0, float(rank == 0)]}
