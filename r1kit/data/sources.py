"""Known datasets: what they contain, where they are, and how `open_source` opens and checks one.

A dataset is a local file or folder, a part of a mirror folder, or on the hub (copied or streamed). A mirror
has the hub's layout, `<mirror>/<organisation>/<name>/`, so that a copy made with `hf download --repo-type
dataset` works. The files of a configuration are those in its README's `configs`, as the `datasets` library
reads them; without a README they are searched by name (`LAYOUTS`).

The columns of known datasets are those of their cards. Row counts are checked where a card, or a repository
that pins the dataset, states them. `revision` is the commit to read unless a profile names another
(`revision:`). The commits come from public repositories that pin these datasets; they begin with the same
digits as the hub's listing of a dataset where we could read it (2026-11-24).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from r1kit.data.readers import Read, generations, local_trace, problem, program, trace
from r1kit.data.row_files import RowFile, dataset_rows, open_rows
from r1kit.settings.data import HubDataSettings, HubPrompts, HubTraces
from r1kit.settings.errors import UserError

Entry = HubTraces | HubPrompts

MIRROR = "R1KIT_MIRROR"
LAYOUTS = (
    "{config}/{split}-*", "{config}/{split}.*", "{config}/{config}-*", "data/{config}/{split}-*",
    "{config}-{split}.*", "{config}.*",
)  # fmt: skip
"""Patterns for the files of a configuration; for `default` also `DEFAULT_LAYOUTS`."""
DEFAULT_LAYOUTS = ("data/{split}-*", "data/{split}.*", "{split}-*", "{split}.*")

STRING, INTEGER, NUMBER, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
STRINGS = pa.list_(STRING)
TURNS = pa.list_(pa.struct({"role": STRING, "content": STRING}))
_TESTS = pa.list_(pa.struct({"input": STRING, "output": STRING}))
_CODEFORCES = {
    "id": STRING, "aliases": STRINGS, "contest_id": STRING, "contest_name": STRING, "contest_type": STRING,
    "contest_start": INTEGER, "contest_start_year": INTEGER, "index": STRING, "time_limit": NUMBER,
    "memory_limit": NUMBER, "title": STRING, "description": STRING, "input_format": STRING,
    "output_format": STRING, "interaction_format": STRING, "note": STRING, "examples": _TESTS,
    "editorial": STRING,
}  # fmt: skip


class NotThere(UserError):
    """A dataset is neither in the mirror nor on the hub; the command line exits with 2."""


class DatasetChanged(UserError):
    """A dataset differs from what the code expects; the command line exits with 2."""


@dataclass(frozen=True)
class Source:
    """Facts about a dataset.

    Attributes:
        columns: name -> type; {} if any columns are allowed.
        counts: "config/split" -> rows.
        revision: the commit to read unless an entry names another.
        traces: the columns that traces for SFT are read from, () if it has none; `read_trace` reads a row.
        prompt, solution, prompts: the columns that prompts for GRPO are read from, `prompts` in addition to
            the other two; `read_prompt` reads a row.
        prose: the solution is prose, and its last box is the answer.
        pass_rate: the dataset's column of pass rates.
    """

    columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    revision: str | None = None
    traces: tuple[str, ...] = ()
    read_trace: Callable[..., list[Read]] = trace
    prompts: tuple[str, ...] = ()
    prompt: str = "problem"
    solution: str = ""
    prose: bool = False
    read_prompt: Callable[..., list[Read]] = problem
    pass_rate: str = ""

    @property
    def schema(self) -> pa.Schema:
        """The columns as an Arrow schema."""
        return pa.schema(dict(self.columns))


LOCAL_TRACES = Source(columns={"messages": TURNS}, traces=("messages",), read_trace=local_trace)
LOCAL_PROMPTS = Source(solution="solution", pass_rate="pass_rate")
"""Local files and folders."""

SOURCES: dict[str, Source] = {
    "open-r1/Mixture-of-Thoughts": Source(
        columns={"messages": TURNS, "num_tokens": INTEGER, "source": STRING},
        counts={"all/train": 349_317, "math/train": 93_733, "code/train": 83_070, "science/train": 172_514},
        revision="e55fa28006c0d0ec60fb3547520f775dd42d02cd",
        traces=("messages",),
    ),
    "open-r1/OpenR1-Math-220k": Source(
        columns={
            "problem": STRING, "solution": STRING, "answer": STRING, "problem_type": STRING,
            "question_type": STRING, "source": STRING, "uuid": STRING,
            "is_reasoning_complete": pa.list_(FLAG), "generations": STRINGS,
            "correctness_math_verify": pa.list_(FLAG), "correctness_llama": pa.list_(FLAG),
            "finish_reasons": STRINGS, "correctness_count": INTEGER, "messages": TURNS,
        },
        counts={"default/train": 93_733, "all/train": 225_129, "extended/train": 131_396},
        revision="e4e141ec9dea9f8326f4d347be56105859b2bd68",
        traces=("problem", "answer", "generations", "is_reasoning_complete", "correctness_math_verify",
                "correctness_llama"),
        read_trace=generations,
        solution="answer",
    ),
    "open-r1/codeforces": Source(
        columns={
            **_CODEFORCES, "rating": INTEGER, "tags": STRINGS, "testset_size": INTEGER,
            "official_tests": _TESTS, "official_tests_complete": FLAG, "input_mode": STRING,
            "generated_checker": STRING, "executable": FLAG, "generated_tests": INTEGER, "language": STRING,
            "prompt": STRING,
        },
        counts={"verifiable-prompts/train": 16_676, "verifiable-prompts/test": 844},
        revision="fbe3f6e903ee854eec2e69e9d96d0306cde59baf",
        prompts=("official_tests", "examples", "input_mode", "generated_checker", "interaction_format",
                 "language"),
        prompt="prompt",
        read_prompt=program,
    ),
    "open-r1/codeforces-cots": Source(
        columns={
            **_CODEFORCES, "prompt": STRING, "generation": STRING, "finish_reason": STRING,
            "api_metadata": pa.struct(
                {"completion_tokens": INTEGER, "prompt_tokens": INTEGER, "total_tokens": INTEGER}
            ),
            "messages": TURNS,
        },
        counts={
            "solutions_py_decontaminated/train": 8_133,
            "solutions_w_editorials_py_decontaminated/train": 9_796,
        },
        revision="39ac85c150806230473c70ad72c31f6232fe3f41",
        traces=("messages", "finish_reason"),
    ),
    "AI-MO/NuminaMath-CoT": Source(
        columns={"source": STRING, "problem": STRING, "solution": STRING, "messages": TURNS},
        counts={"default/train": 859_494, "default/test": 100},
        revision="9d8d210c9f6a36c8f3cd84045668c9b7800ef517",
        solution="solution",
        prose=True,
    ),
    "open-r1/DAPO-Math-17k-Processed": Source(
        columns={
            "prompt": STRING, "solution": STRING, "data_source": STRING, "source_prompt": TURNS,
            "ability": STRING, "reward_model": pa.struct({"ground_truth": STRING, "style": STRING}),
            "extra_info": pa.struct({"index": STRING}),
        },
        counts={"all/train": 17_398, "en/train": 14_116, "cn/train": 3_282},
        revision="31dd309567e3da778038cc87d868b6097a3ccf68",
        prompt="prompt",
        solution="solution",
    ),
    "open-r1/Big-Math-RL-Verified-Processed": Source(
        columns={"prompt": STRING, "solution": STRING, "source": STRING, "domain": STRINGS,
                 "llama8b_solve_rate": NUMBER},
        revision="c79efbb6d3b75e3a2bcc27a5c569119918132345",
        prompt="prompt",
        solution="solution",
        pass_rate="llama8b_solve_rate",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """A dataset ready to be read.

    Attributes:
        place: "local", "mirror", "hub" or "hub, streamed".
        identity: text that changes with the data: a commit, or the names, sizes and times of its files.
        notes: changes in columns that are not read.
    """

    entry: Entry
    place: str
    identity: str
    data: RowFile
    revision: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Dataset, configuration and split as one word: `open-r1/Mixture-of-Thoughts/math/train`."""
        if self.place == "local":
            return Path(self.entry.dataset).name
        return f"{self.entry.dataset}/{self.entry.config}/{self.entry.split}"

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return self.data.schema.names


