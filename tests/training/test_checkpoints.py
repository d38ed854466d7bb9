"""Checkpoints are complete or absent; other processes resume where they can and are refused where not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from r1kit.settings import SettingsError
from r1kit.training import checkpoints
from r1kit.training.checkpoints import check_resume, check_sharded, check_started
from r1kit.training.resume import write_whole_model


def checkpoint(folder: Path, step: int, complete: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text("weights")
    if complete:
        (path / "complete.json").write_text("{}")
    return path


def test_the_newest_complete_checkpoint_is_the_one_with_the_highest_number(tmp_path):
    for step in (5, 100, 20):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 200, complete=False)
    assert checkpoints.newest_complete(tmp_path) == tmp_path / "checkpoint-100"


def test_there_is_none_in_a_missing_or_empty_folder(tmp_path):
    assert checkpoints.newest_complete(tmp_path / "missing") is None
    assert checkpoints.newest_complete(tmp_path) is None


def test_only_incomplete_checkpoints_are_removed(tmp_path):
    whole, broken = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10, complete=False)
    (tmp_path / "notes").mkdir()
    assert checkpoints.remove_incomplete(tmp_path) == [broken]
    assert whole.exists()
    assert (tmp_path / "notes").exists()


def test_keep_newest_counts_only_complete_ones(tmp_path):
    for step in (5, 10, 15):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 20, complete=False)
    assert [path.name for path in checkpoints.keep_newest(tmp_path, 2)] == ["checkpoint-5"]
    assert checkpoints.keep_newest(tmp_path, None) == []


def test_a_model_appears_only_when_it_is_written_whole(tmp_path):
    target = tmp_path / "model"

    def write_half(folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "half").write_text("")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoints.save_model_atomically(target, write_half)
    assert not target.exists()

    def write(folder: str) -> None:
        assert not target.exists()
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text("{}")

    checkpoints.save_model_atomically(target, write)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in target.iterdir()] == ["config.json"]


def test_a_new_model_replaces_the_old_one(tmp_path):
    for content in ("old", "new"):

        def write(folder: str, content: str = content) -> None:
            Path(folder).mkdir()
            (Path(folder) / "weights").write_text(content)

        checkpoints.save_model_atomically(tmp_path / "model", write)
    assert (tmp_path / "model/weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


class Whole:
    """A model, or its tokenizer, that can be written."""

    def __init__(self, name: str):
        self.name = name

    def save_pretrained(self, folder: str) -> None:
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / self.name).write_text("")


class Adapted:
    """A model with LoRA's adapters, as PEFT wraps it."""

    def merge_and_unload(self) -> Whole:
        return Whole("merged")


def test_adapters_are_merged_so_that_any_stage_can_go_on_from_the_model(tmp_path):
    def trainer(model, main=True):
        saved = Whole("as it is").save_pretrained
        accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped, is_main_process=main)
        tokenizer = Whole("tokenizer")
        return SimpleNamespace(
            model=model, accelerator=accelerator, processing_class=tokenizer, save_model=saved
        )

    write_whole_model(trainer(Adapted()), str(tmp_path / "adapted"))
    assert {path.name for path in (tmp_path / "adapted").iterdir()} == {"merged", "tokenizer"}
    write_whole_model(trainer(Adapted(), main=False), str(tmp_path / "another process"))
    assert not (tmp_path / "another process").exists()
    write_whole_model(trainer(object()), str(tmp_path / "plain"))
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["as it is"]


ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


@pytest.fixture
def processes(monkeypatch):
    """`processes(count, **environment)`: as torchrun and accelerate would say it."""
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)

    def say(count: int, **environment: str) -> None:
        for name, value in {"WORLD_SIZE": str(count), **environment}.items():
            monkeypatch.setenv(name, value)

    return say


def made_by(folder, count: int, backend: str, batch: int = 8, rollouts: object = None) -> None:
    checkpoint = folder / "checkpoint-4"
    checkpoint.mkdir()
    torch.save({"step": 4, "inputs": rollouts}, checkpoint / "rollout_buffer_0.pt")
    record = {"processes": count, "backend": backend, "batch": batch}
    (checkpoint / "complete.json").write_text(json.dumps(record))


def test_one_process_goes_on_after_two_with_ddp_if_the_batch_stays(tmp_path, processes):
    made_by(tmp_path, 2, "DDP")
    processes(1)
    check_resume(tmp_path, {"per_device_train_batch_size": 8})
    with pytest.raises(SettingsError, match=r"a step has 4 samples, not 8"):
        check_resume(tmp_path, {"per_device_train_batch_size": 4})


def test_rollouts_in_use_are_not_divided_anew(tmp_path, processes):
    made_by(tmp_path, 2, "DDP", rollouts=[torch.zeros(1)])
    processes(4)
    with pytest.raises(SettingsError, match="rollouts that a step was using"):
        check_resume(tmp_path, {"per_device_train_batch_size": 2})


def test_zero_2_goes_on_with_the_same_processes_only(tmp_path, processes):
    made_by(tmp_path, 2, "DeepSpeed ZeRO-2")
    processes(2, **ZERO2)
    check_resume(tmp_path, {"per_device_train_batch_size": 4})
    processes(4, **ZERO2)
    with pytest.raises(SettingsError, match=r"made by 2 processes \(DeepSpeed ZeRO-2\), now there are 4"):
        check_resume(tmp_path, {"per_device_train_batch_size": 2})


def test_another_back_end_is_refused_by_name(tmp_path, processes):
    made_by(tmp_path, 2, "DDP")
    processes(2, **ZERO2)
    with pytest.raises(SettingsError, match="distributed_type"):
        check_resume(tmp_path, {"per_device_train_batch_size": 4})


def test_no_checkpoint_and_one_without_a_record_refuse_nobody(tmp_path, processes):
    processes(2)
    check_resume(tmp_path, {})
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1/complete.json").write_text('{"step": 1}')
    check_resume(tmp_path, {})


def test_one_process_where_two_were_asked_for_is_not_a_training(tmp_path, processes):
    """Incident, 2026-11-24: accelerate starts one process for MULTI_CPU, and the run looked healthy."""
    (tmp_path / "accelerate.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 2\n")
    processes(1, ACCELERATE_USE_CPU="true")
    with pytest.raises(SettingsError, match="1 of 2 processes"):
        check_started(tmp_path)
    processes(2, ACCELERATE_USE_CPU="true")
    check_started(tmp_path)


def test_zero_3_that_would_leave_a_model_without_weights_is_refused(tmp_path, processes):
    """Incident, 2026-11-24: model/ held a config, a tokenizer and DeepSpeed's pieces."""
    path = tmp_path / "accelerate.yaml"
    path.write_text("num_processes: 2\ndeepspeed_config: {zero_stage: 3}\n")
    processes(2, ACCELERATE_USE_CPU="true")
    with pytest.raises(SettingsError, match="would have no weights"):
        check_started(tmp_path)
    path.write_text("num_processes: 2\ndeepspeed_config: {zero_stage: 3, zero3_save_16bit_model: true}\n")
    check_started(tmp_path)


def test_fsdp_that_accelerate_forgot_is_not_a_training(processes):
    """Seen, 2026-11-24: on a CPU accelerate 1.15 trains with DDP where accelerate.yaml says FSDP."""
    processes(2, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    check_sharded(SimpleNamespace(distributed_type=DistributedType.FSDP))
    with pytest.raises(SettingsError, match="MULTI_CPU instead"):
        check_sharded(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU))
