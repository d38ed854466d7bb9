from __future__ import annotations

from pathlib import Path

import pytest

from r1kit.training import checkpoints


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
