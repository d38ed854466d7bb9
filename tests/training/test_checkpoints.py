from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from r1kit.training import checkpoints
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
