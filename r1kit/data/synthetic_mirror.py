r"""Small datasets of our own making in the schemas of the real ones, for machines without a network.

`r1kit data shards FOLDER` writes a mirror folder with them: a course without internet sees real data's whole
way, and tests run every path on it. The rows are arithmetic, but they have the oddities of the originals:
several generations of a problem with flags, gold solutions in prose, problems without tests, traces that were
cut off, one of 60,000 characters, languages other than English. Same seed, same bytes of text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r1kit.data.row_files import in_batches, write_parquet
from r1kit.data.sources import SOURCES

Row = dict[str, Any]
ROWS = 60
LONG = 60_000
"""Characters of the longest trace."""
NAMES = ("Ann", "Bao", "Chloé", "Dmitrij", "Zoë", "小明", "Ömer", "Sión")
THINGS = ("apples", "Bücher", "naïve numbers", "pièces", "石头", "coins")


def write_mirror(folder: str | Path, seed: int = 0, rows: int = ROWS) -> list[Path]:
    """Write every dataset's folder below `folder`, a mirror; returns the files.

    Args:
        rows: of each part, at least 20, so that every oddity occurs.
    """
    written = []
    for (name, config), make in PARTS.items():
        made = make(random.Random(f"{seed} {name} {config}"), max(20, rows))
        schema = SOURCES[name].schema
        path = Path(folder) / name / config / "train-00000-of-00001.parquet"
        write_parquet(path, schema, in_batches(made, schema))
        written.append(path)
    for name in {name for name, _ in PARTS}:
        _write_heading(Path(folder) / name, [config for other, config in PARTS if other == name])
    return written


def problem(rng: random.Random) -> tuple[str, int]:
    """A problem of three numbers and its answer."""
    a, b, c = rng.randint(2, 999), rng.randint(2, 99), rng.randint(2, 99)
    who, what = rng.choice(NAMES), rng.choice(THINGS)
    more = f"$\\frac{{{b * c}}}{{{c}}}$"
    return f"{who} has ${a}$ {what}, buys {more} more and gives ${c}$ away. How many are left?", a + b - c


def trace(rng: random.Random, answer: int | str, characters: int = 0) -> str:
    """A completion in R1's own form, of about so many characters."""
    thoughts = ["Okay, let me go through this.", "First I add, then I take away."]
    left = characters or int(rng.lognormvariate(6.5, 0.9))
    while left > 0:
        a, b = rng.randint(1, 999), rng.randint(1, 999)
        thoughts.append(rng.choice((
            f"Wait, {a} + {b} is {a + b}.", f"Let me check: {a} × {b} = {a * b}, so that is fine.",
            f"Hmm, suppose $x = {a}$; then $x - {b} = {a - b}$.",
        )))  # fmt: skip
        left -= len(thoughts[-1])
    said = "\n".join(thoughts)
    return f"<think>\n{said}\n</think>\n\nThe answer is $\\boxed{{{answer}}}$."


