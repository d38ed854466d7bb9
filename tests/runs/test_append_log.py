from __future__ import annotations

import pytest

from r1kit.runs.jsonl import AppendLog, LogInUse


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
