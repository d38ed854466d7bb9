"""Public benchmarks by name, with the settings that make published numbers comparable.

Prompts are those of lighteval at d3da6b9, with which open-r1's tables were made (both from OpenAI's
simple-evals; LiveCodeBench's from its runner). lighteval 0.13 asks MATH-500 otherwise and draws GPQA's order
without a seed. Samples a problem as in those tables; AIME24's 30 problems asked once have a standard error of
6 to 9 points.

Where we differ from that lighteval, and why:

- MATH-500's gold is `answer`; there it was read out of the prose of `solution`.
- GPQA's choices are shuffled for each question by a seed that is the question's own text: every model, and
  every run, sees the same order. There the order changed from run to run.

What an evaluation asks: the embedded world's held-out problems, or a benchmark's, in one form.

What published models score, as data: with its source and the harness that measured it.

open-r1's README, "Evaluating models" and "Reproducing DeepSeek's results": lighteval d3da6b9 on vLLM,
temperature 0.6, top_p 0.95, 32,768 tokens, bfloat16; 64, 4, 8 and 16 samples a problem. One README has the
same model twice (Qwen-7B: 51.3 / 93.5 / 52.4 and 50.8 / 94.5 / 50.5): so much two runs of one harness differ.

The rows of a benchmark: from a mirror folder, where machines have no network, or from the hub.

A mirror is `<mirror>/<organisation>/<name>/` with Parquet or JSONL files, in folders or file names that hold
the configuration and the split as on the hub (`gpqa_diamond.jsonl`, `main/test-00000-of-00001.parquet`); a
dataset with one configuration and one split needs neither.

LiveCodeBench's rows: the prompt of its runner, the date window, and test cases that arrive as a pickle.

`private_test_cases` is JSON, or base64 of zlib of a pickle of JSON text. A pickle can run code; this one may
hold a text and nothing else, so whatever asks for a class is refused.
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


@dataclass(frozen=True)
class Question:
    """One problem as it is asked and judged.

    problem: the problem's own text, by which rows of several evaluations are matched.
    solution: the gold answer; for a program the JSON of its test cases.
    level: a story's level, or the benchmark's name: scores are means over the problems of a level.
    prompt: the conversation that asks.
    judge: how an answer is judged (`judges.py`).
    samples: answers wanted; 0 means as many as the settings say.
    """

    problem: str
    solution: str
    level: int | str
    prompt: list[dict[str, str]] = field(hash=False)
    judge: Judge = "reward"
    samples: int = 0


def story_questions(heldout: Iterable[Mapping[str, Any]], per_level: int) -> list[Question]:
    """The first `per_level` held-out problems of each level.

    Raises:
        ValueError: a level has fewer.
    """
    return [story_question(row) for row in choose_problems(heldout, per_level)]


def story_question(row: Mapping[str, Any]) -> Question:
    """A held-out problem as a question."""
    return Question(row["problem"], str(row["solution"]), int(row["level"]), user_prompt(row["problem"]))


def choose_problems(heldout: Iterable[Mapping[str, Any]], per_level: int) -> list[Mapping[str, Any]]:
    """The first `per_level` problems of each level, so that every checkpoint is asked the same ones."""
    by_level: dict[int, list] = {}
    for row in heldout:
        by_level.setdefault(row["level"], []).append(row)
    for level, rows in by_level.items():
        if len(rows) < per_level:
            raise ValueError(
                f"level {level} has {len(rows)} held-out problems, problems_per_level is {per_level}"
            )
    return [row for level in sorted(by_level) for row in by_level[level][:per_level]]


OPEN_R1 = "open-r1 README (1416fa0), lighteval d3da6b9 + vLLM"
DEEPSEEK = "DeepSeek-R1's own report (arXiv 2501.12948), as quoted in open-r1's README"


@dataclass(frozen=True)
class Published:
    """pass@1 in [0, 1] of a model, benchmark -> score."""

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
"""What a 7B student of ours is held against."""


def published(benchmark: str, model: str = "") -> dict[str, float]:
    """Scores of a benchmark by model: of `model` if it is a published one, else of the TARGETS."""
    own = [entry for entry in PUBLISHED if model and entry.model.endswith(model.rstrip("/").split("/")[-1])]
    chosen = own or [entry for entry in PUBLISHED if entry.model in TARGETS and entry.source == OPEN_R1]
    return {
        entry.model + (" (DeepSeek's report)" if entry.source == DEEPSEEK else ""): entry.scores[benchmark]
        for entry in chosen
        if benchmark in entry.scores
    }


MIRROR = "R1KIT_MIRROR"


class BenchmarkError(UserError):
    """A benchmark that is not known, not there, or not what is expected; the command line exits with 2."""


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A dataset of the hub and how its rows become questions.

    columns: what the rows must have, name -> kind of value.
    rows: how many there are; None where a window chooses.
    revision: the commit that is asked: that of 2026, read in public repositories that pin it (2026-11-24).
        open-r1 does not record which one its tables had.
    files: what to read where the dataset is a loading script, which `datasets` no longer runs.
    ask: row -> (problem, text of the prompt, solution).
    samples: of each problem, in open-r1's tables.
    """

    title: str
    dataset: str
    columns: Mapping[str, type]
    revision: str
    ask: Callable[[Row], tuple[str, str, str]]
    judge: Judge
    samples: int
    rows: int | None = None
    config: str = "default"
    split: str = "test"
    files: tuple[str, ...] = ()
    keep: Callable[[Row, tuple[str, str]], bool] | None = None