def source_of(entry: Entry) -> Source:
    """Return the facts about an entry's dataset."""
    local = LOCAL_TRACES if isinstance(entry, HubTraces) else LOCAL_PROMPTS
    return SOURCES.get(entry.dataset, local)


def columns_read(entry: Entry, there: Iterable[str] = ()) -> list[str]:
    """Return the columns that an entry needs; for prompts the prompt's first, then the solution's.

    Args:
        there: the columns of the dataset: a local file may have its problem in `prompt`, and needs no
            solution if it has test cases.
    """
    source, there = source_of(entry), list(there)
    if isinstance(entry, HubTraces):
        return list(source.traces)
    prompt, solution = entry.prompt_column or source.prompt, entry.solution_column or source.solution
    local = entry.dataset not in SOURCES
    if local and not entry.prompt_column and "problem" not in there and "prompt" in there:
        prompt = "prompt"
    if local and "verification_info" in there and solution not in there:
        solution = ""
    return [prompt, *([solution] if solution else []), *source.prompts]


def reader_of(entry: Entry, there: Iterable[str] = ()) -> Callable[[Mapping[str, Any]], list[Read]]:
    """Return the function that reads a row of this entry (see `r1kit.data.readers`)."""
    source = source_of(entry)
    if isinstance(entry, HubTraces):
        return partial(source.read_trace, most=entry.per_problem)
    prompt, solution, *_ = [*columns_read(entry, there), ""]
    prose = source.prose and solution == source.solution
    return partial(
        source.read_prompt, prompt=prompt, solution=solution, prose=prose, instruction=entry.instruction
    )


