"""Datasets to train on: which are known, what they hold, where they lie, and how they are opened.

A dataset lies in a local file or folder, in a mirror folder, or on the hub (copied or streamed). A mirror
holds datasets as the hub does, `<mirror>/<organisation>/<name>/`, so that a copy made with `hf download
--repo-type dataset` is one. Which files belong to a configuration is read from its README's `configs`, as the
`datasets` library does; without a README they are looked for by name (`LAYOUTS`).

The columns of known datasets are those of their cards. Row counts are given where a card, or a repository
that pins the dataset, states them; others are not checked. `revision` is the commit that is taken unless a
profile names another (`revision:`). Commits were read in public repositories that pin these datasets, and
where the hub's listing of a dataset was to be had, it begins with the same digits (2026-11-24).

Readers: how a row of a known dataset or a local file becomes rows of r1kit's, or the reason why not.

Ours are those of the embedded world (`r1kit/data/datasets.py`) without its levels and slips:

- traces: `messages` (user, assistant), `problem`, `solution` ("" where nobody states it), `verified` (None
  where nobody looked)
- prompts: `prompt` (one user turn), `problem`, `solution`, `verification_info` (JSON, "" without test cases)

Departures from open-r1, which takes `messages` and a solution column as they are:

- A trace without an end of its thoughts is left out: cut off by a limit, it teaches to think without end.
- OpenR1-Math's `messages` holds the first generation that a verifier liked. We read `generations` and its
  flags: `correctness_math_verify`, and where that says no `correctness_llama`; complete ones only.
- A gold in prose counts only through its last `\boxed{}`; without one the row is left out (open-r1's
  verifier reads the last number, which fails right answers).
- A program's problem needs a case that can fail, read from and written to the standard streams: problems with
  a checker of their own, files or an interactor cannot be judged by comparing outputs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from r1kit.data.format import THINK_CLOSE, THINK_OPEN, user_prompt
from r1kit.data.row_files import RowFile, dataset_rows, open_rows
from r1kit.settings.data import HubDataSettings, HubPrompts, HubTraces
from r1kit.settings.errors import UserError

Row = dict[str, Any]
Read = Row | str
"""A row of ours, or the reason why there is none."""


def trace(row: Mapping[str, Any], most: int = 1) -> list[Read]:
    """Read a row whose `messages` are a question and a trace in R1's form, possibly behind a system turn."""
    if row.get("finish_reason") not in (None, "stop"):
        return ["the generation was cut off"]
    return [_trace(row["messages"] or [], think=True)]


def local_trace(row: Mapping[str, Any], most: int = 1) -> list[Read]:
    """Read a row of one's own: in any form, with its `solution` and `verified` where it has them."""
    read = _trace(row["messages"] or [], think=False)
    if isinstance(read, str):
        return [read]
    given = {name: row[name] for name in ("problem", "solution", "verified") if row.get(name) is not None}
    return [read | given]


def generations(row: Mapping[str, Any], most: int = 1) -> list[Read]:
    """Read at most `most` of the right and complete generations of a row of OpenR1-Math."""
    complete, by_rules, by_model = (
        row[name] or [] for name in ("is_reasoning_complete", "correctness_math_verify", "correctness_llama")
    )
    reads = [
        _trace([*user_prompt(row["problem"]), {"role": "assistant", "content": text}], think=True)
        for number, text in enumerate(row["generations"] or [])
        if _flag(complete, number) and (_flag(by_rules, number) or _flag(by_model, number))
    ]
    good = [read for read in reads if not isinstance(read, str)][:most]
    if not good:
        return reads[:1] or ["no right and complete generation"]
    return [read | {"solution": row["answer"] or "", "verified": True} for read in good]


def problem(
    row: Mapping[str, Any], prompt: str, solution: str, prose: bool = False, instruction: str = ""
) -> list[Read]:
    """Read a problem with an answer to check against, or with test cases in `verification_info`.

    Args:
        prompt, solution: the names of these columns; "" for no solution.
        prose: the solution is prose, its last box the answer.
        instruction: added to the question.
    """
    text = _question(row[prompt])
    if not text:
        return ["no problem"]
    gold = str(row[solution] if solution and row[solution] is not None else "").strip()
    tests = row.get("verification_info") or ""
    if prose and gold:
        gold = last_box(gold)
        if not gold:
            return ["the solution is prose without a box"]
    if not gold and not tests:
        return ["no solution"]
    return [_prompt(text, gold, tests if isinstance(tests, str) else json.dumps(tests), instruction)]


