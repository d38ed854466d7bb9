"""Several completions per prompt from a checkpoint, judged by rules: two kinds of pipeline stages.

`python -m r1kit.evaluation.rejection_sampling JOB/resolved.yaml` runs either.

`rejection_sampling` keeps completions as traces for SFT. R1's second SFT dataset was sampled from the
checkpoint of its first RL stage: several answers per prompt, of which those were kept that a rule accepts,
without chains that mix languages, run long or are hard to read (arXiv 2501.12948, section 2.3.3). Here the
rule is the accuracy reward and the form that grpo.yaml rewards; length and repeated 4-grams stand for
readability. R1 also judged answers by a model, which we do not.

`pass_rate` keeps prompts, with how often the checkpoint solves each: GRPO learns nothing from prompts that
are always or never solved. The column `pass_rate` makes the pools of the curriculum, and only a band of it
is kept. The default band is the one of open-r1's recipe for DAPO's prompts (scripts/pass_rate_filtering: 0.1
to 0.6); DeepSeek-R1's paper does not state its choice. A rate of n answers has a standard error of
sqrt(p (1 - p) / n), 0.18 for 8: for a prompt near an end of the band chance decides.

Completions come in shards of a batch, each with a file and a seed of its own, so a program that was killed
resumes with the next shard and ends with the same dataset. If the job has a server, vLLM samples instead of
this process.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from r1kit.evaluation.sampler import LocalSampler, Sampler, Samples, Sampling, load_checkpoint
from r1kit.evaluation.server_sampler import sampler_at
from r1kit.rewards.registry import get_rewards
from r1kit.runs import jsonl
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.weight_versions import model_fingerprint
from r1kit.settings import settings_hash
from r1kit.settings.rewards import REWARDS
from r1kit.training import program

SHARD_SEEDS = 1_000_003  # a shard's seed is the stage's seed * SHARD_SEEDS + the shard's number
REASONS = ("unfinished", "unjudged", "wrong", "form", "long", "repetitive", "duplicate", "surplus")
"""Reasons not to keep an answer; the first that holds is counted."""
SAMPLING_PARAMETERS = ("prompts", "samples", "temperature", "top_p", "max_new_tokens", "batch_size", "seed")
"""Parameters of `pass_rate` that decide the answers; the band only chooses among them."""


def judged_answers(
    job: program.Job, parameters: Mapping[str, Any], forms: Sequence[str] = ()
) -> tuple[Any, list[dict[str, Any]]]:
    """Return the prompts, and every answer with its verdicts, prompt by prompt."""
    from r1kit.data import datasets

    prompts = datasets.load(job.inputs["prompts"])
    prompts = prompts.select(range(min(parameters["prompts"] or len(prompts), len(prompts))))
    size = max(1, parameters["batch_size"] // parameters["samples"])
    shards = [job.folder / "shards" / f"{first:07d}.json" for first in range(0, len(prompts), size)]
    missing = [i for i, path in enumerate(shards) if read_json(path) is None]
    jsonl.truncate_after(job.metrics, missing[0] if missing else len(shards))
    if missing:
        sampler, judge = sampler_of(job, parameters), judge_of(forms)
    for i in missing:
        rows = list(prompts.select(range(i * size, min((i + 1) * size, len(prompts)))))
        drawing = {name: parameters[name] for name in ("temperature", "top_p", "max_new_tokens")}
        sampling = Sampling(**drawing, seed=parameters["seed"] * SHARD_SEEDS + i)
        samples = sampler.sample([row["prompt"] for row in rows], sampling, parameters["samples"])
        answers = judge_samples(rows, samples, judge)
        write_json_atomic(shards[i], answers)
        right = sum(answer["correct"] == 1.0 for answer in answers) / max(1, len(answers))
        row = {"step": i + 1, "total_steps": len(shards), "right": right}
        jsonl.append(job.metrics, row | {"tokens_per_second": samples.tokens_per_second})
        if job.watchdog:
            job.watchdog.beat(i + 1)
    if job.watchdog:
        job.watchdog.finish()
    return prompts, [answer for path in shards for answer in read_json(path)]


def sampler_of(job: program.Job, parameters: Mapping[str, Any]) -> Sampler:
    """Return the job's server, or its model in this process; a server leaves no room for a second model."""
    if "server" not in job.inputs:
        return LocalSampler(*load_checkpoint(job.inputs["model"], job.device), parameters["batch_size"])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.inputs["model"], local_files_only=True)
    return sampler_at(job.inputs["server"], parameters["batch_size"], tokenizer)


