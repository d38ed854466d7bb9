"""Several completions of each prompt from a checkpoint, judged by rules: what two kinds of pipeline stages do
(`python -m r1kit.evaluation.rejection_sampling JOB/resolved.yaml`).

`rejection_sampling` keeps completions as traces for SFT. R1's second SFT dataset was sampled from the
checkpoint of its first RL stage: several answers to each prompt, those kept that a rule accepts, chains that
mix languages, run long or are hard to read left out (arXiv 2501.12948, section 2.3.3). Here the rule is the
accuracy reward and the form that grpo.yaml rewards; length and repeated 4-grams stand for readability. R1
also judged answers by a model, for which this has no room.

`pass_rate` keeps prompts, with how often the checkpoint solves each: GRPO learns nothing from what is always
right or always wrong. The column `pass_rate` makes the pools of the curriculum, and only a band of it is
kept. The default band is that of open-r1's recipe for DAPO's prompts (scripts/pass_rate_filtering: 0.1 to
0.6); DeepSeek-R1's paper says nothing of its own choice. Of n answers a rate is known to within
sqrt(p (1 - p) / n), 0.18 for 8: a prompt near an end of the band is kept or dropped by chance.

Completions come in shards of a batch, each a file of its own and with a seed of its own, so that a program
which was killed goes on with the next shard and ends with the same dataset. Where the job has a server, vLLM
samples instead of this process.
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

SEEDS = 1_000_003  # a shard's seed: that of the stage times this, and the shard's number
REASONS = ("unfinished", "unjudged", "wrong", "form", "long", "repetitive", "duplicate", "surplus")
"""Why an answer is not kept; the first that holds is counted."""
ASKED = ("prompts", "samples", "temperature", "top_p", "max_new_tokens", "batch_size", "seed")
"""Parameters of `pass_rate` that decide the answers; the band only chooses among them."""


def sample(job: program.Job) -> None:
    """Answer the prompts shard by shard, judge, and write `data/` and `counts.json`."""
    from r1kit.data import datasets

    told = job.settings["parameters"]
    prompts, answers = judged_answers(job, told, told["forms"])
    kept, counts = select(answers, prompts, told)
    if not kept:
        raise ValueError(f"no answer was kept: {counts}. A checkpoint that is right now and then is needed")
    datasets.save_atomically(kept, job.folder / "data")
    write_json_atomic(job.folder / "counts.json", counts)
    print(f"{counts['answers']} answers, {counts['kept']} kept: {counts}", flush=True)


def judged_answers(
    job: program.Job, told: Mapping[str, Any], forms: Sequence[str] = ()
) -> tuple[Any, list[dict[str, Any]]]:
    """The prompts that are asked, and every answer with its verdicts: those of a prompt follow each other."""
    from r1kit.data import datasets

    prompts = datasets.load(job.inputs["prompts"])
    prompts = prompts.select(range(min(told["prompts"] or len(prompts), len(prompts))))
    size = max(1, told["batch_size"] // told["samples"])
    shards = [job.folder / "shards" / f"{first:07d}.json" for first in range(0, len(prompts), size)]
    missing = [i for i, path in enumerate(shards) if read_json(path) is None]
    jsonl.truncate_after(job.metrics, missing[0] if missing else len(shards))
    if missing:
        sampler, judge = sampler_of(job, told), judge_of(forms)
    for i in missing:
        rows = list(prompts.select(range(i * size, min((i + 1) * size, len(prompts)))))
        how = {name: told[name] for name in ("temperature", "top_p", "max_new_tokens")}
        sampling = Sampling(**how, seed=told["seed"] * SEEDS + i)
        samples = sampler.sample([row["prompt"] for row in rows], sampling, told["samples"])
        judged = judge_samples(rows, samples, judge)
        write_json_atomic(shards[i], judged)
        right = sum(entry["correct"] == 1.0 for entry in judged) / max(1, len(judged))
        row = {"step": i + 1, "total_steps": len(shards), "right": right}
        jsonl.append(job.metrics, row | {"tokens_per_second": samples.tokens_per_second})
        if job.watchdog:
            job.watchdog.beat(i + 1)
    if job.watchdog:
        job.watchdog.finish()
    return prompts, [entry for path in shards for entry in read_json(path)]


def sampler_of(job: program.Job, told: Mapping[str, Any]) -> Sampler:
    """The job's server, or its model in this process; beside a server there is no room for a second model."""
    if "server" not in job.inputs:
        return LocalSampler(*load_checkpoint(job.inputs["model"], job.device), told["batch_size"])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.inputs["model"], local_files_only=True)
    return sampler_at(job.inputs["server"], told["batch_size"], tokenizer)


def judge_of(forms: Sequence[str]) -> Callable[..., tuple[list[float | None], list[float]]]:
    """A function of completions and solutions: is it right (None: could not be judged), has it the form."""
    names = ["accuracy", *forms]
    (accuracy, *others), _ = get_rewards([REWARDS[name](name=name, weight=1.0) for name in names])

    def judge(completions: list[str], solutions: list[str]) -> tuple[list[float | None], list[float]]:
        right = accuracy(completions, solution=solutions)
        parts = [function(completions) for function in others]
        form = [min((part[i] for part in parts), default=1.0) for i in range(len(completions))]
        return right, form

    return judge


