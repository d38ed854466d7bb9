"""Datasets of others: their columns, where they lie, and what becomes of their rows."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1kit.data import synthetic_mirror
from r1kit.data.readers import last_box
from r1kit.data.row_files import open_rows
from r1kit.data.sources import (
    SOURCES,
    DatasetChanged,
    NotThere,
    check_columns,
    load,
    mirrored_files,
    open_source,
    reader_of,
    source_of,
    type_name,
)
from r1kit.evaluation.benchmarks import BENCHMARKS
from r1kit.settings.data import HubDataSettings, HubPrompts, HubTraces
from tests.data.rows import write_jsonl

MIXTURE = {"dataset": "open-r1/Mixture-of-Thoughts", "config": "math"}
DAPO = {"dataset": "open-r1/DAPO-Math-17k-Processed", "config": "en"}


@pytest.fixture(scope="session")
def mirror(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirror")
    synthetic_mirror.write_mirror(folder)
    return folder


def settings(mirror=None, **more):
    values = {"source": "hub", "seed": 1, "traces_from": [MIXTURE], "prompts_from": [DAPO], "prompts": 50}
    values |= {"max_prompt_length": 512, "excerpt": True, "mirror": str(mirror) if mirror else None}
    return HubDataSettings.model_validate(values | more)


def read(mirror, entry):
    """(rows of ours, reasons) of a whole dataset of the mirror."""
    opened = open_source(entry, settings(mirror))
    reader = reader_of(entry, opened.columns)
    found = [one for row in opened.data for one in reader(row)]
    reasons = [one for one in found if isinstance(one, str)]
    return [one for one in found if not isinstance(one, str)], reasons


def test_the_schemas_are_those_that_the_datasets_library_writes():
    from datasets import Features

    for name, source in SOURCES.items():
        again = Features.from_arrow_schema(source.schema).arrow_schema
        assert check_columns(name, again, source.columns, source.columns) == []
        assert {*source.traces, *source.prompts} <= {*source.columns}


@pytest.mark.parametrize("part", synthetic_mirror.PARTS, ids=lambda part: "/".join(part))
def test_every_shard_has_its_datasets_columns(mirror, part):
    name, config = part
    (file,) = mirrored_files(mirror / name, config, "train")
    assert pq.read_schema(file).remove_metadata() == SOURCES[name].schema


def test_shards_are_the_same_every_time(tmp_path, mirror):
    synthetic_mirror.write_mirror(tmp_path)
    name = "open-r1/OpenR1-Math-220k/default/train-00000-of-00001.parquet"
    assert pq.read_table(tmp_path / name).equals(pq.read_table(mirror / name))


def test_traces_without_an_end_or_an_answer_are_left_out(mirror):
    rows, reasons = read(mirror, HubTraces(**MIXTURE))
    assert sorted(reasons) == ["no question or no answer", "the thoughts have no end"]
    assert max(len(row["messages"][-1]["content"]) for row in rows) > 60_000
    assert [row["messages"][0]["role"] for row in rows].count("system") == 1
    assert all(row["solution"].lstrip("-").isdigit() and row["verified"] is None for row in rows)


def test_of_several_generations_right_and_complete_ones_are_taken(mirror):
    entry = HubTraces(dataset="open-r1/OpenR1-Math-220k")
    one, reasons = read(mirror, entry)
    assert set(reasons) == {"no right and complete generation"}
    assert len(one) + len(reasons) == 60
    several, _ = read(mirror, entry.model_copy(update={"per_problem": 4}))
    assert len(several) > len(one)
    for row in several:
        assert row["verified"]
        assert not row["solution"] or rf"\boxed{{{row['solution']}}}" in row["messages"][-1]["content"]


def test_the_answer_is_taken_not_the_prose(mirror):
    rows, reasons = read(mirror, HubPrompts(dataset="open-r1/OpenR1-Math-220k"))
    assert reasons == ["no solution"] * 6
    assert all(row["solution"].lstrip("-").isdigit() for row in rows)
    assert rows[0]["prompt"] == [{"role": "user", "content": rows[0]["problem"]}]


def test_a_gold_in_prose_counts_through_its_last_box(mirror):
    rows, reasons = read(mirror, HubPrompts(dataset="AI-MO/NuminaMath-CoT"))
    assert reasons == ["the solution is prose without a box"] * 6
    assert rows[2]["solution"].startswith(r"\text{")
    assert rows[3]["solution"].startswith(r"\frac{")


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"so \boxed{4}", "4"),
        (r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{4", ""),
        ("none", ""),
    ],
)
def test_the_last_box_is_read_with_its_braces(text, box):
    assert last_box(text) == box


def test_programs_have_tests_that_can_fail(mirror):
    entry = HubPrompts(dataset="open-r1/codeforces", config="verifiable-prompts")
    rows, reasons = read(mirror, entry)
    wanted = ("interactive", "needs a checker of its own", "reads and writes files")
    assert set(reasons) == {*wanted, "no test that expects anything"}
    for row in rows:
        info = json.loads(row["verification_info"])
        assert info["language"] in ("python", "cpp")
        assert info["test_cases"]
        assert all(case["output"].strip() for case in info["test_cases"])


def test_generations_that_a_limit_cut_off_are_left_out(mirror):
    entry = HubTraces(dataset="open-r1/codeforces-cots", config="solutions_py_decontaminated")
    rows, reasons = read(mirror, entry)
    assert set(reasons) == {"the generation was cut off"}
    assert all("```" in row["messages"][-1]["content"] for row in rows)


def test_an_instruction_is_asked_but_is_no_part_of_the_problem(mirror):
    rows, _ = read(mirror, HubPrompts(**DAPO, instruction="Answer in a box."))
    assert rows[0]["prompt"][0]["content"] == rows[0]["problem"] + "\n\nAnswer in a box."


def test_a_column_that_is_read_and_changed_is_an_error_another_is_a_note():
    columns = SOURCES["open-r1/DAPO-Math-17k-Processed"].columns
    kinds = dict(columns)
    changed = pa.schema(kinds | {"solution": pa.int64()})
    with pytest.raises(DatasetChanged, match="column solution: int64, expected string"):
        check_columns("dapo", changed, columns, ["prompt", "solution"])
    del kinds["prompt"]
    with pytest.raises(
        DatasetChanged, match=r"column prompt: missing, expected string[\s\S]*its columns: solu"
    ):
        check_columns("dapo", pa.schema(kinds), columns, ["prompt", "solution"])
    kinds = dict(columns) | {"ability": pa.int64(), "fresh": pa.bool_()}
    del kinds["data_source"]
    notes = check_columns("dapo", pa.schema(kinds), columns, ["prompt", "solution"])
    assert notes == [
        "column data_source is gone",
        "column ability is int64, was string",
        "column fresh is new",
    ]


def test_a_struct_is_the_same_in_any_order_and_text_in_any_size():
    one = pa.large_list(pa.struct({"content": pa.large_string(), "role": pa.string()}))
    other = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    assert type_name(one) == type_name(other) == "list<{content: string, role: string}>"


def test_missing_rows_are_an_error_unless_the_copy_is_an_excerpt(mirror):
    with pytest.raises(DatasetChanged, match=r"60 rows, expected 93,733 \(mirror\)[\s\S]*excerpt: true"):
        open_source(HubTraces(**MIXTURE), settings(mirror, excerpt=False))
    chosen = HubTraces(**MIXTURE, revision="0123abc")
    assert open_source(chosen, settings(mirror, excerpt=False)).data.rows == 60


def test_a_mirror_is_found_by_its_readme_by_name_and_as_saved_datasets(mirror, tmp_path):
    import datasets

    name = MIXTURE["dataset"]
    source = mirror / name / "math" / "train-00000-of-00001.parquet"
    expected = pq.read_table(source)
    for place in (
        "a/{name}/math/train.parquet",
        "b/{name}/math/train-00000.parquet",
        "c/{name}/math.parquet",
    ):
        copy = tmp_path / place.format(name=name)
        copy.parent.mkdir(parents=True)
        shutil.copy(source, copy)
    rows = expected.to_pylist()
    (tmp_path / "d" / name / "math").mkdir(parents=True)
    write_jsonl(tmp_path / "d" / name / "math" / "train.jsonl", rows)
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "e" / name / "math" / "train"))
    (tmp_path / "f" / name / "files").mkdir(parents=True)
    shutil.copy(source, tmp_path / "f" / name / "files" / "first.parquet")
    heading = "---\nconfigs:\n- config_name: math\n  data_files: files/*.parquet\n---\n"
    (tmp_path / "f" / name / "README.md").write_text(heading)
    for letter in "abcdef":
        opened = open_source(HubTraces(**MIXTURE), settings(tmp_path / letter))
        assert list(opened.data) == rows


def test_a_part_that_is_not_in_the_mirror_says_how_to_get_it(mirror, monkeypatch):
    monkeypatch.setenv("R1KIT_MIRROR", str(mirror))
    wanted = HubPrompts(dataset="open-r1/DAPO-Math-17k-Processed", config="all")
    with pytest.raises(NotThere, match=r"part all[\s\S]*has no files of it[\s\S]*hf download"):
        open_source(wanted, settings())
    monkeypatch.setenv("R1KIT_MIRROR", str(mirror / "nowhere"))
    with pytest.raises(NotThere, match="is not there"):
        open_source(wanted, settings())


def test_files_of_ones_own_need_their_columns(tmp_path):
    said = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    write_jsonl(tmp_path / "own.jsonl", [{"messages": said, "solution": "2", "verified": True}])
    entry = HubTraces(dataset="./own.jsonl")
    opened = open_source(entry, settings(), tmp_path)
    assert opened.name == "own.jsonl"
    (found,) = reader_of(entry)(next(iter(open_rows(tmp_path / "own.jsonl"))))
    assert found == {"messages": said, "problem": "1+1?", "solution": "2", "verified": True}
    write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "1+1?", "solution": 2}])
    asked = HubPrompts(dataset="./asked.jsonl")
    there = open_source(asked, settings(), tmp_path).columns
    (found,) = reader_of(asked, there)({"prompt": "1+1?", "solution": 2})
    assert found["solution"] == "2"
    with pytest.raises(DatasetChanged, match="column messages: missing"):
        open_source(HubTraces(dataset="./asked.jsonl"), settings(), tmp_path)
    with pytest.raises(NotThere, match="there is no file"):
        open_source(HubTraces(dataset="./none.jsonl"), settings(), tmp_path)


@pytest.mark.parametrize("stream", [False, True])
def test_the_hubs_own_loader_reads_a_folder_in_the_hubs_form(mirror, stream, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    loaded = load(str(mirror / MIXTURE["dataset"]), "math", "train", stream=stream)
    assert loaded.rows == (None if stream else 60)
    assert check_columns("m", loaded.schema, source_of(HubTraces(**MIXTURE)).columns, ["messages"]) == []
    assert list(loaded) == pq.read_table(mirror / MIXTURE["dataset"] / "math").to_pylist()


@pytest.mark.parametrize("name", [*SOURCES, *BENCHMARKS])
def test_every_dataset_is_pinned_to_a_whole_commit(name):
    """The hub takes no abbreviated ones."""
    assert re.fullmatch("[0-9a-f]{40}", (SOURCES | BENCHMARKS)[name].revision)
