r"""Small synthetic datasets in the schemas of the real ones, for machines without a network.

`r1kit data shards FOLDER` writes a mirror folder with them: a course without internet can follow every step
of the way with real data, and tests run every path on it. The rows are arithmetic, with the oddities of the
originals: several generations per problem with flags, solutions in prose, problems without tests, traces that
were cut off, one trace of 60,000 characters, languages other than English. The same seed gives the same text.

Each function below makes one row of a dataset; the row's number decides which oddity it has.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r1kit.data.format import user_prompt
from r1kit.data.row_files import in_batches, write_parquet
from r1kit.data.sources import SOURCES

Row = dict[str, Any]
ROWS = 60
LONG = 60_000
"""Characters of the longest trace."""
NAMES = ("Ann", "Bao", "Chloé", "Dmitrij", "Zoë", "小明", "Ömer", "Sión")
THINGS = ("apples", "Bücher", "naïve numbers", "pièces", "石头", "coins")


def write_mirror(folder: str | Path, seed: int = 0, rows: int = ROWS) -> list[Path]:
    """Write every dataset's folder into the mirror `folder`; return the data files.

    Args:
        rows: rows of each part, at least 20, so that every oddity occurs.
    """
    files = []
    for (name, config), make in PARTS.items():
        rng = random.Random(f"{seed} {name} {config}")
        schema = SOURCES[name].schema
        path = Path(folder) / name / config / "train-00000-of-00001.parquet"
        content = (make(rng, number) for number in range(max(20, rows)))
        write_parquet(path, schema, in_batches(content, schema))
        files.append(path)
    for name in {name for name, _ in PARTS}:
        _write_readme(Path(folder) / name, [config for other, config in PARTS if other == name])
    return files


def problem(rng: random.Random) -> tuple[str, int]:
    """Write a problem with three numbers; return it and its answer."""
    a, b, c = rng.randint(2, 999), rng.randint(2, 99), rng.randint(2, 99)
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    more = f"$\\frac{{{b * c}}}{{{c}}}$"
    return f"{name} has ${a}$ {thing}, buys {more} more and gives ${c}$ away. How many are left?", a + b - c


def trace(rng: random.Random, answer: int | str, characters: int = 0) -> str:
    """Write a completion in R1's form of about this many characters; 0 draws a length."""
    thoughts = ["Okay, let me go through this.", "First I add, then I take away."]
    left = characters or int(rng.lognormvariate(6.5, 0.9))
    while left > 0:
        a, b = rng.randint(1, 999), rng.randint(1, 999)
        thoughts.append(rng.choice((
            f"Wait, {a} + {b} is {a + b}.", f"Let me check: {a} × {b} = {a * b}, so that is fine.",
            f"Hmm, suppose $x = {a}$; then $x - {b} = {a - b}$.",
        )))  # fmt: skip
        left -= len(thoughts[-1])
    reasoning = "\n".join(thoughts)
    return f"<think>\n{reasoning}\n</think>\n\nThe answer is $\\boxed{{{answer}}}$."


