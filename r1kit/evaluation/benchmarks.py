"""The questions of an evaluation: public benchmarks by name, or the embedded world's held-out problems.

Prompts are those of lighteval at d3da6b9, with which open-r1's tables were made (both from OpenAI's
simple-evals; LiveCodeBench's from its runner). lighteval 0.13 asks MATH-500 differently and shuffles GPQA's
choices without a seed. Samples per problem are as in those tables; AIME24's 30 problems asked once have a
standard error of 6 to 9 points. We differ from that lighteval in two ways:

- MATH-500's gold is the column `answer`; lighteval extracted it from the prose of `solution`.
- GPQA's choices are shuffled with the question's text as the seed, so every model and every run sees the same
  order; in lighteval the order changed from run to run.

Rows come from the hub, or without a network from a mirror folder: `<mirror>/<organisation>/<name>/` with
Parquet or JSONL files whose folders or names contain the configuration and the split as on the hub
(`gpqa_diamond.jsonl`, `main/test-00000-of-00001.parquet`); a dataset with one configuration and one split
needs neither.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import pickle
import random
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from r1kit.data.format import user_prompt
from r1kit.data.row_files import NotASet, open_rows
from r1kit.settings.errors import UserError, nearest_name

Judge = Literal["reward", "answer", "letter", "code"]
Row = Mapping[str, Any]


class BenchmarkError(UserError):
    """A benchmark is unknown, its dataset is missing, or has changed; the command line exits with 2."""


@dataclass(frozen=True)
class Question:
    """One problem as it is asked and judged.

    problem: the problem's text; rows of several evaluations are matched by it.
    solution: the gold answer; for a program the JSON of its test cases.
    level: a story's level, or the benchmark's name: scores are means over the problems of a level.
    prompt: the conversation that is sent.
    judge: how an answer is judged (`judges.py`).
    samples: number of answers; 0 takes the settings' number.
    """

    problem: str
    solution: str
    level: int | str
    prompt: list[dict[str, str]] = field(hash=False)
    judge: Judge = "reward"
    samples: int = 0


def questions_of(settings: Any, heldout: Any = None, mirror: str | None = None) -> list[Question]:
    """Return the questions that evaluation.yaml asks for.

    Args:
        settings: evaluation.yaml, typed: with `benchmarks`, or with `problems_per_level`.
        heldout: for the embedded world: rows with `problem`, `solution`, `level`, or their saved folder.
        mirror: a folder with copies of the benchmarks' datasets (data.yaml's `mirror`).

    Raises:
        BenchmarkError: a benchmark's dataset is missing or has changed.
        ValueError: too few held-out problems.
    """
    if hasattr(settings, "benchmarks"):
        return [
            question
            for name, samples in settings.benchmarks.items()
            for question in benchmark_questions(
                name, samples=samples, most=settings.most, mirror=mirror, window=settings.lcb_window
            )
        ]
    if isinstance(heldout, (str, Path)):
        from r1kit.data import datasets

        heldout = datasets.load(heldout)
    questions = story_questions(heldout, settings.problems_per_level)
    return [replace(question, samples=settings.samples) for question in questions]


# The embedded world


def story_questions(heldout: Iterable[Row], per_level: int) -> list[Question]:
    """Return the first `per_level` problems of each level, so that every checkpoint gets the same ones.

    Raises:
        ValueError: a level has fewer problems.
    """
    by_level: dict[int, list[Row]] = {}
    for row in heldout:
        by_level.setdefault(int(row["level"]), []).append(row)
    for level, rows in by_level.items():
        if len(rows) < per_level:
            raise ValueError(
                f"level {level} has {len(rows)} held-out problems, problems_per_level is {per_level}"
            )
    return [
        Question(row["problem"], str(row["solution"]), level, user_prompt(row["problem"]))
        for level in sorted(by_level)
        for row in by_level[level][:per_level]
    ]


# Benchmarks


@dataclass(frozen=True)
class Benchmark:
    """A dataset of the hub and how its rows become questions.

    revision: the commit that is read: that of 2026, found in public repositories that pin it (2026-11-24).
        open-r1 does not record which one its tables used.
    ask: row -> (problem, text of the prompt, solution).
    samples: per problem, in open-r1's tables.
    rows: the dataset's size; None if a window of dates chooses among them.
    files: what to read if the dataset is a loading script, which `datasets` no longer runs.
    """

    title: str
    dataset: str
    revision: str
    ask: Callable[[Row], tuple[str, str, str]]
    judge: Judge
    samples: int
    rows: int | None = None
    config: str = "default"
    split: str = "test"
    files: tuple[str, ...] = ()


MATH_PROMPT = (
    "Solve the following math problem efficiently and clearly.  The last line of your response "
    "should be of the following format: 'Therefore, the final answer is: $\\boxed{{ANSWER}}$. I hope "
    "it is correct' (without quotes) where ANSWER is just the final number or expression that solves "
    "the problem. Think step by step before answering.\n\n{problem}"
)
CHOICE_PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of the "
    "following format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by "
    "step before answering.\n\n{problem}\n\nA) {A}\nB) {B}\nC) {C}\nD) {D}"
)
CODE_PROMPT = (
    "You will be given a question (problem specification) and will generate a correct Python program "
    "that matches the specification and passes all tests.\n\nQuestion: {question}\n\n"
)
CODE_WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters.\n```python\n{starter}\n```\n\n"
)
CODE_WITH_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT.\n"
    "```python\n# YOUR CODE HERE\n```\n\n"
)


def _math(row: Row) -> tuple[str, str, str]:
    return row["problem"], MATH_PROMPT.format(problem=row["problem"]), str(row["answer"]).strip()


def _gsm8k(row: Row) -> tuple[str, str, str]:
    # The gold follows the last ####; it may have thousands commas.
    gold = row["answer"].rpartition("####")[2].strip().replace(",", "")
    return row["question"], MATH_PROMPT.format(problem=row["question"]), gold


def _gpqa(row: Row) -> tuple[str, str, str]:
    problem, right = row["Question"].strip(), row["Correct Answer"].strip()
    choices = [right, *(row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3))]
    order = random.Random(problem).sample(range(4), 4)
    shown = {letter: choices[place] for letter, place in zip("ABCD", order, strict=True)}
    return problem, CHOICE_PROMPT.format(problem=problem, **shown), "ABCD"[order.index(0)]


def _live_code(row: Row) -> tuple[str, str, str]:
    starter = row["starter_code"]
    prompt = CODE_PROMPT.format(question=row["question_content"])
    prompt += CODE_WITH_STARTER.format(starter=starter) if starter else CODE_WITH_STDIN
    return row["question_content"], prompt, code_cases(row)


BENCHMARKS: dict[str, Benchmark] = {
    "aime24": Benchmark(
        "AIME 2024", "HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        _math, "answer", samples=64, rows=30, split="train",
    ),
    "aime25": Benchmark(
        "AIME 2025", "yentinglin/aime_2025", "6f71d77b0b89b9dabe07ab466c51df33f514df7f",
        _math, "answer", samples=64, rows=30, split="train",
    ),
    "math_500": Benchmark(
        "MATH-500", "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        _math, "answer", samples=4, rows=500,
    ),
    "gpqa_diamond": Benchmark(
        "GPQA-Diamond", "Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        _gpqa, "letter", samples=8, rows=198, config="gpqa_diamond", split="train",
    ),
    "lcb": Benchmark(
        "LiveCodeBench", "livecodebench/code_generation_lite", "0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
        _live_code, "code", samples=16, config="release_v5",
        files=tuple(f"test{part}.jsonl" for part in ("", 2, 3, 4, 5)),
    ),
    "gsm8k": Benchmark(
        "GSM8K", "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866",
        _gsm8k, "answer", samples=1, rows=1319, config="main",
    ),
}  # fmt: skip
LCB_WINDOW = ("2024-08-01", "2025-02-01")
"""Contest dates of the problems that DeepSeek-R1's paper and release v5 of LiveCodeBench report on."""


