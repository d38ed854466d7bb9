"""Held-out problems evaluated while GRPO trains: does the rising reward mean anything, and which weights were
best?

TRL's own evaluation generates and scores, so it uses the same path as the rollouts (this process or the vLLM
server, any number of processes). The problems are a slice that is neither trained on nor part of the final
evaluation: choosing the best checkpoint by the final evaluation's problems would make its score too good. In
metrics.jsonl the result is `heldout/pass@1`, in a row of its own; the best weights so far are kept in
`best/`, beside `best.json`.

`grpo.train` calls `heldout_dataset`, passes its result and `evaluation_keys` to the trainer, and adds the
callback `HeldOut`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerState

from r1kit.data.format import user_prompt
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.settings import Problem, SettingsError
from r1kit.training import checkpoints
from r1kit.training.checkpoints import process_count
from r1kit.training.program import Job

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

    from r1kit.settings.training import GrpoSettings


VERIFYING = ("accuracy", "binary_code", "code")
"""Rewards that say whether an answer is right: their mean is pass@1 (`code`: the share of passed cases)."""

PASS = "heldout/pass@1"
KEPT = {
    "eval_completions/mean_length": "heldout/mean_length",
    "eval_completions/clipped_ratio": "heldout/clipped_ratio",
    "eval_runtime": "heldout/seconds",
}
BEST, MARK = "best", "best.json"


def heldout_dataset(job: Job, grpo: GrpoSettings) -> Dataset | None:
    """Return the slice of a job's `inputs.heldout`; None if grpo.yaml asks for no evaluation.

    Raises:
        SettingsError: no reward verifies answers, the job has no held-out problems, or none is left.
    """
    if grpo.eval_every is None:
        return None
    from datasets import Dataset, load_from_disk

    if "heldout" not in job.inputs:
        raise _problem(grpo.eval_every, "null", "The data of this training holds nothing out.")
    verifying_reward(grpo)
    evaluation, data = job.settings.get("evaluation") or {}, job.settings.get("data") or {}
    chosen = heldout_slice(
        load_from_disk(job.inputs["heldout"]),
        grpo.eval_problems,
        evaluation.get("problems_per_level", 0),
        data.get("levels"),
    )
    count = process_count()
    return Dataset.from_list(chosen[: max(1, len(chosen) // count) * count])


def heldout_slice(
    rows: Iterable[Mapping[str, Any]], problems: int, evaluated: int, levels: Iterable | None
) -> list[dict[str, Any]]:
    """Choose rows for the training's own evaluation, equally many of each level.

    Args:
        rows: held-out rows with `problem` (or `prompt`), `solution` and, in the embedded world, `level`.
        problems: how many at most.
        evaluated: this many of each level, the first, belong to the final evaluation and are left out.
        levels: levels that are trained; None if the data has no levels.

    Raises:
        SettingsError: nothing is left.
    """
    by_level: dict[Any, list] = {}
    for row in rows:
        by_level.setdefault(row.get("level"), []).append(row)
    if levels is not None:
        by_level = {level: found[evaluated:] for level, found in by_level.items() if level in set(levels)}
    share = max(1, problems // max(1, len(by_level)))
    chosen = [row for found in by_level.values() for row in found[:share]]
    if not chosen:
        raise _problem(
            "no problem left",
            "a larger heldout_per_level in data.yaml",
            f"The final evaluation uses all held-out problems (the first {evaluated} of each level).",
        )
    return [dict(row) | {"prompt": row.get("prompt") or user_prompt(row["problem"])} for row in chosen]


def verifying_reward(grpo: GrpoSettings) -> str:
    """Return the name of the reward whose mean is pass@1.

    Raises:
        SettingsError: there is none.
    """
    names = [reward.name for reward in grpo.rewards]
    for name in VERIFYING:
        if name in names:
            return name
    message = "Without a reward that says whether an answer is right there is no pass@1 to follow."
    raise _problem(", ".join(names), ", ".join(VERIFYING), message)


def _problem(found: Any, allowed: str, message: str) -> SettingsError:
    return SettingsError([Problem("grpo.yaml", "eval_every", found=found, allowed=allowed, message=message)])


def evaluation_keys(grpo: GrpoSettings, keys: Mapping[str, Any], heldout: Dataset | None) -> dict[str, Any]:
    """Return TRL's keys with an evaluation every `eval_every` steps; unchanged without a held-out set.

    TRL averages over batches, so all of them must have one size for the mean to be pass@1.
    """
    if heldout is None:
        return dict(keys)
    per_process = len(heldout) // process_count()
    most = max(1, keys.get("per_device_train_batch_size", 8) // grpo.eval_samples)
    problems = next(size for size in range(min(most, per_process), 0, -1) if per_process % size == 0)
    return dict(keys) | {
        "eval_strategy": "steps",
        "eval_steps": grpo.eval_every,
        "num_generations_eval": grpo.eval_samples,
        "per_device_eval_batch_size": problems * grpo.eval_samples,
    }


class HeldOut(TrainerCallback):
    """Renames TRL's evaluation metrics for metrics.jsonl and keeps the best weights.

    Add it before the callbacks that read the logs.
    """

    def __init__(self, job: Job, trainer: Trainer, grpo: GrpoSettings):
        self.folder, self.trainer, self.watchdog = job.folder, trainer, job.watchdog
        self.reward = f"eval_rewards/{verifying_reward(grpo)}_reward/mean"

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Forget a best of a later step than the training resumes from: that step will be repeated."""
        best = read_json(self.folder / MARK, {})
        if best.get("step", 0) > state.global_step and state.is_world_process_zero:
            (self.folder / MARK).unlink()

    def on_prediction_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Report a batch of the evaluation to the watchdog."""
        if self.watchdog:
            self.watchdog.beat(state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict | None = None, **kwargs: Any
    ) -> None:
        """Turn an evaluation's log into `heldout/...`, and save the weights if they are the best so far."""
        if not logs or self.reward not in logs:
            return
        value = logs[self.reward]
        kept = {new: logs[old] for old, new in KEPT.items() if logs.get(old) is not None}
        for name in [name for name in logs if name.startswith("eval_")]:
            del logs[name]
        logs |= {PASS: value} | kept
        before = read_json(self.folder / MARK, {})
        # All processes decide alike: TRL gathers rewards before it averages them.
        if value is None or value <= before.get("pass@1", -1.0):
            return
        accelerator = self.trainer.accelerator
        accelerator.wait_for_everyone()
        checkpoints.save_model_atomically(
            self.folder / BEST, self.trainer.save_model, accelerator.is_main_process
        )
        if accelerator.is_main_process:
            write_json_atomic(self.folder / MARK, {"step": state.global_step, "pass@1": value})
        accelerator.wait_for_everyone()
