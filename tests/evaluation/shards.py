"""Small datasets of our own making in exactly the benchmarks' schemas, with answers of every format.

`write_mirror(folder)` lays them out as a mirror does; nothing in them is taken from the real sets.
"""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

# (problem, gold, right answers in other clothes, a wrong one)
MATH: list[tuple[str, str, list[str], str]] = [
    ("What is three quarters?", r"\frac{3}{4}", ["0.75", "3/4", r"\dfrac34", r"\tfrac{3}{4}"], "0.7"),
    ("Where is x^2 < 4?", "(-2,2)", ["(-2, 2)", r"\left(-2,2\right)", r"-2 < x < 2"], "[-2,2]"),
    ("Expand (x+1)^2.", "x^2+2x+1", ["1+2x+x^{2}", "(x+1)^2", r"x^2 + 2x + 1"], "x^2+1"),
    ("Simplify the root of 12.", r"2\sqrt{3}", [r"\sqrt{12}", r"2 \sqrt 3"], r"3\sqrt{2}"),
    ("How many?", "1,234", ["1234", r"1{,}234"], "1235"),
    ("Which set?", r"\{1,2,3\}", [r"\{3, 2, 1\}"], r"\{1,2\}"),
    ("What angle?", r"90^\circ", ["90", r"90^{\circ}"], "45"),
    ("Which point?", r"\left( 3, \frac{\pi}{2} \right)", [r"(3,\pi/2)"], r"(\frac{\pi}{2},3)"),
    ("Who is tallest?", r"\text{Ann}", [r"\text{Ann}", "Ann"], r"\text{Bea}"),
    ("Which matrix?", r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}",
     [r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"], r"\begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}"),
    ("Half of it, in percent?", r"50\%", [r"50\%", "50"], "25"),
    ("A negative mixed case?", "-\\frac{7}{2}", ["-3.5", r"\frac{-7}{2}"], "3.5"),
]  # fmt: skip

AIME = [
    (f"Find the remainder of {n} times {n + 7} divided by 1000.", str(n * (n + 7) % 1000))
    for n in range(41, 71)
]

CHOICES = [
    ("Which particle carries charge −1?", "electron", ["proton", "neutron", "photon"]),
    (
        "Which bond is the strongest?\n",
        "covalent, 346 kJ/mol",
        ["hydrogen", "van der Waals", "none of these"],
    ),
    ("What is the order of the group S₃?", "6", ["3", "4", "5"]),
]


def math_500() -> list[dict[str, Any]]:
    """HuggingFaceH4/MATH-500."""
    return [
        {"problem": problem, "solution": f"We find that it is $\\boxed{{{gold}}}$.", "answer": gold,
         "subject": "Algebra", "level": 1 + i % 5, "unique_id": f"test/algebra/{i}.json"}
        for i, (problem, gold, _, _) in enumerate(MATH)
    ]  # fmt: skip


def aime24() -> list[dict[str, Any]]:
    """HuggingFaceH4/aime_2024: answers are texts, some with leading zeros."""
    return [
        {"id": 60 + i, "problem": problem, "solution": "...", "answer": answer.zfill(3) if i % 2 else answer,
         "url": "", "year": "2024"}
        for i, (problem, answer) in enumerate(AIME)
    ]  # fmt: skip


def aime25() -> list[dict[str, Any]]:
    """yentinglin/aime_2025."""
    return [{"id": str(i), "problem": p, "answer": a, "year": "2025"} for i, (p, a) in enumerate(AIME)]


def gsm8k() -> list[dict[str, Any]]:
    """openai/gsm8k, with its calculator marks and thousands commas."""
    return [
        {
            "question": f"Ann has {n} apples and buys {n}.",
            "answer": f"She has <<{n}+{n}={2 * n}>>.\n#### {2 * n:,}",
        }
        for n in (3, 17, 800)
    ]


def gpqa() -> list[dict[str, Any]]:
    """Idavidrein/gpqa."""
    return [
        {"Question": question, "Correct Answer": right, "Record ID": str(i)}
        | {f"Incorrect Answer {number}": text for number, text in enumerate(wrong, start=1)}
        for i, (question, right, wrong) in enumerate(CHOICES)
    ]


def packed(cases: list[dict[str, str]]) -> str:
    """Private test cases as LiveCodeBench packs them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def live_code() -> list[dict[str, Any]]:
    """livecodebench/code_generation_lite: one program that reads, one method; one before the window."""

    def row(title: str, date: str, public: list, private: str, starter: str = "", function: str = "") -> dict:
        metadata = json.dumps({"func_name": function} if function else {})
        return {
            "question_title": title, "question_content": f"{title}: add two numbers.", "platform": "atcoder",
            "question_id": title, "contest_date": f"{date}T00:00:00", "starter_code": starter,
            "difficulty": "easy", "public_test_cases": json.dumps(public), "private_test_cases": private,
            "metadata": metadata,
        }  # fmt: skip

    stdin = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
    more = [{"input": "5 5\n", "output": "10\n", "testtype": "stdin"}]
    call = [{"input": "1\n2", "output": "3", "testtype": "functional"}]
    starter = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        "
    return [
        row("old", "2023-05-01", stdin, json.dumps(more)),
        row("reads", "2024-09-01", stdin, packed(more)),
        row("called", "2025-01-04", call, packed(call), starter, "add"),
    ]


SETS = {
    "HuggingFaceH4/MATH-500/test.jsonl": math_500,
    "HuggingFaceH4/aime_2024/data/train-00000-of-00001.parquet": aime24,
    "yentinglin/aime_2025/train.jsonl": aime25,
    "Idavidrein/gpqa/gpqa_diamond.jsonl": gpqa,
    "Idavidrein/gpqa/gpqa_main.jsonl": lambda: gpqa()[:1],
    "openai/gsm8k/main/test-00000-of-00001.parquet": gsm8k,
    "openai/gsm8k/main/train-00000-of-00001.parquet": lambda: gsm8k()[:1],
    "livecodebench/code_generation_lite/test5.jsonl": live_code,
}


def write_mirror(folder: Path) -> Path:
    """All sets below `folder`, as a mirror has them."""
    import pandas as pd

    for name, rows in SETS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pd.DataFrame(rows()).to_parquet(path, index=False)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return folder
