"""TRL's GRPOTrainer with its rollouts on disk: for the reader as parquet, for a resume as tensors.

TRL 1.16 generates once for `steps_per_generation * num_iterations` micro-steps and keeps the rest in memory
only; after a resume it would generate anew, and with several epochs draw prompts in another order. Both are
repaired here, so that a checkpoint may be taken after any step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from r1kit.training.chosen_rollouts import ChosenRollouts
from r1kit.training.guards import diversity
from r1kit.training.length_stages import LengthStages
from r1kit.training.resume import ExactResume
from r1kit.training.served import ServedRollouts
from r1kit.training.unjudged import UnjudgedWatch, leave_out_unjudged

BUFFER = "rollout_buffer_{rank}.pt"
CARRIED = ("solution", "level", "pass_rate")
"""Dataset columns that go into the rollout files."""


class EpochRepeatSampler(RepeatSampler):
    """TRL's sampler whose order depends on seed and epoch; TRL's depends on how often it was read before."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


class RolloutTrainer(ServedRollouts, ChosenRollouts, LengthStages, ExactResume, GRPOTrainer):
    """GRPOTrainer that writes `rollouts_folder/step_%05d.parquet` and saves the rollouts in use.

    Its reward functions are those of `r1kit.rewards.get_rewards`; a row that one of them could not judge is
    left out of the gradient, and `unjudged` counts it.
    """

    rollouts_folder: Path | None = None
    unjudged: UnjudgedWatch | None = None
    guarded = False
    """Whether rows say how different the answers are, as guards want to know."""
    _unwritten = False

    def _get_train_sampler(self, dataset: Any = None) -> EpochRepeatSampler:
        plain = super()._get_train_sampler(dataset)
        return EpochRepeatSampler(
            plain.data_source,
            plain.mini_repeat_count,
            plain.batch_size,
            plain.repeat_count,
            plain.shuffle,
            plain.seed,
        )

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[Any],
    ) -> torch.Tensor:
        """TRL's without the rows that could not be judged, and the columns that the rollout files add.

        TRL gathers the rewards and keeps the columns. Returns [N, F] over all processes, NaN where a function
        said nothing and in the whole of an unjudged row.
        """
        self._unwritten = self.model.training
        for column in CARRIED:
            if column in inputs[0]:
                self._log_completion_extra(column, [example[column] for example in inputs])
        self._log_completion_extra("tokens", [len(ids) for ids in completion_ids_list])
        self._parts, judged = self._judge(inputs, prompts, completions, completion_ids_list)
        self._count_unjudged(judged, inputs)
        return self._parts

    def _judge_anew(
        self, inputs: list, prompts: list, completions: list, completion_ids: list
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        columns = {name: [example[name] for example in inputs] for name in inputs[0]}
        own = [function.applies(len(inputs), columns) for function in self.reward_funcs]
        applies = gather(torch.tensor(own, device=parts.device).T.contiguous())
        verifies = torch.tensor([bool(function.needs) for function in self.reward_funcs], device=parts.device)
        return leave_out_unjudged(parts, applies, verifies)

    def _count_unjudged(self, judged: torch.Tensor, inputs: list[dict[str, Any]]) -> None:
        """Tell the watch and the metrics; `judged` is over all processes, `inputs` are this one's rows."""
        first = self.accelerator.process_index * len(inputs)
        here = (~judged[first : first + len(inputs)]).nonzero().flatten().tolist()
        example = "; ".join(f"{k}: {v!r}"[:200] for k, v in inputs[here[0]].items()) if here else ""
        missing = int((~judged).sum())
        if self.unjudged is not None and self.model.training:
            self.unjudged.add(missing, len(judged), example)
        self._metrics["train" if self.model.training else "eval"]["frac_unjudged"].append(
            missing / len(judged)
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, with the share of groups without signal corrected (see `share_without_signal`)."""
        scored = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if mode == "train" else self.num_generations_eval
        weights = self.reward_weights.to(self._parts.device)
        self._metrics[mode]["frac_reward_zero_std"][-1] = share_without_signal(self._parts, weights, size)
        return scored

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, then the rollouts of the newest generation if no file has them yet."""
        if self._unwritten and self.guarded:
            logs.update(self._diversity())
        super().log(logs, start_time)
        if self._unwritten and self.rollouts_folder and self.accelerator.is_main_process:
            weights = dict(zip(self.reward_func_names, self.reward_weights.tolist(), strict=True))
            table = rollout_table(self.state.global_step, self._logs, weights)
            self.rollouts_folder.mkdir(parents=True, exist_ok=True)
            table.to_parquet(self.rollouts_folder / f"step_{self.state.global_step:05d}.parquet", index=False)
        self._unwritten = False

    def _diversity(self) -> dict[str, float]:
        """Of the newest generation; accuracy tells which groups may be of one mind."""
        texts = [text_of(completion) for completion in self._logs["completion"]]
        right = self._logs["rewards"].get("accuracy_reward")
        solutions = self._logs["extra"].get("solution")
        return diversity(texts, self.num_generations, list(right) if right else None, solutions)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        generate_every = self.args.steps_per_generation * self.num_iterations
        used_up = self._step % generate_every == 0
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        torch.save(
            {
                "step": self._step,
                "inputs": None if used_up else self._buffered_inputs,
                "chosen": self.chosen_state(),
            },
            folder / BUFFER.format(rank=self.accelerator.process_index),
        )

    def restore_rollouts(self, checkpoint: Path) -> None:
        """Continue counting micro-steps, and with the rollouts, where `checkpoint` was taken."""
        path = Path(checkpoint) / BUFFER.format(rank=self.accelerator.process_index)
        if not path.exists():  # made by fewer processes, with no rollouts in use: see `processes`
            path = Path(checkpoint) / BUFFER.format(rank=0)
        saved = torch.load(path, map_location=str(self.accelerator.device), weights_only=True)
        self._step, self._buffered_inputs = saved["step"], saved["inputs"]
        self.restore_chosen(saved["chosen"])


def share_without_signal(parts: torch.Tensor, weights: torch.Tensor, group_size: int) -> float:
    """Share of groups whose completions all earned the same: they give no gradient.

    TRL 1.16 asks whether a group's standard deviation is 0 within 1e-8. Sixteen times 1.0 + 0.2 has one of
    1e-7 in float32, so its metric said 0.00 for batches of which a quarter had nothing to teach.

    Args:
        parts: rewards [groups * group_size, functions], NaN where a function could not judge.
        weights: of the functions, [functions].
    """
    rewards = (parts * weights).nansum(dim=1)
    unjudged = parts.isnan().all(dim=1)  # they are in no group's baseline
    highest = rewards.masked_fill(unjudged, -torch.inf).view(-1, group_size).amax(dim=1)
    lowest = rewards.masked_fill(unjudged, torch.inf).view(-1, group_size).amin(dim=1)
    return (highest - lowest < 1e-6).float().mean().item()


def rollout_table(step: int, logs: dict[str, Any], weights: dict[str, float]) -> Any:
    """The rollouts TRL kept in `_logs` as a DataFrame.

    Columns: step, prompt (text of the last user message), completion, those of CARRIED that the dataset has,
    reward_<name> for each reward function (without its `_reward` ending), reward (their weighted sum, NaN for
    a row that could not be judged), advantage, tokens.
    """
    import pandas

    columns: dict[str, Any] = {
        "step": step,
        "prompt": [text_of(prompt) for prompt in logs["prompt"]],
        "completion": [text_of(completion) for completion in logs["completion"]],
    }
    extra = {name: list(values) for name, values in logs["extra"].items()}
    columns.update({name: extra.pop(name) for name in CARRIED if name in extra})
    for name, values in logs["rewards"].items():
        columns[f"reward_{name.removesuffix('_reward')}"] = list(values)
    table = pandas.DataFrame(columns)
    parts = pandas.DataFrame(
        {name: table[f"reward_{name.removesuffix('_reward')}"] * weight for name, weight in weights.items()}
    )
    table["reward"] = parts.sum(axis=1, min_count=1)
    table["advantage"] = list(logs["advantages"])
    for name, values in extra.items():
        table[name] = values
    return table


def text_of(conversation: Any) -> str:
    """The text of a prompt or completion: a plain text, or the content of the last message."""
    return conversation if isinstance(conversation, str) else conversation[-1]["content"]