def judge_of(forms: Sequence[str]) -> Callable[..., tuple[list[float | None], list[float]]]:
    """Return a function of completions and solutions: correctness (None: could not be judged), and form."""
    names = ["accuracy", *forms]
    (accuracy, *others), _ = get_rewards([REWARDS[name](name=name, weight=1.0) for name in names])

    def judge(completions: list[str], solutions: list[str]) -> tuple[list[float | None], list[float]]:
        right = accuracy(completions, solution=solutions)
        parts = [function(completions) for function in others]
        form = [min((part[i] for part in parts), default=1.0) for i in range(len(completions))]
        return right, form

    return judge


def judge_samples(rows: Sequence[Mapping], samples: Samples, judge: Callable) -> list[dict[str, Any]]:
    """Return every answer of a shard with its verdicts, prompt by prompt."""
    flat = [(row, one) for row, answers in zip(rows, samples.rows, strict=True) for one in answers]
    right, form = judge([one.text for _, one in flat], [row["solution"] for row, _ in flat])
    return [
        {
            "problem": row["prompt"][-1]["content"],
            "completion": one.text,
            "correct": right[i],
            "form": form[i],
            "tokens": one.tokens,
            "finished": one.finished,
        }
        for i, (row, one) in enumerate(flat)
    ]


# Rejection sampling


def sample(job: program.Job) -> None:
    """Sample and judge the prompts' answers, and write those that are kept to `data/`, and `counts.json`.

    Raises:
        ValueError: no answer was kept.
    """
    rules = job.settings["parameters"]
    prompts, answers = judged_answers(job, rules, rules["forms"])
    kept, counts = select(answers, prompts, rules)
    if not kept:
        raise ValueError(f"no answer was kept: {counts}. A checkpoint that is sometimes right is needed")
    _write(job, kept, counts, f"{counts['answers']} answers, {counts['kept']} kept: {counts}")