def benchmark_of(name: str) -> Benchmark:
    """Look up a benchmark.

    Raises:
        BenchmarkError: the name is unknown; the message has the nearest one.
    """
    if name not in BENCHMARKS:
        near = nearest_name(name, BENCHMARKS, cutoff=0.3)
        hint = f" Did you mean {near}?" if near else ""
        raise BenchmarkError(f"no benchmark is called {name!r}; there are {', '.join(BENCHMARKS)}.{hint}")
    return BENCHMARKS[name]


def benchmark_questions(
    name: str,
    *,
    samples: int | None = None,
    most: int | None = None,
    mirror: str | None = None,
    window: tuple[str, str] | None = None,
) -> list[Question]:
    """Return the questions of a benchmark, in the dataset's order.

    Args:
        name: a key of BENCHMARKS.
        samples: answers per question; None takes the published tables' number.
        most: take only the first `most` questions.
        mirror: a folder with copies of datasets; None takes R1KIT_MIRROR, and the hub if that is empty.
        window: first and last contest date, both included (2024-08-01, 2025-02-01); only LiveCodeBench's
            problems have dates.

    Raises:
        BenchmarkError: unknown name, missing dataset, changed columns, or no problem within the window.
    """
    benchmark = benchmark_of(name)
    mirror = mirror or os.environ.get("R1KIT_MIRROR", "")
    rows = _rows_of_mirror(benchmark, Path(mirror)) if mirror else _rows_of_hub(benchmark)
    if not rows:
        raise BenchmarkError(f"{benchmark.dataset} has no rows")
    try:
        if name == "lcb":
            first, last = window or LCB_WINDOW
            # ISO dates compare as texts.
            rows = [row for row in rows if first <= str(row["contest_date"])[:10] <= last]
            if not rows:
                raise BenchmarkError(f"{benchmark.title}: no problem between {first} and {last}")
        asked = [benchmark.ask(row) for row in rows[:most]]
    except KeyError as error:
        raise BenchmarkError(
            f"{benchmark.dataset} has no column {error}; it has {', '.join(rows[0])}. "
            "The dataset changed, or this is a copy of another one"
        ) from error
    count = samples or benchmark.samples
    return [
        Question(problem, solution, name, user_prompt(prompt), benchmark.judge, count)
        for problem, prompt, solution in asked
    ]


