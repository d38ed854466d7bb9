"""Evaluation of a checkpoint on held-out problems: sampled and greedy answers, judged, one row a completion.

The rows are what is stored; every table and figure is computed from them (`tables.py`).
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.format import user_prompt
from r1kit.evaluation.sampling import Samples, generate
from r1kit.evaluation.tables import pass1_entry, table
from r1kit.rewards import accuracy_reward, format_reward

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "evaluate",
    "evaluate_model",
    "load_checkpoint",
    "load_results",
    "pass1_entry",
    "save_results",
    "table",
]

Progress = Callable[[int, int], None]


def evaluate(
    checkpoint_path: str | Path,
    heldout: Iterable[Mapping[str, Any]],
    settings: Any,
    *,
    device: str = "cpu",
    greedy: bool = True,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Load a checkpoint (weights and tokenizer in one folder) and judge its answers to held-out problems.

    Args:
        checkpoint_path: a folder written by `save_pretrained`.
        heldout: rows with `problem`, `solution`, `level`; the first `problems_per_level` of each are used.
        settings: evaluation.yaml, as the typed model or as a mapping.
        device: "cpu" computes in float32; "cuda" in bfloat16.
        greedy: also one greedy answer per problem (rows with `greedy` True and sample 0).
        progress: called with (completions done, completions wanted).

    Returns:
        Rows (problem, solution, level, sample, greedy, completion, correct, form, tokens, finished);
        `correct` is 1.0, 0.0 or NaN (gold unjudgeable). `frame.attrs["tokens_per_second"]` is the speed.

    Raises:
        FileNotFoundError: there is no checkpoint at that path.
        ValueError: a level holds fewer than `problems_per_level` problems.
    """
    model, tokenizer = load_checkpoint(checkpoint_path, device)
    try:
        return evaluate_model(model, tokenizer, heldout, settings, greedy=greedy, progress=progress)
    finally:
        del model
        gc.collect()  # the next checkpoint should not find this one's weights in memory


def evaluate_model(
    model, tokenizer, heldout: Iterable[Mapping[str, Any]], settings: Any, *,
    greedy: bool = True, progress: Progress | None = None,
) -> pd.DataFrame:  # fmt: skip
    """`evaluate` for a model that is already in memory."""
    import pandas as pd

    get = settings.__getitem__ if isinstance(settings, Mapping) else lambda key: getattr(settings, key)
    problems = choose_problems(heldout, get("problems_per_level"))
    prompts = [user_prompt(row["problem"]) for row in problems]
    common = {key: get(key) for key in ("max_new_tokens", "batch_size", "seed")}
    samples = get("samples")
    wanted = len(problems) * (samples + int(greedy))
    report = (lambda base: lambda done, _: progress(base + done, wanted)) if progress else lambda base: None
    sampled = generate(
        model, tokenizer, prompts, samples, temperature=get("temperature"), top_p=get("top_p"),
        progress=report(0), **common,
    )  # fmt: skip
    rows = _rows(problems, sampled, greedy=False)
    if greedy:
        best = generate(
            model, tokenizer, prompts, 1, temperature=0, progress=report(len(problems) * samples), **common
        )
        rows += _rows(problems, best, greedy=True)
    frame = pd.DataFrame(rows)
    frame["correct"] = frame["correct"].astype(float)
    frame.attrs["tokens_per_second"] = sampled.tokens_per_second
    return frame


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


def load_checkpoint(path: str | Path, device: str = "cpu"):
    """(model, tokenizer) from a folder, without network.

    CPUs without bfloat16 units multiply bfloat16 a hundred times slower than float32 (0.3 to 3 against 150
    GFLOP/s on two cores), so a CPU always computes in float32.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: there is no config.json")
    logging.disable_progress_bar()  # "Loading weights" would stay in the saved notebook as an empty widget
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype, local_files_only=True)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(str(path), local_files_only=True)


def save_results(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write rows as parquet, atomically: readers see the whole file or none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        frame.to_parquet(temporary, index=False)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def load_results(path: str | Path) -> pd.DataFrame:
    """Rows written by `save_results`."""
    import pandas as pd

    return pd.read_parquet(path)


def _rows(problems: list[Mapping[str, Any]], samples: Samples, *, greedy: bool) -> list[dict[str, Any]]:
    """One row per completion, judged by the same rewards as in training."""
    rows = [
        {
            "problem": row["problem"],
            "solution": str(row["solution"]),
            "level": int(row["level"]),
            "sample": sample,
            "greedy": greedy,
            "completion": text,
            "tokens": samples.tokens[p][sample],
            "finished": samples.finished[p][sample],
        }
        for p, row in enumerate(problems)
        for sample, text in enumerate(samples.completions[p])
    ]
    completions = [row["completion"] for row in rows]
    correct = accuracy_reward(completions, solution=[row["solution"] for row in rows])
    for row, right, form in zip(rows, correct, format_reward(completions), strict=True):
        row["correct"], row["form"] = right, form
    return rows
