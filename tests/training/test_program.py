from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from r1kit.settings import Problem, SettingsError
from r1kit.training import program


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch):
    """Programs change signal handlers, the environment and torch's mode: none of that may leak into other
    tests.
    """
    monkeypatch.setattr(program.StopRequest, "install", lambda self: None)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    torch.use_deterministic_algorithms(False)


def job_file(folder: Path, inputs: str = "{model: a/hub-id}") -> str:
    (folder / "resolved.yaml").write_text(f"inputs: {inputs}\nmachine: {{device: cpu}}\n")
    return str(folder / "resolved.yaml")


def ends_with(error: BaseException, folder: Path) -> int:
    def fail(job: program.Job) -> None:
        raise error

    return program.run(fail, [job_file(folder)])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("boom"), 1),
        (SettingsError([Problem("sft.yaml", "max_steps")]), 2),
        (MemoryError(), 3),
        (torch.OutOfMemoryError("CUDA out of memory"), 3),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            ),
            3,
        ),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
    ],
)
def test_each_kind_of_end_has_its_exit_code(error, code, tmp_path, capsys):
    assert ends_with(error, tmp_path) == code
    assert type(error).__name__ in capsys.readouterr().err.splitlines()[-1] or code in (2, 3)


def test_a_training_that_was_asked_to_stop_exits_with_128_plus_the_signal(tmp_path):
    def stopped(job: program.Job) -> None:
        job.stop.received = 15

    assert program.run(stopped, [job_file(tmp_path)]) == 143


def test_a_missing_or_broken_settings_file_is_exit_code_2(tmp_path, capsys):
    assert program.run(lambda job: None, [str(tmp_path / "resolved.yaml")]) == 2
    assert program.run(lambda job: None, []) == 2
    (tmp_path / "resolved.yaml").write_text("just text")
    assert program.run(lambda job: None, [str(tmp_path / "resolved.yaml")]) == 2
    assert "inputs" in capsys.readouterr().err


def test_a_missing_input_is_named_before_anything_is_loaded(tmp_path, capsys):
    assert program.run(lambda job: None, [job_file(tmp_path, "{model: ../02_sft/model}")]) == 2
    assert "inputs.model is ../02_sft/model" in capsys.readouterr().err


def test_inputs_are_relative_to_the_job_folder_and_hub_ids_stay(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "job").mkdir()
    job = program.read_job(job_file(tmp_path / "job", "{traces: ../data, model: org/name}"))
    assert job.inputs == {"traces": str((tmp_path / "data").resolve()), "model": "org/name"}


def test_cuda_without_a_gpu_is_a_bad_setting(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "resolved.yaml").write_text("inputs: {}\nmachine: {device: cuda}\n")
    assert program.run(lambda job: None, [str(tmp_path / "resolved.yaml")]) == 2
    assert "machine.yaml" in capsys.readouterr().err
