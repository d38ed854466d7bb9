"""Atomic writes: the old content or the new, never a mixture, never a leftover."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from r1kit.runs import files
from r1kit.runs.files import WriteFailed, read_json, replacing, write_json_atomic, write_text_atomic


def test_json_written_is_json_read(tmp_path):
    value = {"name": "é", "values": [1, 2.5, None, True], "nested": {"a": {}}}
    write_json_atomic(tmp_path / "deep" / "x.json", value)
    assert read_json(tmp_path / "deep" / "x.json") == value


def test_numpy_scalars_paths_and_nan_become_plain_json(tmp_path):
    row = {
        "loss": np.float32(0.5),
        "step": np.int64(3),
        "bad": float("nan"),
        "worse": np.inf,
        "path": tmp_path,
    }
    write_json_atomic(tmp_path / "x.json", row)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text
    assert json.loads(text) == {"loss": 0.5, "step": 3, "bad": None, "worse": None, "path": str(tmp_path)}


def test_what_json_cannot_hold_is_refused_before_the_old_file_is_touched(tmp_path):
    write_json_atomic(tmp_path / "x.json", {"old": 1})
    with pytest.raises(TypeError, match="cannot write object as JSON"):
        write_json_atomic(tmp_path / "x.json", {"new": object()})
    assert read_json(tmp_path / "x.json") == {"old": 1}


@pytest.mark.parametrize("content", ["", "{", '{"a": 1', "\x00\x00"])
def test_a_torn_or_missing_json_file_reads_as_the_default(tmp_path, content):
    assert read_json(tmp_path / "missing.json", 7) == 7
    (tmp_path / "x.json").write_text(content)
    assert read_json(tmp_path / "x.json", 7) == 7


def test_written_files_are_readable_as_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        write_text_atomic(tmp_path / "x", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_content_and_says_so(tmp_path, monkeypatch, failing):
    write_text_atomic(tmp_path / "x", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, failing, full)
    with pytest.raises(WriteFailed, match=r"no space left on the disk \(the old content is kept\)") as caught:
        write_text_atomic(tmp_path / "x", "new")
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_an_interrupted_writer_leaves_the_old_file_and_no_temporary_one(tmp_path):
    write_text_atomic(tmp_path / "x", "old")

    def write_half():
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.failures
def test_a_really_full_disk_keeps_the_old_content(small_disk):
    write_json_atomic(small_disk / "x.json", {"old": 1})
    with pytest.raises(WriteFailed, match="no space left"):
        write_text_atomic(small_disk / "x.json", "y" * 200_000)
    assert read_json(small_disk / "x.json") == {"old": 1}
    assert os.listdir(small_disk) == ["x.json"]


def test_readers_never_see_half_a_file(tmp_path):
    path, stop, torn = tmp_path / "x.json", threading.Event(), []
    write_json_atomic(path, {"n": 0, "filler": "a" * 20_000}, durable=False)

    def read_all_the_time():
        while not stop.is_set():
            value = read_json(path)
            if value is None or len(value["filler"]) != 20_000:
                torn.append(value)

    reader = threading.Thread(target=read_all_the_time)
    reader.start()
    for n in range(100):
        write_json_atomic(path, {"n": n, "filler": "a" * 20_000}, durable=False)
    stop.set()
    reader.join()
    assert torn == []


def test_two_processes_merging_under_the_lock_lose_nothing(tmp_path):
    program = (
        "import sys; from r1kit.runs import status\n"
        "for n in range(30): status.update(sys.argv[1], durable=False, **{sys.argv[2] + str(n): n})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    written = read_json(tmp_path / "status.json")
    assert {f"{name}{n}" for name in "ab" for n in range(30)} <= set(written)