def load_rows(benchmark: Benchmark, mirror: str | None = None) -> list[dict[str, Any]]:
    """All rows of a benchmark's split, checked.

    Args:
        mirror: a folder; None takes the environment's R1KIT_MIRROR, and the hub where that is empty.

    Raises:
        BenchmarkError: the dataset is not there, has other columns, or columns of another type.
    """
    mirror = mirror or os.environ.get(MIRROR, "")
    rows = _mirrored(benchmark, Path(mirror)) if mirror else _from_hub(benchmark)
    if not rows:
        raise BenchmarkError(f"{benchmark.dataset} has no rows")
    for name, kind in benchmark.columns.items():
        if name not in rows[0]:
            raise BenchmarkError(
                f"{benchmark.dataset} has no column {name!r}; it has {', '.join(rows[0])}. The dataset "
                "changed, or the copy is of another one"
            )
        value = rows[0][name]
        if value is not None and not isinstance(value, kind) and kind is not str:
            raise BenchmarkError(
                f"{benchmark.dataset}: {name} should be {kind.__name__}, found {value!r:.80}"
            )
    return rows


def _mirrored(benchmark: Benchmark, mirror: Path) -> list[dict[str, Any]]:
    folder = mirror / benchmark.dataset
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in (".parquet", ".jsonl") and path.is_file()
    )
    if not files:
        raise BenchmarkError(
            f"{benchmark.title}: no .parquet or .jsonl below {folder}. Copy {benchmark.dataset} "
            f"(configuration {benchmark.config}, split {benchmark.split}) there"
        )
    for word in (benchmark.config, benchmark.split):
        named = [path for path in files if word in path.relative_to(folder).as_posix()]
        files = named or files
    try:
        return [row for path in files for row in open_rows(path)]
    except NotASet as error:
        raise BenchmarkError(str(error)) from error


def _from_hub(benchmark: Benchmark) -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        if benchmark.files:
            place = f"hf://datasets/{benchmark.dataset}@{benchmark.revision}"
            paths = [f"{place}/{name}" for name in benchmark.files]
            return list(load_dataset("json", data_files=paths, split="train"))
        found = load_dataset(
            benchmark.dataset, benchmark.config, split=benchmark.split, revision=benchmark.revision
        )
    except Exception as error:  # datasets raises a dozen kinds: offline, gated, gone, another configuration
        raise BenchmarkError(
            f"{benchmark.title}: {benchmark.dataset} cannot be had from the hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}). Without network: a copy in "
            f"$R1KIT_MIRROR/{benchmark.dataset}"
        ) from error
    return list(found)