def judge_samples(rows: Sequence[Mapping], samples: Samples, judge: Callable) -> list[dict[str, Any]]:
    """Every answer of a shard with its verdicts, prompt by prompt."""
    flat = [(row, one) for row, found in zip(rows, samples.rows, strict=True) for one in found]
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


def select(
    answers: Sequence[Mapping[str, Any]], prompts: Sequence[Mapping[str, Any]], told: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The traces that are kept, columns as the teacher's, and how many answers fell for which reason."""
    by_problem = {row["prompt"][-1]["content"]: row for row in prompts}
    chosen: dict[str, list[str]] = {}
    counts: Counter[str] = Counter({"answers": len(answers), "kept": 0, "prompts": len(by_problem)})
    counts.update(dict.fromkeys(REASONS, 0))
    kept = []
    for entry in answers:
        had = chosen.setdefault(entry["problem"], [])
        if reason := reason_against(entry, had, told):
            counts[reason] += 1
            continue
        had.append(" ".join(entry["completion"].split()))
        row = by_problem[entry["problem"]]
        turns = [*row["prompt"], {"role": "assistant", "content": entry["completion"]}]
        columns = {"problem": entry["problem"], "solution": row["solution"], "level": row.get("level")}
        kept.append({"messages": turns, **columns, "verified": True, "tokens": entry["tokens"]})
    solved = sum(bool(texts) for texts in chosen.values())
    return kept, dict(counts) | {"kept": len(kept), "prompts_solved": solved}


def reason_against(entry: Mapping[str, Any], had: Sequence[str], told: Mapping[str, Any]) -> str:
    """Why an answer is not kept (one of REASONS), or "" if it is; `had`: what was kept of its prompt."""
    if not entry["finished"]:
        return "unfinished"
    if entry["correct"] is None:
        return "unjudged"
    if entry["correct"] < 1.0:
        return "wrong"
    if entry["form"] < 1.0:
        return "form"
    if told["longest"] is not None and entry["tokens"] > told["longest"]:
        return "long"
    if told["repetition"] is not None and repetition(entry["completion"]) > told["repetition"]:
        return "repetitive"
    if told["deduplicate"] and " ".join(entry["completion"].split()) in had:
        return "duplicate"
    return "surplus" if len(had) >= told["keep"] else ""


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's word n-grams that occurred in it before; 0 for a text shorter than n words."""
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def measure(job: program.Job) -> None:
    """Ask, judge, and write the prompts of the band with their `pass_rate` to `data/`, and `counts.json`.

    Raises:
        ValueError: no prompt lies in the band.
    """
    from r1kit.data import datasets

    told = job.settings["parameters"]
    forget_others(job.folder, sources_of(job.inputs["model"], job.inputs["prompts"], told))
    prompts, answers = judged_answers(job, told)
    rates = rates_of([entry["correct"] for entry in answers], told["samples"])
    kept, counts = within(list(prompts), rates, told["lowest"], told["highest"])
    if not kept:
        raise ValueError(
            f"no prompt has a pass rate from {told['lowest']} to {told['highest']}: {counts}. Another "
            "checkpoint, harder or easier prompts, or a wider band is needed"
        )
    datasets.save_atomically(kept, job.folder / "data")
    write_json_atomic(job.folder / "counts.json", counts)
    print(f"{counts['kept']} of {counts['prompts']} prompts are in the band: {counts}", flush=True)


def rates_of(correct: Sequence[float | None], samples: int) -> list[float | None]:
    """Pass rates [P] of verdicts [P * samples], a prompt's together; None where nothing was judged."""
    groups = [correct[i : i + samples] for i in range(0, len(correct), samples)]
    judged = [[verdict for verdict in group if verdict is not None] for group in groups]
    return [fmean(verdicts) if verdicts else None for verdicts in judged]


def within(
    prompts: Sequence[Mapping[str, Any]], rates: Sequence[float | None], lowest: float, highest: float
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The prompts with a rate from `lowest` to `highest`, with it as a column, and how many fell where."""
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


def sources_of(model: str, prompts: str, told: Mapping[str, Any]) -> str:
    """A hash of what decides the answers: the weights' files, the dataset, how it is asked."""
    from r1kit.data import datasets

    weights = sorted(Path(model).glob("*.safetensors"))
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weights]
    return settings_hash(
        {
            "model": [str(model), model_fingerprint(model), files],
            "prompts": datasets.load(prompts)._fingerprint,
            "asked": {name: told[name] for name in ASKED},
        }
    )


def forget_others(folder: Path, sources: str) -> None:
    """Drop shards in `folder` that were not made from `sources`."""
    shards = folder / "shards"
    if shards.exists() and read_json(folder / "sources.json") != sources:
        shutil.rmtree(shards)
    write_json_atomic(folder / "sources.json", sources)


def work(job: program.Job) -> None:
    """Do what the stage's parameters are of: only `pass_rate` has a band."""
    (measure if "highest" in job.settings["parameters"] else sample)(job)


def main(arguments: list[str] | None = None) -> int:
    """Program entry; returns the exit code."""
    return program.run(work, arguments)


if __name__ == "__main__":
    sys.exit(main())
