"""Evaluation of a checkpoint: sampled (and greedy) answers to problems, judged, one row a completion.

The rows are what is stored; every table and figure is computed from them (`tables.py`). The embedded world's
held-out problems and public benchmarks go the same way; `in_process.py` or `served.py` answers.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.evaluation.answering import Answering, Answers, Progress, Sampling
from r1kit.evaluation.in_process import InProcess, weights_identity
from r1kit.evaluation.judges import judge_rows
from r1kit.evaluation.questions import Question, choose_problems, story_questions
from r1kit.evaluation.tables import pass1_entry, table
from r1kit.rewards import format_reward

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "choose_problems",
    "evaluate",
    "evaluate_answering",
    "evaluate_model",
    "load_checkpoint",
    "load_results",
    "pass1_entry",
    "save_results",
    "table",
]


def evaluate(
    checkpoint_path: str | Path,
    heldout: Iterable[Question | Mapping[str, Any]],
    settings: Any,
    *,
    device: str = "cpu",
    greedy: bool | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Load a checkpoint (weights and tokenizer in one folder) and judge its answers.

    Args:
        checkpoint_path: a folder written by `save_pretrained`.
        heldout: questions, or rows with `problem`, `solution`, `level` of which the first
            `problems_per_level` of each level are used.
        settings: evaluation.yaml, as the typed model or as a mapping.
        device: "cpu" computes in float32; "cuda" in bfloat16.
        greedy: also one greedy answer per problem (rows with `greedy` True and sample 0); None: as the
            settings say.
        folder: keeps the answers, so that after a kill the same call goes on; None keeps nothing.
        progress: called with (completions done, completions wanted).

    Returns:
        Rows (problem, solution, level, sample, greedy, completion, correct, form, tokens, finished, answer);
        `correct` is 1.0, 0.0 or NaN (gold unjudgeable). `frame.attrs["tokens_per_second"]` is the speed.

    Raises:
        FileNotFoundError: there is no checkpoint at that path.
        ValueError: a level holds fewer than `problems_per_level` problems.
    """
    model, tokenizer = load_checkpoint(checkpoint_path, device)
    try:
        return evaluate_model(
            model, tokenizer, heldout, settings, greedy=greedy, folder=folder, progress=progress,
            weights=weights_identity(checkpoint_path),
        )  # fmt: skip
    finally:
        del model
        gc.collect()  # the next checkpoint should not find this one's weights in memory


def evaluate_model(
    model: Any, tokenizer: Any, heldout: Iterable[Question | Mapping[str, Any]], settings: Any, *,
    greedy: bool | None = None, folder: str | Path | None = None, progress: Progress | None = None,
    weights: str = "",
) -> pd.DataFrame:  # fmt: skip
    """`evaluate` for a model that is already in memory; `weights` tells it from others in one `folder`."""
    asked = InProcess(model, tokenizer, _getter(settings)("batch_size", 128), weights)
    return evaluate_answering(asked, heldout, settings, greedy=greedy, folder=folder, progress=progress)


def evaluate_answering(
    answering: Answering,
    heldout: Iterable[Question | Mapping[str, Any]],
    settings: Any,
    *,
    greedy: bool | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """`evaluate` for whoever answers: a model that is already in memory, or a server."""
    import pandas as pd

    get = _getter(settings)
    questions = _questions(heldout, get)
    greedy = get("greedy", True) if greedy is None else greedy
    folder = Path(folder) if folder else None
    sampling = Sampling(get("temperature"), get("top_p"), get("max_new_tokens"), get("seed"))
    first = sum(question.samples for question in questions)
    wanted = first + (len(questions) if greedy else 0)
    tell = progress or (lambda done, wanted: None)
    sampled = answering.answer(questions, sampling, folder, lambda done, _: tell(done, wanted))
    rows = judged_rows(questions, sampled, greedy=False)
    if greedy:
        once = [replace(question, samples=1) for question in questions]
        best = answering.answer(
            once, replace(sampling, temperature=0.0), folder and folder / "greedy",
            lambda done, _: tell(first + done, wanted),
        )  # fmt: skip
        rows += judged_rows(once, best, greedy=True)
    frame = pd.DataFrame(rows)
    frame["correct"] = frame["correct"].astype(float)
    frame["tokens"] = frame["tokens"].astype(float)
    frame.attrs["tokens_per_second"] = sampled.tokens_per_second
    return frame


def judged_rows(questions: list[Question], answers: Answers, *, greedy: bool) -> list[dict[str, Any]]:
    """One row per completion; stories are judged by the same rewards as in training."""
    asked = [(question, sample) for question in questions for sample in range(question.samples)]
    written = [one for row in answers.written for one in row]
    texts = [one.text for one in written]
    verdicts, finals = judge_rows(
        texts, [question for question, _ in asked], [one.finished for one in written]
    )
    columns = zip(asked, written, verdicts, finals, format_reward(texts), strict=True)
    return [
        {
            "problem": question.problem, "solution": shown_solution(question), "level": question.level,
            "sample": sample, "greedy": greedy, "completion": one.text, "correct": verdict, "form": form,
            "tokens": one.tokens, "finished": one.finished, "answer": final,
        }
        for (question, sample), one, verdict, final, form in columns
    ]  # fmt: skip


def shown_solution(question: Question) -> str:
    """The gold as it is stored beside every answer; a program's test cases are megabytes and are left out."""
    return "" if question.judge == "code" else question.solution


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


def _questions(heldout: Iterable[Question | Mapping[str, Any]], get: Any) -> list[Question]:
    """Questions with their number of samples; rows of the embedded world are made into questions."""
    rows = list(heldout)
    if rows and not isinstance(rows[0], Question):
        rows = story_questions(rows, get("problems_per_level"))
    return [question if question.samples else replace(question, samples=get("samples")) for question in rows]


def _getter(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return settings.get
    return lambda key, default=None: getattr(settings, key, default)