def program(
    row: Mapping[str, Any], prompt: str, solution: str = "", prose: bool = False, instruction: str = ""
) -> list[Read]:
    """Read a row of open-r1/codeforces, `verifiable-prompts`: a prompt, its language, and pairs of texts."""
    if row["interaction_format"]:
        return ["interactive"]
    if row["generated_checker"]:
        return ["needs a checker of its own"]
    if (row["input_mode"] or "stdio") != "stdio":
        return ["reads and writes files"]
    cases = [
        {"type": "stdin_stdout", "input": pair["input"], "output": pair["output"]}
        for pair in row["official_tests"] or row["examples"] or []
        if (pair["output"] or "").strip()
    ]
    text = (row[prompt] or "").strip()
    if not cases or not text:
        return ["no problem" if cases else "no test that expects anything"]
    info = {"language": row["language"] or "python", "test_cases": cases}
    return [_prompt(text, "", json.dumps(info, ensure_ascii=False), instruction)]


def last_box(text: str) -> str:
    r"""Return the content of the last `\boxed{}` of a text, "" if there is none or it is never closed."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return ""
    depth, start = 1, start + len(r"\boxed{")
    for position in range(start, len(text)):
        escaped = text[position - 1] == "\\"
        depth += ((text[position] == "{") - (text[position] == "}")) * (not escaped)
        if depth == 0:
            return text[start:position].strip()
    return ""


def _trace(messages: list[Mapping[str, Any]], think: bool) -> Read:
    turns = [{"role": turn["role"], "content": turn["content"] or ""} for turn in messages]
    asked = next((turn["content"] for turn in turns if turn["role"] == "user"), "")
    answer = turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else ""
    if not asked.strip() or not answer.strip():
        return "no question or no answer"
    if think and THINK_OPEN not in answer:
        return "no thoughts"
    if THINK_OPEN in answer:
        if THINK_CLOSE not in answer:
            return "the thoughts have no end"
        if not answer.rpartition(THINK_CLOSE)[2].strip():
            return "no answer after the thoughts"
    solution = last_box(answer.rpartition(THINK_CLOSE)[2])
    return {"messages": turns, "problem": asked, "solution": solution, "verified": None}


def _prompt(text: str, solution: str, info: str, instruction: str) -> Row:
    asked = f"{text}\n\n{instruction}" if instruction else text
    return {"prompt": user_prompt(asked), "problem": text, "solution": solution, "verification_info": info}


def _question(value: Any) -> str:
    """Return the text of a prompt: as it is, or the last user turn of a conversation."""
    if isinstance(value, str):
        return value.strip()
    asked = [turn["content"] for turn in value or () if turn["role"] == "user"]
    return asked[-1].strip() if asked else ""


def _flag(flags: list[bool | None], number: int) -> bool:
    return number < len(flags) and bool(flags[number])  # `correctness_llama` is often empty


Entry = HubTraces | HubPrompts

MIRROR = "R1KIT_MIRROR"
LAYOUTS = (
    "{config}/{split}-*", "{config}/{split}.*", "{config}/{config}-*", "data/{config}/{split}-*",
    "{config}-{split}.*", "{config}.*",
)  # fmt: skip
"""Where the files of a configuration lie; those of `default` also in `data/` and in the folder itself."""
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
    """A dataset is not what the code expects; the command line exits with 2."""


@dataclass(frozen=True)
class Source:
    """What is known of a dataset.

    Attributes:
        columns: name -> type; {} where any are taken.
        counts: "config/split" -> rows.
        revision: the commit that is taken unless an entry names another.
        traces: the columns that traces for SFT are read from, () where it holds none; `read_trace` reads a
            row of them.
        prompt, solution, prompts: the columns that prompts for GRPO are read from, `prompts` beside the
            other two; `read_prompt` reads a row of them.
        prose: the solution is prose, its last box the answer.
        pass_rate: the dataset's own column of pass rates.
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
        """The columns as Arrow's schema."""
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
        identity: what changes when the data changes: a commit, or the names, sizes and times of its files.
        data: its columns and rows; their number is None where a stream does not say.
        notes: what changed in columns that are not read.
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
        """The names of the columns that are there."""
        return self.data.schema.names


