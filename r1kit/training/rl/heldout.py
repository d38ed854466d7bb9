"""Held-out problems asked while GRPO trains: is the reward that rises worth anything, and which weights were
best?

TRL's own evaluation does the asking, so it goes the way of the rollouts (this process, or the vLLM server,
any number of processes). What is asked is a slice that neither trains nor is evaluated at the end: choosing
the best checkpoint by the final evaluation's problems would make its score too good. In metrics.jsonl it is
`heldout/pass@1`, in a row of its own; the best weights so far are kept in `best/`, beside `best.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerState

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
"""Rewards that say whether an answer is right, so that their mean is pass@1 (of `code`: the share of
cases).
"""

PASS = "heldout/pass@1"
KEPT = {
    "eval_completions/mean_length": "heldout/mean_length",
    "eval_completions/clipped_ratio": "heldout/clipped_ratio",
    "eval_runtime": "heldout/seconds",
}
BEST, MARK = "best", "best.json"


def evaluation_keys(grpo: GrpoSettings, keys: Mapping[str, Any], heldout: Dataset | None) -> dict[str, Any]:
    """TRL's keys with an evaluation every `eval_every` steps; as they are without a held-out set.

    TRL averages over batches, so that all of them have to be of one size for the mean to be pass@1.
    """
    if heldout is None:
        return dict(keys)
    each = len(heldout) // process_count()
    most = max(1, keys.get("per_device_train_batch_size", 8) // grpo.eval_samples)
    problems = next(size for size in range(min(most, each), 0, -1) if each % size == 0)
    return dict(keys) | {
        "eval_strategy": "steps",
        "eval_steps": grpo.eval_every,
        "num_generations_eval": grpo.eval_samples,
        "per_device_eval_batch_size": problems * grpo.eval_samples,
    }


def verifying_reward(grpo: GrpoSettings) -> str:
    """The name of the reward whose mean is pass@1.

    Raises:
        SettingsError: there is none.
    """
    names = [reward.name for reward in grpo.rewards]
    for name in VERIFYING:
        if name in names:
            return name
    message = "Without a reward that says whether an answer is right there is no pass@1 to follow."
    problem = Problem(
        "grpo.yaml", "eval_every", found=", ".join(names), allowed=", ".join(VERIFYING), message=message
    )
    raise SettingsError([problem])


def heldout_slice(
    rows: Iterable[Mapping[str, Any]], problems: int, evaluated: int, levels: Iterable | None
) -> list:
    """Rows for the training's own evaluation, as many of each level as of the others.

    Args:
        rows: held-out rows with `problem` (or `prompt`), `solution` and, in the embedded world, `level`.
        problems: how many at most.
        evaluated: of each level the first so many belong to the final evaluation and are left out.
        levels: levels that are trained; None where there are none.

    Raises:
        SettingsError: nothing is left.
    """
    from r1kit.data.format import user_prompt

    by_level: dict[Any, list] = {}
    for row in rows:
        by_level.setdefault(row.get("level"), []).append(row)
    if levels is not None:
        by_level = {level: found[evaluated:] for level, found in by_level.items() if level in set(levels)}
    share = max(1, problems // max(1, len(by_level)))
    chosen = [row for found in by_level.values() for row in found[:share]]
    if not chosen:
        message = f"The final evaluation asks all held-out problems (the first {evaluated} of each level)."
        allowed = "a larger heldout_per_level in data.yaml"
        raise SettingsError(
            [Problem("grpo.yaml", "eval_every", found="no problem left", allowed=allowed, message=message)]
        )
    return [dict(row) | {"prompt": row.get("prompt") or user_prompt(row["problem"])} for row in chosen]


def heldout_dataset(job: Job, grpo: GrpoSettings) -> Dataset | None:
    """The slice of a job's `inputs.heldout`; None where grpo.yaml asks for no evaluation.

    Raises:
        SettingsError: the job has no held-out problems, or none is left.
    """
    if grpo.eval_every is None:
        return None
    from datasets import Dataset, load_from_disk

    if "heldout" not in job.inputs:
        message = "The data of this training holds nothing out."
        raise SettingsError(
            [Problem("grpo.yaml", "eval_every", found=grpo.eval_every, allowed="null", message=message)]
        )
    verifying_reward(grpo)
    evaluation, data = job.settings.get("evaluation") or {}, job.settings.get("data") or {}
    rows = load_from_disk(job.inputs["heldout"])
    chosen = heldout_slice(
        rows, grpo.eval_problems, evaluation.get("problems_per_level", 0), data.get("levels")
    )
    count = process_count()
    return Dataset.from_list(chosen[: max(1, len(chosen) // count) * count])


class HeldOut(TrainerCallback):
    """Names TRL's evaluation metrics for metrics.jsonl and keeps the best weights. Add it before the
    others.
    """

    def __init__(self, job: Job, trainer: Trainer, reward: str):
        self.folder, self.trainer, self.watchdog = job.folder, trainer, job.watchdog
        self.reward = f"eval_rewards/{reward}_reward/mean"

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Forget a best that lies after the step from which the training goes on: it comes again."""
        best = read_json(self.folder / MARK, {})
        if best.get("step", 0) > state.global_step and state.is_world_process_zero:
            (self.folder / MARK).unlink()

    def on_prediction_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """A batch of the evaluation is done: nothing hangs."""
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
        main = self.trainer.accelerator.is_main_process
        self.trainer.accelerator.wait_for_everyone()
        checkpoints.save_model_atomically(self.folder / BEST, self.trainer.save_model, main)
        if main:
            write_json_atomic(self.folder / MARK, {"step": state.global_step, "pass@1": value})
        self.trainer.accelerator.wait_for_everyone()


def watch_heldout(trainer: Trainer, job: Job, grpo: GrpoSettings) -> None:
    """Add the callback where grpo.yaml asks for an evaluation."""
    if grpo.eval_every is not None:
        trainer.add_callback(HeldOut(job, trainer, verifying_reward(grpo)))