def open_source(entry: Entry, data: HubDataSettings, folder: str | Path = ".") -> Opened:
    """Open the dataset of an entry of `traces_from` or `prompts_from`, and check its columns and rows.

    Args:
        folder: the profile's folder; local paths are relative to it.

    Raises:
        NotThere: there is no such file, the mirror does not have this part, or the hub cannot be reached.
        DatasetChanged: a column that is read is missing or has another type, or rows are missing.
        NotASet: a file cannot be read as rows.
    """
    source = source_of(entry)
    if entry.dataset not in SOURCES:
        opened = _open_local(entry, Path(folder))
    elif mirror := data.mirror or os.environ.get(MIRROR):
        opened = _open_mirrored(entry, Path(folder, Path(mirror).expanduser()))
    else:
        opened = _open_hub(entry, stream=data.stream)
    read = columns_read(entry, opened.columns)
    opened.notes.extend(check_columns(opened.name, opened.data.schema, source.columns, read))
    expected = source.counts.get(f"{entry.config}/{entry.split}")
    pinned = entry.revision in (None, source.revision)
    if expected and pinned and not data.excerpt and opened.data.rows not in (None, expected):
        message = (
            f"{opened.name} changed: it has {opened.data.rows:,} rows, expected {expected:,} "
            f"({opened.place}).\n"
            "  If the copy is a part of it, say so in data.yaml: excerpt: true\n"
            "  If it is a version of your choice, name it: revision: <commit>"
        )
        raise DatasetChanged(message)
    return opened


def check_columns(
    dataset: str, found: pa.Schema, expected: Mapping[str, pa.DataType], read: Iterable[str]
) -> list[str]:
    """Return a note for each change in the columns that are not read.

    A dataset may gain columns, and may lose those that are not read. A column that is read must exist and
    have its type: a wrong solution or a dropped trace would be noticed days later, or never.

    Raises:
        DatasetChanged: a column that is read is missing, or has another type.
    """
    kinds = {column.name: type_name(column.type) for column in found}
    wanted = {name: type_name(kind) for name, kind in expected.items()}
    read = list(read)
    differ = {
        name
        for name in kinds.keys() & wanted.keys()
        # An empty cell turns a column of integers into float64.
        if kinds[name].replace("float64", "int64") != wanted[name].replace("float64", "int64")
    }
    wrong = [
        f"  column {name}: {kinds.get(name, 'missing')}, expected {wanted.get(name, 'any type')}"
        for name in read
        if name not in kinds or name in differ
    ]
    if wrong:
        there = f"  its columns: {', '.join(kinds)}"
        message = f"{dataset} changed: what r1kit reads of it is not there.\n"
        raise DatasetChanged(message + "\n".join([*wrong, there]))
    others = [name for name in wanted if name not in read]
    notes = [f"column {name} is gone" for name in others if name not in kinds]
    notes += [f"column {name} is {kinds[name]}, was {wanted[name]}" for name in others if name in differ]
    if expected:
        notes += [f"column {name} is new" for name in kinds if name not in wanted]
    return notes