def select(
    answers: Sequence[Mapping[str, Any]], prompts: Sequence[Mapping[str, Any]], rules: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the traces that are kept, with the columns of the teacher's, and counts by reason."""
    by_problem = {row["prompt"][-1]["content"]: row for row in prompts}
    texts_of: dict[str, list[str]] = {}
    counts: Counter[str] = Counter({"answers": len(answers), "kept": 0, "prompts": len(by_problem)})
    counts.update(dict.fromkeys(REASONS, 0))
    kept = []
    for answer in answers:
        texts = texts_of.setdefault(answer["problem"], [])
        if reason := reason_against(answer, texts, rules):
            counts[reason] += 1
            continue
        texts.append(" ".join(answer["completion"].split()))
        row = by_problem[answer["problem"]]
        turns = [*row["prompt"], {"role": "assistant", "content": answer["completion"]}]
        columns = {"problem": answer["problem"], "solution": row["solution"], "level": row.get("level")}
        kept.append({"messages": turns, **columns, "verified": True, "tokens": answer["tokens"]})
    solved = sum(bool(texts) for texts in texts_of.values())
    return kept, dict(counts) | {"kept": len(kept), "prompts_solved": solved}


def reason_against(answer: Mapping[str, Any], kept: Sequence[str], rules: Mapping[str, Any]) -> str:
    """Return why an answer is not kept (one of REASONS), or "" if it is.

    Args:
        kept: texts of the answers to the same prompt that were kept before.
    """
    if not answer["finished"]:
        return "unfinished"
    if answer["correct"] is None:
        return "unjudged"
    if answer["correct"] < 1.0:
        return "wrong"
    if answer["form"] < 1.0:
        return "form"
    if rules["longest"] is not None and answer["tokens"] > rules["longest"]:
        return "long"
    if rules["repetition"] is not None and repetition(answer["completion"]) > rules["repetition"]:
        return "repetitive"
    if rules["deduplicate"] and " ".join(answer["completion"].split()) in kept:
        return "duplicate"
    return "surplus" if len(kept) >= rules["keep"] else ""


def repetition(text: str, n: int = 4) -> float:
    """Return the share of a text's word n-grams that occurred in it before; 0 with fewer than n words."""
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


# Pass rates


def measure(job: program.Job) -> None:
    """Measure the prompts' pass rates, and write those within the band to `data/`, and `counts.json`.

    Raises:
        ValueError: no prompt is within the band.
    """
    parameters = job.settings["parameters"]
    _drop_other_shards(job, parameters)
    prompts, answers = judged_answers(job, parameters)
    rates = rates_of([answer["correct"] for answer in answers], parameters["samples"])
    lowest, highest = parameters["lowest"], parameters["highest"]
    kept, counts = within(list(prompts), rates, lowest, highest)
    if not kept:
        raise ValueError(
            f"no prompt has a pass rate from {lowest} to {highest}: {counts}. Another checkpoint, harder or "
            "easier prompts, or a wider band is needed"
        )
    _write(job, kept, counts, f"{counts['kept']} of {counts['prompts']} prompts are in the band: {counts}")


def rates_of(correct: Sequence[float | None], samples: int) -> list[float | None]:
    """Return pass rates [P] of verdicts [P * samples] in the prompts' order; None if none was judged."""
    groups = [correct[i : i + samples] for i in range(0, len(correct), samples)]
    judged = [[verdict for verdict in group if verdict is not None] for group in groups]
    return [fmean(verdicts) if verdicts else None for verdicts in judged]


def within(
    prompts: Sequence[Mapping[str, Any]], rates: Sequence[float | None], lowest: float, highest: float
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the prompts with a rate from `lowest` to `highest`, with it as a column, and counts."""
    kept = []
    counts = {"prompts": len(prompts), "kept": 0, "below": 0, "above": 0, "unjudged": 0}
    for row, rate in zip(prompts, rates, strict=True):
        if rate is None:
            counts["unjudged"] += 1
        elif rate < lowest:
            counts["below"] += 1
        elif rate > highest:
            counts["above"] += 1
        else:
            kept.append({**row, "pass_rate": rate})
    known = [rate for rate in rates if rate is not None]
    return kept, counts | {"kept": len(kept), "mean": round(fmean(known), 4) if known else 0.0}


def _drop_other_shards(job: program.Job, parameters: Mapping[str, Any]) -> None:
    """Delete shards of other weights, prompts or sampling parameters."""
    from r1kit.data import datasets

    model, folder = job.inputs["model"], job.folder
    weights = sorted(Path(model).glob("*.safetensors"))
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weights]
    sources = settings_hash(
        {
            "model": [str(model), model_fingerprint(model), files],
            "prompts": datasets.load(job.inputs["prompts"])._fingerprint,
            "asked": {name: parameters[name] for name in SAMPLING_PARAMETERS},
        }
    )
    if (folder / "shards").exists() and read_json(folder / "sources.json") != sources:
        shutil.rmtree(folder / "shards")
    write_json_atomic(folder / "sources.json", sources)


def _write(job: program.Job, rows: list[dict[str, Any]], counts: dict[str, Any], line: str) -> None:
    from r1kit.data import datasets

    datasets.save_atomically(rows, job.folder / "data")
    write_json_atomic(job.folder / "counts.json", counts)
    print(line, flush=True)


def work(job: program.Job) -> None:
    """Run the stage that the parameters belong to: only `pass_rate` has a band."""
    (measure if "highest" in job.settings["parameters"] else sample)(job)


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return program.run(work, arguments)


if __name__ == "__main__":
    sys.exit(main())