BEGIN = (
    "You will be given a question (problem specification) and will generate a correct Python program "
    "that matches the specification and passes all tests.\n\nQuestion: {question}\n\n"
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters.\n```python\n{starter}\n```\n\n"
)
WITH_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT.\n"
    "```python\n# YOUR CODE HERE\n```\n\n"
)
LARGEST = 2**30
"""Bytes that a row's cases may have unpacked; the largest of release_v5 have some hundred MB."""


class _TextOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a text was expected, found {module}.{name}")


def code_prompt(row: Mapping[str, Any]) -> str:
    """The prompt of a row, with its starter code or the words on standard input."""
    begin = BEGIN.format(question=row["question_content"])
    return begin + (WITH_STARTER.format(starter=row["starter_code"]) if row["starter_code"] else WITH_STDIN)


def code_cases(row: Mapping[str, Any]) -> str:
    """Public and private test cases in `sandbox/programs.py`'s schema, as JSON.

    Raises:
        BenchmarkError: cases that cannot be read.
    """
    try:
        cases = [*json.loads(row["public_test_cases"]), *private_cases(row["private_test_cases"])]
        function = json.loads(row["metadata"] or "{}").get("func_name")
    except (ValueError, TypeError) as error:
        raise BenchmarkError(f"LiveCodeBench: test cases that cannot be read ({error})") from error
    cases = [case | {"fn_name": function} if case.get("testtype") == "functional" else case for case in cases]
    return json.dumps({"language": "python", "test_cases": cases})


def private_cases(packed: str) -> list[dict[str, Any]]:
    """The private test cases of a row.

    Raises:
        ValueError: neither JSON nor the packed form, or the pickle holds anything but a text.
    """
    try:
        return json.loads(packed)
    except ValueError:
        pass
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(packed, validate=True), LARGEST)
        text = _TextOnly(io.BytesIO(raw)).load()
        return json.loads(text)
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise ValueError(f"private_test_cases: {error}") from error


def in_window(row: Mapping[str, Any], window: tuple[str, str]) -> bool:
    """Whether the contest lies between two dates, both included (ISO dates compare as texts)."""
    return window[0] <= str(row["contest_date"])[:10] <= window[1]


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
LETTERS = "ABCD"
DEFAULT_WINDOW = ("2024-08-01", "2025-02-01")
"""LiveCodeBench's problems that DeepSeek-R1's paper and release v5 report on."""


def _math(question: str, answer: str) -> Callable[[Row], tuple[str, str, str]]:
    def ask(row: Row) -> tuple[str, str, str]:
        return row[question], MATH_PROMPT.format(problem=row[question]), str(row[answer]).strip()

    return ask


def _gsm8k(row: Row) -> tuple[str, str, str]:
    """The gold is what follows the last ####, without thousands commas."""
    gold = row["answer"].rpartition("####")[2].strip().replace(",", "")
    return row["question"], MATH_PROMPT.format(problem=row["question"]), gold


def _gpqa(row: Row) -> tuple[str, str, str]:
    problem, right = row["Question"].strip(), row["Correct Answer"].strip()
    choices = [right, *(row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3))]
    order = random.Random(problem).sample(range(4), 4)
    shown = {letter: choices[place] for letter, place in zip(LETTERS, order, strict=True)}
    return problem, CHOICE_PROMPT.format(problem=problem, **shown), LETTERS[order.index(0)]


def _live_code(row: Row) -> tuple[str, str, str]:
    return row["question_content"], code_prompt(row), code_cases(row)