def type_name(kind: pa.DataType) -> str:
    """Write a type as dataset cards do: `int64`, `list<{content: string, role: string}>` (fields sorted)."""
    import pyarrow.types as of

    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    if of.is_struct(kind):
        fields = sorted((kind.field(i) for i in range(kind.num_fields)), key=lambda inner: inner.name)
        return "{" + ", ".join(f"{inner.name}: {type_name(inner.type)}" for inner in fields) + "}"
    if of.is_string(kind) or of.is_large_string(kind) or of.is_dictionary(kind):
        return "string"
    if of.is_integer(kind):
        return "int64"
    return "float64" if of.is_floating(kind) else str(kind)


def _open_local(entry: Entry, folder: Path) -> Opened:
    path = Path(folder, Path(entry.dataset).expanduser())
    if not path.exists():
        raise NotThere(f"{entry.dataset}: there is no file or folder {path}")
    return Opened(entry, "local", _facts(path), open_rows(path))


def _open_mirrored(entry: Entry, mirror: Path) -> Opened:
    folder = mirror / entry.dataset
    for saved in (folder / entry.config / entry.split, folder / entry.config):
        if (saved / "state.json").is_file():
            return Opened(entry, "mirror", _facts(saved), open_rows(saved))
    files = mirrored_files(folder, entry.config, entry.split)
    if not files:
        part = f"{entry.config}/{entry.split}-00000-of-00001.parquet"
        found = "has no files of it" if folder.is_dir() else "is not there"
        message = (
            f"{entry.dataset}, part {entry.config}, split {entry.split}: the mirror {folder} {found}.\n"
            f"  With a network: hf download --repo-type dataset {entry.dataset} --local-dir {folder}\n"
            f"  Files of your own: {folder / part} (.parquet or .jsonl; docs/data.md says which columns)"
        )
        raise NotThere(message)
    return Opened(entry, "mirror", _facts(*files), open_rows(folder, files))


def _facts(*files: Path) -> str:
    every = [f for file in files for f in (sorted(file.rglob("*")) if file.is_dir() else [file])]
    return str([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in every if f.is_file()])


def mirrored_files(folder: Path, config: str, split: str) -> list[Path]:
    """Return the files of a configuration's split in a mirror's dataset folder, in order; [] if none."""
    if patterns := _patterns_of_card(folder / "README.md", config, split):
        return _data_files(folder, patterns)
    for layout in (*LAYOUTS, *(DEFAULT_LAYOUTS if config == "default" else ())):
        if found := _data_files(folder, [layout.format(config=config, split=split)]):
            return found
    return []


def _patterns_of_card(readme: Path, config: str, split: str) -> list[str]:
    if not readme.is_file():
        return []
    from huggingface_hub import metadata_load

    configs = (metadata_load(readme) or {}).get("configs") or []
    files: Any = next((one.get("data_files") for one in configs if one.get("config_name") == config), None)
    patterns: list[str] = []
    for one in [files] if isinstance(files, str) else files or ():
        if isinstance(one, dict) and one.get("split") != split:
            continue  # a bare pattern belongs to the only split
        path = one["path"] if isinstance(one, dict) else one
        patterns += [path] if isinstance(path, str) else path
    return patterns


def _data_files(folder: Path, patterns: list[str]) -> list[Path]:
    kinds = (".parquet", ".jsonl", ".ndjson")
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.suffix in kinds})


def _open_hub(entry: Entry, stream: bool) -> Opened:
    # With `stream` the files are not copied into the hub's cache.
    revision = _commit(entry.dataset, entry.revision or source_of(entry).revision)
    try:
        data = load(entry.dataset, entry.config, entry.split, revision, stream)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = (
            f"{entry.dataset}, part {entry.config}: it cannot be loaded from the hub ({reason}).\n"
            f"  Without a network it is read from a mirror folder, named by data.yaml's mirror: or ${MIRROR}."
            f"\n  Where there is a network: hf download --repo-type dataset {entry.dataset} "
            f"--local-dir MIRROR/{entry.dataset}"
        )
        raise NotThere(message) from error
    place = "hub, streamed" if stream else "hub"
    return Opened(entry, place, f"{entry.dataset}@{revision or 'newest'}", data, revision)


def load(name: str, config: str, split: str, revision: str | None = None, stream: bool = False) -> RowFile:
    """Open a dataset with `datasets.load_dataset`."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    loaded = load_dataset(name, config, split=split, revision=revision, streaming=stream)
    known = (loaded.info.splits or {}).get(split)
    return dataset_rows(name, loaded, rows=known.num_examples if known else None)


def _commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=20).sha
    except (OSError, HfHubHTTPError):
        return revision  # `load_dataset` may still find it in the hub's cache