def turns(question: str, answer: str, system: str = "") -> list[dict[str, str]]:
    """A conversation of one question."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def mixture_of_thoughts(rng: random.Random, rows: int) -> list[Row]:
    """Traces: one of 60,000 characters, one cut off in its thoughts, one empty, one behind a system turn."""
    made = []
    for number in range(rows):
        text, answer = problem(rng)
        said = trace(rng, answer, LONG if number == 3 else 0)
        said = {4: said.partition("</think>")[0], 5: ""}.get(number, said)
        system = "You think before you answer." if number == 6 else ""
        source = "open-r1/OpenR1-Math-220k"
        made.append({"messages": turns(text, said, system), "num_tokens": len(said) // 4, "source": source})
    return made


def openr1_math(rng: random.Random, rows: int) -> list[Row]:
    """Several generations of a problem, right and wrong, whole and cut off; flags that are missing."""
    made = []
    for number in range(rows):
        text, answer = problem(rng)
        right = [rng.random() < 0.7 for _ in range(rng.randint(1, 4))]
        right = [False] * len(right) if number % 10 == 2 else right
        whole = [number % 10 != 3 and rng.random() < 0.95 for _ in right]
        said = [trace(rng, answer if good else answer + 1) for good in right]
        judged = [bool(good) for good in right]
        made.append({
            "problem": text,
            "solution": f"At first sight there are {answer + 7}; by step 12 it is {answer}.",
            "answer": "" if number % 10 == 7 else str(answer),
            "problem_type": "Algebra", "question_type": "math-word-problem", "source": "olympiads",
            "uuid": f"{number:032x}", "is_reasoning_complete": whole, "generations": said,
            "correctness_math_verify": [False] * len(right) if number % 10 == 4 else judged,
            "correctness_llama": judged if number % 10 == 4 else None if number % 2 else [],
            "finish_reasons": ["stop" if end else "length" for end in whole],
            "correctness_count": sum(judged), "messages": turns(text, said[0]),
        })  # fmt: skip
    return made


def codeforces(rng: random.Random, rows: int) -> list[Row]:
    """Problems with tests; some without, some with a checker, an interactor or files."""
    made = []
    for number in range(rows):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        language = ("python", "cpp")[number % 2]
        tests = [{"input": f"{x} {y}\n", "output": f"{x + y}\n"} for x, y in ((a, b), (b, a + b), (0, a))]
        kind = number % 10
        made.append(_codeforces_problem(number) | {
            "description": f"Given two integers near {a}, print their sum.",
            "interaction_format": "Print ! to end." if kind == 3 else None,
            "examples": [] if kind == 2 else [tests[0]],
            "official_tests": [] if kind in (2, 6) else [{"input": "1 1\n", "output": ""}, *tests],
            "official_tests_complete": kind != 6, "testset_size": len(tests),
            "input_mode": "file" if kind == 5 else "stdio",
            "generated_checker": "def check(): ..." if kind == 4 else None,
            "executable": True, "generated_tests": 0, "rating": None if kind == 1 else 800 + number,
            "tags": ["math", "implementation"], "language": language,
            "prompt": f"Problem {number}, in {language}: read two integers such as {a} and {b}, print a+b.",
        })  # fmt: skip
    return made


def codeforces_cots(rng: random.Random, rows: int) -> list[Row]:
    """Programs with their reasoning; some generations were cut off by a limit."""
    made = []
    for number in range(rows):
        question = f"Write a program for problem {number}: add two integers below {rng.randint(10, 10**9)}."
        code = "```cpp\n#include <iostream>\nint main() { long long a, b; std::cin >> a >> b; }\n```"
        said = trace(rng, "code").partition("The answer is")[0] + code
        ended = "length" if number % 9 == 4 else "stop"
        usage = {
            "completion_tokens": len(said) // 4,
            "prompt_tokens": 40,
            "total_tokens": 40 + len(said) // 4,
        }
        made.append(_codeforces_problem(number) | {
            "prompt": question, "generation": said, "finish_reason": ended, "api_metadata": usage,
            "messages": turns(question, said),
        })  # fmt: skip
    return made


def numina(rng: random.Random, rows: int) -> list[Row]:
    """Solutions in prose: with a box, with boxes within boxes, and without any."""
    made = []
    for number in range(rows):
        text, answer = problem(rng)
        boxes = {
            2: "no value can be named",
            3: rf"\boxed{{\text{{{answer} {{left}}}}}}",
            4: r"\boxed{2}, no: ",
        }
        said = boxes.get(number % 10, "")
        said += "" if number % 10 in (2, 3) else rf"\boxed{{\frac{{{2 * answer}}}{{2}}}}"
        solution = f"Adding and taking away gives in 3 steps {said}."
        made.append(
            {"source": "cn_k12", "problem": text, "solution": solution, "messages": turns(text, solution)}
        )
    return made


def dapo(rng: random.Random, rows: int) -> list[Row]:
    """Problems with integer answers, all different; one prompt is longer than any limit."""
    made = []
    for number in range(rows):
        text, answer = problem(rng)
        text = f"{text} ({number})" + " Think of every case." * (2000 if number == 8 else 0)
        made.append({
            "prompt": text, "solution": str(answer), "data_source": "math_dapo",
            "source_prompt": [{"role": "user", "content": f"Solve step by step. {text}"}], "ability": "MATH",
            "reward_model": {"ground_truth": str(answer), "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"{number:08x}"},
        })  # fmt: skip
    return made


def big_math(rng: random.Random, rows: int) -> list[Row]:
    """Problems with the rate at which a Llama of 8 billion parameters solves them; some have none."""
    made = []
    for number in range(rows):
        text, answer = problem(rng)
        rate = None if number % 10 == 5 else rng.randint(0, 64) / 64
        row = {"prompt": text, "solution": str(answer), "source": "orca_math", "domain": ["Algebra"]}
        made.append(row | {"llama8b_solve_rate": rate})
    return made


PARTS: dict[tuple[str, str], Callable[[random.Random, int], list[Row]]] = {
    ("open-r1/Mixture-of-Thoughts", "all"): mixture_of_thoughts,
    ("open-r1/Mixture-of-Thoughts", "math"): mixture_of_thoughts,
    ("open-r1/Mixture-of-Thoughts", "code"): mixture_of_thoughts,
    ("open-r1/Mixture-of-Thoughts", "science"): mixture_of_thoughts,
    ("open-r1/OpenR1-Math-220k", "default"): openr1_math,
    ("open-r1/codeforces", "verifiable-prompts"): codeforces,
    ("open-r1/codeforces-cots", "solutions_py_decontaminated"): codeforces_cots,
    ("AI-MO/NuminaMath-CoT", "default"): numina,
    ("open-r1/DAPO-Math-17k-Processed", "en"): dapo,
    ("open-r1/DAPO-Math-17k-Processed", "cn"): dapo,
    ("open-r1/Big-Math-RL-Verified-Processed", "default"): big_math,
}


def _codeforces_problem(number: int) -> Row:
    return {
        "id": f"{number}/A", "aliases": [], "contest_id": str(number), "contest_name": "Round of our own",
        "contest_type": "CF", "contest_start": 1_400_000_000 + number, "contest_start_year": 2014,
        "index": "A", "time_limit": 2.0, "memory_limit": 256.0, "title": f"Sum № {number}",
        "description": "Add.", "input_format": "Two integers.", "output_format": "Their sum.",
        "interaction_format": None, "note": None, "examples": [], "editorial": None,
    }  # fmt: skip


def _write_heading(folder: Path, configs: list[str]) -> None:
    """The README whose heading says which files are which part, as on the hub."""
    lines = ["---", "configs:"]
    for config in configs:
        lines += [
            f"- config_name: {config}",
            "  data_files:",
            "  - split: train",
            f"    path: {config}/train-*",
        ]
    text = "Rows of r1kit's own making in this dataset's schema; nothing of the dataset itself."
    folder.joinpath("README.md").write_text("\n".join([*lines, "---", "", text, ""]), encoding="utf-8")
