"""How `r1kit run` ends: a failed notebook's exit code says what ended it."""

import pytest

from r1kit.pipeline.notebook_errors import CellFailed, KernelDied, Timeout
from r1kit.pipeline.run import exit_code
from r1kit.runs.launch import JobFailed


@pytest.mark.parametrize(("of_the_training", "code"), [(1, 1), (2, 1), (3, 3), (4, 4), (6, 6), (143, 1)])
def test_a_failed_training_says_its_own_exit_code(of_the_training, code):
    failed = JobFailed(of_the_training, "r1kit.training.grpo stopped", "[exit code 9] in its log")
    assert exit_code(CellFailed("cell 3 failed", 3, "JobFailed", str(failed))) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CellFailed("cell 3 failed", 3, "SettingsError", "1 problem"), 2),
        (CellFailed("cell 3 failed", 3, "KeyError", "'[exit code 3] '"), 1),
        (Timeout("ran out of time", 3), 4),
        (KernelDied("the kernel died"), 1),
    ],
)
def test_other_ends_have_the_codes_of_the_contract(error, code):
    assert exit_code(error) == code