BENCHMARKS: dict[str, Benchmark] = {
    "aime24": Benchmark(
        "AIME 2024", "HuggingFaceH4/aime_2024", {"problem": str, "answer": str},
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", _math("problem", "answer"), "answer",
        samples=64, rows=30, split="train",
    ),
    "aime25": Benchmark(
        "AIME 2025", "yentinglin/aime_2025", {"problem": str, "answer": str},
        "6f71d77b0b89b9dabe07ab466c51df33f514df7f", _math("problem", "answer"), "answer",
        samples=64, rows=30, split="train",
    ),
    "math_500": Benchmark(
        "MATH-500", "HuggingFaceH4/MATH-500", {"problem": str, "answer": str},
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", _math("problem", "answer"), "answer", samples=4, rows=500,
    ),
    "gpqa_diamond": Benchmark(
        "GPQA-Diamond", "Idavidrein/gpqa",
        {"Question": str, "Correct Answer": str, **{f"Incorrect Answer {i}": str for i in (1, 2, 3)}},
        "633f5ee89ab8ad4522a9f850766b73f62147ffdd", _gpqa, "letter",
        samples=8, rows=198, config="gpqa_diamond", split="train",
    ),
    "lcb": Benchmark(
        "LiveCodeBench", "livecodebench/code_generation_lite",
        {
            "question_content": str, "starter_code": str, "contest_date": str, "public_test_cases": str,
            "private_test_cases": str, "metadata": str,
        },
        "0fe84c3912ea0c4d4a78037083943e8f0c4dd505", _live_code, "code",
        samples=16, config="release_v5", keep=in_window,
        files=tuple(f"test{part}.jsonl" for part in ("", 2, 3, 4, 5)),
    ),
    "gsm8k": Benchmark(
        "GSM8K", "openai/gsm8k", {"question": str, "answer": str},
        "740312add88f781978c0658806c59bc2815b9866", _gsm8k, "answer", samples=1, rows=1319, config="main",
    ),
}  # fmt: skip


def benchmark_questions(
    name: str,
    *,
    samples: int | None = None,
    most: int | None = None,
    mirror: str | None = None,
    window: tuple[str, str] | None = None,
) -> list[Question]:
    """The questions of a benchmark, in the dataset's order.

    Args:
        name: a key of BENCHMARKS.
        samples: answers to each; None takes the published tables' number.
        most: the first so many only.
        mirror: a folder with copies of datasets; None takes R1KIT_MIRROR, and the hub where that is empty.
        window: first and last contest date (2024-08-01, 2025-02-01); LiveCodeBench alone has dates.

    Raises:
        BenchmarkError: unknown name, missing dataset, columns that changed, no row within the window.
    """
    benchmark = benchmark_of(name)
    rows = load_rows(benchmark, mirror)
    if benchmark.keep is not None:
        rows = [row for row in rows if benchmark.keep(row, window or DEFAULT_WINDOW)]
    if not rows:
        raise BenchmarkError(
            f"{benchmark.title}: no problem between {' and '.join(window or DEFAULT_WINDOW)}"
        )
    questions = []
    for row in rows[:most]:
        problem, prompt, solution = benchmark.ask(row)
        questions.append(
            Question(
                problem, solution, name, user_prompt(prompt), benchmark.judge, samples or benchmark.samples
            )
        )
    return questions


def benchmark_of(name: str) -> Benchmark:
    """The benchmark called `name`.

    Raises:
        BenchmarkError: with the nearest name.
    """
    if name not in BENCHMARKS:
        near = nearest_name(name, BENCHMARKS, cutoff=0.3)
        hint = f" Did you mean {near}?" if near else ""
        raise BenchmarkError(f"no benchmark is called {name!r}; there are {', '.join(BENCHMARKS)}.{hint}")
    return BENCHMARKS[name]


def questions_of(settings: Any, heldout: Any = None, mirror: str | None = None) -> list[Question]:
    """The questions that evaluation.yaml asks for.

    Args:
        settings: evaluation.yaml, typed: with `benchmarks`, or with `problems_per_level`.
        heldout: for the embedded world: rows with `problem`, `solution`, `level`, or the folder where they
            are saved.
        mirror: a folder with copies of the benchmarks' datasets (data.yaml's `mirror`).

    Raises:
        BenchmarkError: a benchmark's dataset is not there or is not what is expected.
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
    if isinstance(heldout, Iterable) and not isinstance(heldout, (str, bytes)):
        rows = heldout
    else:
        from r1kit.data import datasets

        rows = datasets.load(heldout)
    questions = story_questions(rows, settings.problems_per_level)
    return [replace(question, samples=settings.samples) for question in questions]
