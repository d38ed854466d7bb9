"""Public benchmarks by name, with the settings that make published numbers comparable.

Prompts are those of lighteval at d3da6b9, with which open-r1's tables were made (both from OpenAI's
simple-evals; LiveCodeBench's from its runner). lighteval 0.13 asks MATH-500 otherwise and draws GPQA's order
without a seed. Samples a problem as in those tables; AIME24's 30 problems asked once have a standard error of
6 to 9 points.

Where we differ from that lighteval, and why:

- MATH-500's gold is `answer`; there it was read out of the prose of `solution`.
- GPQA's choices are shuffled for each question by a seed that is the question's own text: every model, and
  every run, sees the same order. There the order changed from run to run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from r1kit.data.format import user_prompt
from r1kit.evaluation.benchmark_data import Benchmark, BenchmarkError, Row, load_rows
from r1kit.evaluation.live_code import code_cases, code_prompt, in_window
from r1kit.evaluation.questions import Question, story_questions

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
        import difflib

        near = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]}?" if near else ""
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
