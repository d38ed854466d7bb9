"""metrics.jsonl survives killed writers, and followers see every row once."""

from __future__ import annotations

import json

from r1kit.runs import jsonl


def test_rows_come_back_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(3):
        jsonl.append(path, {"step": step, "loss": 1.0 / (step + 1)})
    assert [row["step"] for row in jsonl.read(path)] == [0, 1, 2]


def test_a_missing_file_has_no_rows(tmp_path):
    assert jsonl.read(tmp_path / "none.jsonl") == []
    assert jsonl.Follower(tmp_path / "none.jsonl").poll() == []


def test_a_torn_last_line_is_skipped_and_does_not_swallow_the_next_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"step": 1})
    with open(path, "a") as file:
        file.write('{"step": 2, "lo')
    assert jsonl.read(path) == [{"step": 1}]
    jsonl.append(path, {"step": 3})
    assert jsonl.read(path) == [{"step": 1}, {"step": 3}]


def test_a_line_cut_inside_a_letter_of_two_bytes_is_skipped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"step": 1})
    with open(path, "ab") as file:
        file.write('{"note": "é'.encode()[:-1])
    assert jsonl.read(path) == [{"step": 1}]


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