def turns(question: str, answer: str, system: str = "") -> list[dict[str, str]]:
    """Return a conversation of one question and one answer."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, *user_prompt(question), {"role": "assistant", "content": answer}]


def mixture_of_thoughts(rng: random.Random, number: int) -> Row:
    """Make a trace; one has 60,000 characters, one is cut off, one empty, one has a system turn."""
    text, answer = problem(rng)
    completion = trace(rng, answer, LONG if number == 3 else 0)
    completion = {4: completion.partition("</think>")[0], 5: ""}.get(number, completion)
    system = "You think before you answer." if number == 6 else ""
    messages = turns(text, completion, system)
    return {"messages": messages, "num_tokens": len(completion) // 4, "source": "open-r1/OpenR1-Math-220k"}


def openr1_math(rng: random.Random, number: int) -> Row:
    """Make a problem with several generations, right or wrong, complete or cut off; flags may be missing."""
    text, answer = problem(rng)
    kind = number % 10
    right = [rng.random() < 0.7 for _ in range(rng.randint(1, 4))]
    right = [False] * len(right) if kind == 2 else right
    complete = [kind != 3 and rng.random() < 0.95 for _ in right]
    completions = [trace(rng, answer if good else answer + 1) for good in right]
    return {
        "problem": text,
        "solution": f"At first sight there are {answer + 7}; by step 12 it is {answer}.",
        "answer": "" if kind == 7 else str(answer),
        "problem_type": "Algebra", "question_type": "math-word-problem", "source": "olympiads",
        "uuid": f"{number:032x}", "is_reasoning_complete": complete, "generations": completions,
        "correctness_math_verify": [False] * len(right) if kind == 4 else right,
        "correctness_llama": right if kind == 4 else None if number % 2 else [],
        "finish_reasons": ["stop" if end else "length" for end in complete],
        "correctness_count": sum(right), "messages": turns(text, completions[0]),
    }  # fmt: skip


def codeforces(rng: random.Random, number: int) -> Row:
    """Make a problem with tests; some have none, some need a checker, an interactor or files."""
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    language = ("python", "cpp")[number % 2]
    tests = [{"input": f"{x} {y}\n", "output": f"{x + y}\n"} for x, y in ((a, b), (b, a + b), (0, a))]
    kind = number % 10
    return _codeforces_problem(number) | {
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
    }  # fmt: skip


def codeforces_cots(rng: random.Random, number: int) -> Row:
    """Make a program with its reasoning; some generations were cut off by a limit."""
    question = f"Write a program for problem {number}: add two integers below {rng.randint(10, 10**9)}."
    code = "```cpp\n#include <iostream>\nint main() { long long a, b; std::cin >> a >> b; }\n```"
    completion = trace(rng, "code").partition("The answer is")[0] + code
    tokens = len(completion) // 4
    return _codeforces_problem(number) | {
        "prompt": question, "generation": completion,
        "finish_reason": "length" if number % 9 == 4 else "stop",
        "api_metadata": {"completion_tokens": tokens, "prompt_tokens": 40, "total_tokens": 40 + tokens},
        "messages": turns(question, completion),
    }  # fmt: skip


def numina(rng: random.Random, number: int) -> Row:
    """Make a solution in prose: with a box, with nested boxes, or without any."""
    text, answer = problem(rng)
    fraction = rf"\boxed{{\frac{{{2 * answer}}}{{2}}}}"
    result = {
        2: "no value can be named",
        3: rf"\boxed{{\text{{{answer} {{left}}}}}}",
        4: rf"\boxed{{2}}, no: {fraction}",
    }.get(number % 10, fraction)
    solution = f"Adding and taking away gives in 3 steps {result}."
    return {"source": "cn_k12", "problem": text, "solution": solution, "messages": turns(text, solution)}


def dapo(rng: random.Random, number: int) -> Row:
    """Make a problem with an integer answer, different from all others; one prompt exceeds any limit."""
    text, answer = problem(rng)
    text = f"{text} ({number})" + " Think of every case." * (2000 if number == 8 else 0)
    return {
        "prompt": text, "solution": str(answer), "data_source": "math_dapo",
        "source_prompt": user_prompt(f"Solve step by step. {text}"), "ability": "MATH",
        "reward_model": {"ground_truth": str(answer), "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"{number:08x}"},
    }  # fmt: skip


def big_math(rng: random.Random, number: int) -> Row:
    """Make a problem with the rate at which a Llama of 8 billion parameters solves it; some have none."""
    text, answer = problem(rng)
    rate = None if number % 10 == 5 else rng.randint(0, 64) / 64
    row = {"prompt": text, "solution": str(answer), "source": "orca_math", "domain": ["Algebra"]}
    return row | {"llama8b_solve_rate": rate}


PARTS: dict[tuple[str, str], Callable[[random.Random, int], Row]] = {
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


def _write_readme(folder: Path, configs: list[str]) -> None:
    """Write the README whose heading lists the files of each configuration, as on the hub."""
    lines = ["---", "configs:"]
    for config in configs:
        files = ["  data_files:", "  - split: train", f"    path: {config}/train-*"]
        lines += [f"- config_name: {config}", *files]
    text = "Rows of r1kit's own making in this dataset's schema; nothing of the dataset itself."
    folder.joinpath("README.md").write_text("\n".join([*lines, "---", "", text, ""]), encoding="utf-8")