def _rows_of_mirror(benchmark: Benchmark, mirror: Path) -> list[dict[str, Any]]:
    folder = mirror / benchmark.dataset
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".parquet", ".jsonl"))
    if not files:
        raise BenchmarkError(
            f"{benchmark.title}: no .parquet or .jsonl below {folder}. Copy {benchmark.dataset} "
            f"(configuration {benchmark.config}, split {benchmark.split}) there"
        )
    for part in (benchmark.config, benchmark.split):
        files = [path for path in files if part in path.relative_to(folder).as_posix()] or files
    try:
        return [row for path in files for row in open_rows(path)]
    except NotASet as error:
        raise BenchmarkError(str(error)) from error


def _rows_of_hub(benchmark: Benchmark) -> list[dict[str, Any]]:
    from datasets import load_dataset

    name, revision = benchmark.dataset, benchmark.revision
    try:
        if benchmark.files:
            files = [f"hf://datasets/{name}@{revision}/{file}" for file in benchmark.files]
            return list(load_dataset("json", data_files=files, split="train"))
        return list(load_dataset(name, benchmark.config, split=benchmark.split, revision=revision))
    except Exception as error:  # datasets raises a dozen kinds: offline, gated, gone, another configuration
        raise BenchmarkError(
            f"{benchmark.title}: cannot load {name} from the hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}). Without a network, put a copy into $R1KIT_MIRROR/{name}"
        ) from error


