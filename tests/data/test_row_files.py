from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest

from r1kit.data import row_files
from r1kit.data.row_files import NotASet, in_batches, in_steps, open_rows, rows_in_memory, write_parquet
from tests.data.rows import row, write_jsonl


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(row_files, "BATCH", 4)


@pytest.fixture
def rows():
    return [row(n, note=None if n < 9 else f"nota bene {n} \u00e9\u4e00", level=n) for n in range(11)]


def test_a_set_reads_the_same_in_every_form(rows, tmp_path):
    from datasets import Dataset

    jsonl = open_rows(write_jsonl(tmp_path / "a.jsonl", rows))
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    write_parquet(tmp_path / "a.parquet", jsonl.schema, jsonl.batches())
    for part in range(2):
        half = rows[part * 6 : part * 6 + 6]
        write_parquet(tmp_path / f"parts/{part}.parquet", jsonl.schema, in_batches(half, jsonl.schema))
    for name in ("a.jsonl", "saved", "a.parquet", "parts"):
        found = open_rows(tmp_path / name)
        assert list(found) == rows, name
        assert found.rows == 11
        assert max(batch.num_rows for batch in found.batches()) <= 4


def test_a_column_that_is_empty_in_the_first_batches_has_its_type(rows, tmp_path):
    found = open_rows(write_jsonl(tmp_path / "a.jsonl", rows))
    assert str(found.schema.field("note").type) == "string"
    rows[10] = {"problem": "only this"}
    assert list(open_rows(write_jsonl(tmp_path / "a.jsonl", rows)))[10]["note"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": \n', r"set.jsonl:2 is not JSON"),
        ("[1]\n", r"set.jsonl:1 is not a JSON object"),
        ('{"a": 1}\n' * 5 + '{"a": "one"}\n', r"rows up to 6: a column has two kinds of values"),
    ],
)
def test_what_is_no_set_of_rows_is_named(content, message, tmp_path):
    (tmp_path / "set.jsonl").write_text(content)
    with pytest.raises(NotASet, match=message):
        open_rows(tmp_path / "set.jsonl")


def test_a_missing_path_another_form_and_foreign_parts_are_named(rows, tmp_path):
    with pytest.raises(NotASet, match="does not exist"):
        open_rows(tmp_path / "nowhere.jsonl")
    (tmp_path / "set.csv").write_text("a,b")
    with pytest.raises(NotASet, match="another form"):
        open_rows(tmp_path / "set.csv")
    for name, part in (("a", [{"x": 1}]), ("b", [{"y": 1}])):
        schema = open_rows(write_jsonl(tmp_path / f"{name}.jsonl", part)).schema
        write_parquet(tmp_path / f"parts/{name}.parquet", schema, in_batches(part, schema))
    with pytest.raises(NotASet, match="other columns"):
        open_rows(tmp_path / "parts")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(rows, tmp_path):
    schema = open_rows(write_jsonl(tmp_path / "a.jsonl", rows)).schema
    path = tmp_path / "out" / "a.parquet"
    write_parquet(path, schema, in_batches(rows[:2], schema))

    def failing():
        yield from in_batches(rows, schema)
        raise RuntimeError("the disk, say")

    with pytest.raises(RuntimeError):
        write_parquet(path, schema, failing())
    assert [file.name for file in path.parent.iterdir()] == ["a.parquet"]
    assert json.loads(json.dumps(list(open_rows(path)))) == rows[:2]


def test_steps_follow_from_the_row_number_however_the_batches_are_cut(rows):
    whole = rows_in_memory("these", rows)
    cut = [batch.slice(start, 3) for batch in whole.batches() for start in range(0, batch.num_rows, 3)]
    one, other = (list(in_steps(batches, 5)) for batches in (whole.batches(), cut))
    assert [step.num_rows for step in one] == [5, 5, 1]
    assert [row for step in one for row in step.to_pylist()] == rows
    for a, b in zip(one, other, strict=True):
        assert a.equals(b)


@pytest.mark.parametrize("most", [1, 4, 6, 99])
def test_the_head_of_a_set_is_a_set(rows, most):
    head = rows_in_memory("these", rows).head(most)
    assert list(head) == rows[:most]
    assert head.rows == min(most, 11)


def test_what_was_read_of_a_parquet_is_not_held(tmp_path):
    schema = pa.schema({"problem": pa.string()})
    rng = random.Random(0)
    rows = ({"problem": rng.randbytes(1000).hex()} for _ in range(12_000))
    write_parquet(tmp_path / "rows.parquet", schema, in_batches(rows, schema))
    size, most = (tmp_path / "rows.parquet").stat().st_size, 0
    before = pa.total_allocated_bytes()
    for _ in open_rows(tmp_path / "rows.parquet").batches():
        most = max(most, pa.total_allocated_bytes() - before)
    assert size > 10e6
    assert most < size / 3
