"""Rows survive killed writers, followers see every row once, and records are found by key."""

from __future__ import annotations

import json

import pytest

from r1kit.runs import jsonl
from r1kit.runs.jsonl import AppendLog, LogInUse


def test_rows_come_back_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(3):
        jsonl.append(path, {"step": step, "loss": 1.0 / (step + 1)})
    assert [row["step"] for row in jsonl.read(path)] == [0, 1, 2]


def test_a_missing_file_has_no_rows(tmp_path):
    assert jsonl.read(tmp_path / "none.jsonl") == []
    assert jsonl.Follower(tmp_path / "none.jsonl").poll() == []


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', '{"note": "é'.encode()[:-1]])
def test_a_torn_last_line_is_skipped_and_does_not_swallow_the_next_row(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"step": 1})
    with open(path, "ab") as file:
        file.write(torn)
    assert jsonl.read(path) == [{"step": 1}]
    jsonl.append(path, {"step": 3})
    assert jsonl.read(path) == [{"step": 1}, {"step": 3}]


def test_a_diverged_loss_is_null_so_the_file_stays_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    assert json.loads(path.read_text()) == {"step": 1, "loss": None, "grad_norm": None}


def test_a_follower_gets_each_whole_row_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = jsonl.Follower(path)
    jsonl.append(path, {"step": 1})
    assert follower.poll() == [{"step": 1}]
    with open(path, "a") as file:
        file.write('{"step": 2')
        file.flush()
        assert follower.poll() == []
        file.write("}\n")
    assert follower.poll() == [{"step": 2}]
    assert follower.poll() == []
    assert follower.rows == [{"step": 1}, {"step": 2}]


def test_after_a_resume_the_follower_starts_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = jsonl.Follower(path)
    for step in (10, 20, 30):
        jsonl.append(path, {"step": step, "loss": 1.0})
    follower.poll()
    assert jsonl.truncate_after(path, 20) == 1
    jsonl.append(path, {"step": 30, "loss": 2.0})
    follower.poll()
    assert [(row["step"], row["loss"]) for row in follower.rows] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_truncating_after_the_last_step_changes_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"step": 10})
    inode = path.stat().st_ino
    assert jsonl.truncate_after(path, 10) == 0
    assert path.stat().st_ino == inode


def opened(path):
    return AppendLog(path, ("name", "part"))


def record(name, part=0, **more):
    return {"name": name, "part": part, **more}


def test_records_are_found_by_their_key_and_the_last_one_counts(tmp_path):
    with opened(tmp_path / "sub" / "log.jsonl") as log:
        log.append([record("a", value="ä\n一"), record("b")])
        log.append([record("a", value=2), record("a", 1)])
        assert log.get(("a", 0))["value"] == 2
        assert log.get(("c", 0)) is None
    with opened(tmp_path / "sub" / "log.jsonl") as log:
        assert [(found["name"], found["part"]) for found in log] == [("b", 0), ("a", 0), ("a", 1)]
        assert log.get(("a", 0))["value"] == 2


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_torn_last_line_is_cut_off_and_what_follows_is_whole(tmp_path, kept):
    path = tmp_path / "log.jsonl"
    with opened(path) as log:
        log.append([record("a"), record("b", value="é" * 5)])
    content = path.read_bytes()
    last = content.index(b"\n") + 1
    path.write_bytes(content[: last + kept])
    with opened(path) as log:
        assert list(log.places) == [("a", 0)]
        log.append([record("c")])
    with opened(path) as log:
        assert list(log.places) == [("a", 0), ("c", 0)]
        assert log.broken == 0


def test_a_broken_line_in_the_middle_is_passed_over_and_counted(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"name": "a", "part": 0}\n\0\0\0\0\n[]\n{"name": "b"}\n{"name": "c", "part": 0}\n')
    with opened(path) as log:
        assert list(log.places) == [("a", 0), ("c", 0)]
        assert log.broken == 3
        assert log.get(("c", 0)) == record("c")


def test_two_writers_are_refused(tmp_path):
    with (
        opened(tmp_path / "log.jsonl"),
        pytest.raises(LogInUse, match=r"another process writes .*log\.jsonl"),
        opened(tmp_path / "log.jsonl"),
    ):
        pass