# LiveCodeBench's test cases

LARGEST_CASES = 2**30
"""Bytes that a row's unpacked test cases may have; the largest of release_v5 have some hundred MB."""


class _TextUnpickler(pickle.Unpickler):
    """Refuses every class: a pickle can run code, and this one should hold only a text."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a text was expected, found {module}.{name}")


def code_cases(row: Row) -> str:
    """Return a row's public and private test cases in `sandbox/programs.py`'s schema, as JSON.

    Raises:
        BenchmarkError: the cases cannot be read.
    """
    try:
        cases = [*json.loads(row["public_test_cases"]), *private_cases(row["private_test_cases"])]
        function = json.loads(row["metadata"] or "{}").get("func_name")
    except (ValueError, TypeError) as error:
        raise BenchmarkError(f"LiveCodeBench: test cases that cannot be read ({error})") from error
    cases = [case | {"fn_name": function} if case.get("testtype") == "functional" else case for case in cases]
    return json.dumps({"language": "python", "test_cases": cases})


def private_cases(packed: str) -> list[dict[str, Any]]:
    """Read the private test cases of a row: JSON, or base64 of zlib of a pickle of JSON text.

    Raises:
        ValueError: neither JSON nor the packed form, or the pickle holds anything but a text.
    """
    try:
        return json.loads(packed)
    except ValueError:
        pass
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), LARGEST_CASES)
        return json.loads(_TextUnpickler(io.BytesIO(raw)).load())
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise ValueError(f"private_test_cases: {error}") from error


# Published scores

OPEN_R1 = "open-r1 README (1416fa0), lighteval d3da6b9 + vLLM"
"""Temperature 0.6, top_p 0.95, 32,768 tokens, bfloat16; 64, 4, 8 and 16 samples per problem. The README has
one model twice (Qwen-7B: 51.3 / 93.5 / 52.4 and 50.8 / 94.5 / 50.5), which shows how much two runs differ.
"""
DEEPSEEK = "DeepSeek-R1's own report (arXiv 2501.12948), as quoted in open-r1's README"


@dataclass(frozen=True)
class Published:
    """pass@1 of a model, benchmark -> score in [0, 1]."""

    model: str
    source: str
    scores: dict[str, float]


def _published(model: str, source: str, aime24: float, math_500: float, gpqa: float, lcb: float) -> Published:
    percent = {"aime24": aime24, "math_500": math_500, "gpqa_diamond": gpqa, "lcb": lcb}
    return Published(model, source, {name: round(value / 100, 4) for name, value in percent.items()})


PUBLISHED: tuple[Published, ...] = (
    _published("open-r1/OpenR1-Distill-7B", OPEN_R1, 52.7, 89.0, 52.8, 39.4),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", OPEN_R1, 51.3, 93.5, 52.4, 37.4),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", DEEPSEEK, 55.5, 92.8, 49.1, 37.6),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", OPEN_R1, 30.7, 83.1, 35.8, 16.1),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", OPEN_R1, 65.9, 94.1, 61.5, 51.3),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", OPEN_R1, 69.7, 95.6, 63.1, 56.0),
)

TARGETS = ("open-r1/OpenR1-Distill-7B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
"""Models that a 7B student trained here is compared with."""


def published(benchmark: str, model: str = "") -> dict[str, float]:
    """Return published scores of a benchmark by model: of `model` if it has any, else of the TARGETS."""
    name = model.rstrip("/").split("/")[-1]
    same = [entry for entry in PUBLISHED if name and entry.model.endswith(name)]
    chosen = same or [entry for entry in PUBLISHED if entry.model in TARGETS and entry.source == OPEN_R1]
    return {
        entry.model + (" (DeepSeek's report)" if entry.source == DEEPSEEK else ""): entry.scores[benchmark]
        for entry in chosen
        if benchmark in entry.scores
    }