def source_of(entry: Entry) -> Source:
    """Return what is known of an entry's dataset."""
    local = LOCAL_TRACES if isinstance(entry, HubTraces) else LOCAL_PROMPTS
    return SOURCES.get(entry.dataset, local)


def columns_read(entry: Entry, there: Iterable[str] = ()) -> list[str]:
    """Return the columns that an entry needs; for prompts the prompt's first, then the solution's.

    Args:
        there: the columns that the dataset has: a local file's problem may stand in `prompt`, and a solution
            may be missing where there are test cases.
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
    """Return the function that reads a row of this entry: a row of ours, or a reason, per trace or prompt."""
    source = source_of(entry)
    if isinstance(entry, HubTraces):
        return partial(source.read_trace, most=entry.per_problem)
    prompt, solution, *_ = [*columns_read(entry, there), ""]
    prose = source.prose and solution == source.solution
    told = entry.instruction
    return partial(source.read_prompt, prompt=prompt, solution=solution, prose=prose, instruction=told)


def open_source(entry: Entry, data: HubDataSettings, folder: str | Path = ".") -> Opened:
    """Open the dataset of an entry of `traces_from` or `prompts_from`, and check its columns and rows.

    Args:
        folder: the profile's, from which a local path that begins with a dot counts.

    Raises:
        NotThere: no such file, no such part in the mirror, or the hub cannot be reached.
        DatasetChanged: columns that are read are gone or of another type, or rows are missing.
        NotASet: a file that cannot be read as rows.
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
    """Say what changed in the columns that are not read.

    A dataset may grow columns, and may lose ones that are not read. A column that is read must be there and
    of its type: a wrong gold or a dropped trace would be found days later, if ever.

    Raises:
        DatasetChanged: a column that is read is missing, or has another type.
    """
    kinds = {column.name: type_name(column.type) for column in found}
    wanted = {name: type_name(kind) for name, kind in expected.items()}
    read = list(read)
    differ = {
        name
        for name in kinds.keys() & wanted.keys()
        # An empty cell turns a column of integers to float64.
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
    """Return the files of a configuration's split in a dataset's folder of a mirror, in order; [] if none."""
    if patterns := _patterns_of_card(folder / "README.md", config, split):
        return _data_files(folder, patterns)
    for layout in (*LAYOUTS, *(DEFAULT_LAYOUTS if config == "default" else ())):
        if found := _data_files(folder, [layout.format(config=config, split=split)]):
            return found
    return []


def _patterns_of_card(readme: Path, config: str, split: str) -> list[str]:
    """Return the patterns of `configs` in a README's heading, as `datasets` reads them; [] without."""
    if not readme.is_file():
        return []
    from huggingface_hub import metadata_load

    configs = (metadata_load(readme) or {}).get("configs") or []
    files: Any = next((one.get("data_files") for one in configs if one.get("config_name") == config), None)
    patterns: list[str] = []
    for one in [files] if isinstance(files, str) else files or ():
        if isinstance(one, dict) and one.get("split") != split:
            continue  # a bare pattern holds the only split
        path = one["path"] if isinstance(one, dict) else one
        patterns += [path] if isinstance(path, str) else path
    return patterns


def _data_files(folder: Path, patterns: list[str]) -> list[Path]:
    kinds = (".parquet", ".jsonl", ".ndjson")
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.suffix in kinds})


def _open_hub(entry: Entry, stream: bool) -> Opened:
    """Open a dataset of the hub at the entry's revision, else the one that was checked, else the newest.

    With `stream` its files are read as they come instead of being copied into the hub's cache.
    """
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
    """Read whatever `datasets.load_dataset` opens."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    loaded = load_dataset(name, config, split=split, revision=revision, streaming=stream)
    known = (loaded.info.splits or {}).get(split)
    return dataset_rows(name, loaded, rows=known.num_examples if known else None)


def _commit(name: str, revision: str | None) -> str | None:
    """Return the commit that a revision (None: the newest) means now; as given if the hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=20).sha
    except (OSError, HfHubHTTPError):
        return revision  # `load_dataset` may still find it in the hub's cache
