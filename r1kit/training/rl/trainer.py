"""TRL's GRPOTrainer with dynamic sampling, a curriculum, rollouts on disk and exact resume.

The calls of a training step in order; `*` marks what this module adds or changes, the rest is TRL 1.16's:

      training_step
        _prepare_inputs                           every micro-step; it generates once for several of them
    *     _generate_and_score_completions
            without a curriculum: TRL's, on the prompts of the dataloader. With a curriculum:
    *       _sample_groups                        rounds of groups, until enough of them have a gradient
              Curriculum.choose                   which prompts
    *         _sample_round                       their completions, and a score per completion and reward
    *       _update_curriculum, _log_sampling     from all sampled groups
            TRL's, with the chosen completions and their scores (`rollout_func`)
              _generate
    *           _generate_single_turn             within the length limit of this step; vLLM or transformers
    *         _calculate_rewards                  scores the completions, or takes the scores they have
    *   _compute_loss                             skips rows with zero advantage
    * log                                         writes rollouts/step_%05d.parquet
    * _save_checkpoint                            adds the rollouts in use and the curriculum's state

**Dynamic sampling.** DAPO (arXiv:2503.14476, section 3.2) samples until a batch holds only prompts with an
accuracy other than 0 and 1; TRL's synchronous trainer trains on the first batch. Here each round oversamples
by the recent share of groups with a gradient, since a larger batch hardly takes longer than a small one;
`max_extra` bounds all rounds together. Surplus groups are dropped: in the next step they would be off-policy.
If some are still missing, groups without a gradient fill the batch, so its shape never changes. All processes
see all groups and make the same decisions, and each trains on its own part. TRL's metrics (`reward`,
`completions/...`) describe the batch that is trained on; `num_tokens` counts all tokens.

**Zero advantage.** A group with equal rewards has advantages of 0 and adds nothing to the gradient, but TRL
computes it. With dynamic sampling only rows with an advantage go through the model, and the loss is scaled to
what it would be with all of them: the gradient is the same except for rounding. The metrics that TRL computes
on the way (`entropy`, `clip_ratio/...`) then describe these rows only. Rows are not skipped if they have a
gradient of another kind (a KL term, an entropy bonus, the load-balancing loss of experts) or if other rows
decide which tokens count (`top_entropy_quantile`).

**Resume.** TRL keeps the rollouts in use in memory only; after a resume it would generate again, and with
several epochs draw prompts in another order. Both are repaired here, so a checkpoint may be taken after any
step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from r1kit.settings.training import DynamicSamplingSettings, LengthStage
from r1kit.training.resume import ExactResume
from r1kit.training.rl.curriculum import Curriculum, length_limit
from r1kit.training.rl.guards import UnscoredWatch, diversity
from r1kit.training.rl.vllm_rollouts import VLLMRollouts
from r1kit.training.watchdog import Stopped

BUFFER = "rollout_buffer_{rank}.pt"
CARRIED = ("solution", "level", "pass_rate")
"""Dataset columns that go into the rollout files."""

SCORES = "r1kit_scores"
"""The key of rows that are scored already, with their scores; no dataset has such a column."""

EQUAL_REWARDS = 1e-6
"""Rewards of a group that differ by less are equal: in float32, 16 x (1.0 + 0.2) has a deviation of 1e-7, and
TRL would give such a group advantages of a thousandth."""

MEAN_OVER_ROWS = ("grpo", "sapo", "dr_grpo", "luspo")
"""Losses that TRL averages over the rows of a batch. Of the others, `bnpo` divides by the batch's tokens, and
the rest by the tokens of the whole step, which are counted before."""


@dataclass
class Group:
    """The completions of one prompt, which GRPO compares with each other, and their rewards.

    Attributes:
        prompt: its index in the dataset.
        rows: prompt ids, completion ids, text and log-probabilities of each completion, in TRL's form.
        scores: [group size, reward functions], NaN where a function could not score.
        rewards: weighted sums of the completions that were scored.
    """

    prompt: int
    rows: list[tuple]
    scores: torch.Tensor
    rewards: torch.Tensor

    @property
    def useful(self) -> bool:
        """Whether the rewards differ, so that the group gives a gradient."""
        return len(self.rewards) > 1 and (self.rewards.max() - self.rewards.min()).item() > EQUAL_REWARDS

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions."""
        return sum(len(row[1]) for row in self.rows)

    @property
    def all_tokens(self) -> int:
        """Tokens of all completions, each with the prompt."""
        return sum(len(row[0]) + len(row[1]) for row in self.rows)


class GrpoTrainer(VLLMRollouts, ExactResume, GRPOTrainer):
    """GRPOTrainer as the module's docstring describes it; with no attribute set it behaves as TRL's.

    Its reward functions are those of `r1kit.rewards.get_rewards`. A completion that one of them could not
    score is left out of the gradient and counted (`frac_unjudged`).

    Attributes:
        curriculum: chooses the prompts; dynamic sampling needs one, at least of strategy "none".
        dynamic_sampling: replaces groups without a gradient.
        length_curriculum: stages of the longest completion, the first from step 0.
        rollouts_folder: where `step_%05d.parquet` are written.
        unscored: counts the completions that could not be scored.
        log_diversity: adds the metrics of `guards.diversity` to each logged row.
        useful_share: of the groups sampled lately, the share with a gradient.
    """

    curriculum: Curriculum | None = None
    dynamic_sampling: DynamicSamplingSettings | None = None
    length_curriculum: Sequence[LengthStage] = ()
    rollouts_folder: Path | None = None
    unscored: UnscoredWatch | None = None
    log_diversity = False
    useful_share = 1.0
    _unwritten = False  # rollouts were generated and no file has them yet

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    # Prompts, completions and scores

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

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Return TRL's batch, made of chosen groups if there is a curriculum.

        Raises:
            ValueError: with a curriculum, this process's rows are not a whole number of groups.
        """
        if self.model.training and self.curriculum is not None:
            batch = self._generate_and_score_chosen(len(inputs))
        else:
            batch = super()._generate_and_score_completions(inputs)
        size = self.num_generations if self.model.training else self.num_generations_eval
        share = share_without_signal(self._scores, self.reward_weights.to(self._scores.device), size)
        self._metrics[self._mode]["frac_reward_zero_std"][-1] = share
        return batch

    def _generate_and_score_chosen(self, rows_here: int) -> dict[str, Any]:
        """Return TRL's batch of this process's rows, made of groups that are sampled and chosen before."""
        size, rank = self.num_generations, self.accelerator.process_index
        if rows_here % size:
            raise ValueError(
                f"each process holds {rows_here} completions: not a whole number of groups of {size}"
            )
        try:
            groups = self._sample_groups(rows_here * self.accelerator.num_processes // size)
        except Stopped:
            self._save_before_stopping()
            raise
        local = slice(rank * rows_here, (rank + 1) * rows_here)
        rows = [row for group in groups for row in group.rows][local]
        prompt_ids, completion_ids, _, logprobs = map(list, zip(*rows, strict=True))
        self.state.num_input_tokens_seen -= sum(g.all_tokens for g in groups)  # TRL counts them once more
        # TRL copies keys that it does not know into the rows that it passes to _calculate_rewards.
        self.rollout_func = lambda prompts, trainer: {
            "prompt_ids": prompt_ids,
            "completion_ids": completion_ids,
            "logprobs": None if logprobs[0] is None else logprobs,
            SCORES: torch.cat([group.scores for group in groups])[local].tolist(),
        }
        try:
            inputs = [self.train_dataset[group.prompt] for group in groups for _ in range(size)][local]
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self.rollout_func = None
        useful = torch.tensor([group.useful for group in groups for _ in range(size)])[local]
        batch["advantages"] = batch["advantages"] * useful.to(batch["advantages"].device)
        return batch

    def _sample_groups(self, count: int) -> list[Group]:
        """Sample until `count` groups have a gradient or the bound is met; return `count`, those first."""
        processes, dynamic = self.accelerator.num_processes, self.dynamic_sampling
        generation = self._step // (self.args.steps_per_generation * self.num_iterations)
        most = count + (int(count * dynamic.max_extra) if dynamic else 0)
        most = max(count, min(most, len(self.curriculum.pools)))
        groups: list[Group] = []
        rounds = useful = 0
        while useful < count:
            share = self.useful_share if dynamic else 1.0
            wanted = math.ceil((count - useful) / max(share, 0.1))
            # Every process samples the same number of whole groups.
            wanted = min(math.ceil(wanted / processes), (most - len(groups)) // processes) * processes
            if wanted == 0:
                break
            sampled = [group.prompt for group in groups]
            groups += self._sample_round(self.curriculum.choose(wanted, generation, rounds, sampled))
            rounds += 1
            useful = sum(group.useful for group in groups)
        batch = sorted(groups, key=lambda group: not group.useful)[:count]
        self._update_curriculum(groups)
        if dynamic is not None:
            self._log_sampling(groups, batch, rounds)
        return batch

    def _sample_round(self, prompts: list[int]) -> list[Group]:
        """Return one scored group per prompt; all processes sample a part of them and receive all."""
        size, rank = self.num_generations, self.accelerator.process_index
        share = len(prompts) // self.accelerator.num_processes
        rows = [self.train_dataset[prompt] for prompt in prompts[rank * share : (rank + 1) * share]]
        inputs = [row for row in rows for _ in range(size)]
        texts = [row["prompt"] for row in inputs]
        metrics = self._metrics["train"]
        before = {name: list(metrics[name]) for name in metrics if name.startswith("completions/")}
        prompt_ids, completion_ids, _, completions, logprobs, *_ = self._generate(texts)
        for name in [name for name in metrics if name.startswith("completions/")]:
            metrics[name] = before.get(name, [])  # they come from the batch that is trained on
        scores = self._score(inputs, texts, completions, completion_ids)[0].cpu()
        logprobs = logprobs if logprobs is not None else [None] * len(inputs)
        rows = gather_object(list(zip(prompt_ids, completion_ids, completions, logprobs, strict=True)))
        groups = []
        for index, prompt in enumerate(prompts):
            part = slice(index * size, (index + 1) * size)
            scored = scores[part][~scores[part].isnan().all(dim=1)]
            rewards = (scored * self.reward_weights.cpu()).nansum(dim=1)
            groups.append(Group(prompt, rows[part], scores[part], rewards))
        return groups

    def _update_curriculum(self, groups: list[Group]) -> None:
        """Pass the groups' pass rates to the curriculum and log its metrics."""
        metrics, prompts = self._metrics["train"], [group.prompt for group in groups]
        column = f"{self.curriculum.settings.reward}_reward"
        if column in self.reward_func_names:
            index = self.reward_func_names.index(column)
            rates = [(group.prompt, group.scores[:, index].nanmean().item()) for group in groups]
            known = [(prompt, rate) for prompt, rate in rates if not math.isnan(rate)]
            self.curriculum.update([prompt for prompt, _ in known], [rate for _, rate in known])
        for name, value in self.curriculum.metrics(prompts).items():
            metrics[name].append(value)
        if "level" in self.train_dataset.column_names:
            levels = self.train_dataset[prompts]["level"]
            metrics["curriculum/level_mean"].append(sum(levels) / len(levels))

    def _log_sampling(self, groups: list[Group], batch: list[Group], rounds: int) -> None:
        """Update the share of useful groups and log `dynamic/...`; `batch` are the groups trained on."""
        useful, count = sum(group.useful for group in groups), len(batch)
        self.useful_share = 0.5 * self.useful_share + 0.5 * useful / len(groups)
        first, sampled = groups[:count], sum(group.completion_tokens for group in groups)
        trained = [group for group in batch if group.useful or not self._skips_zero_advantage]
        found = {
            "useful_before": sum(group.useful for group in first) / count,
            "useful_after": min(useful, count) / count,
            "reward_before": torch.cat([group.rewards for group in first]).mean().item(),
            "rounds": float(rounds),
            "extra_groups": (len(groups) - count) / count,
            "extra_tokens": sampled / max(sum(group.completion_tokens for group in first), 1) - 1,
            "trained_share": sum(group.all_tokens for group in trained)
            / sum(group.all_tokens for group in groups),
        }
        for name, value in found.items():
            self._metrics["train"][f"dynamic/{name}"].append(value)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as TRL does, within this step's length limit; evaluations get the last stage's.

        Short limits first save most of the generation while answers are still short (DeepScaleR trained at
        8k, 16k, then 24k tokens). Only the limit of generation changes. `dr_grpo` still divides by
        `max_completion_length`, the last stage's, so a new stage does not change the size of a step; with a
        smaller max_completion_length for TRL, a step would halve where the length doubles. Rewards that
        shape lengths use the last stage's too.
        """
        if self.length_curriculum:
            limit = self.max_completion_length
            if self.model.training:
                limit = length_limit(self.length_curriculum, self.state.global_step)
            if self.use_vllm:
                self.vllm_generation.max_completion_length = limit
            else:
                self.generation_config.max_new_tokens = self.generation_kwargs["max_new_tokens"] = limit
            self._metrics[self._mode]["curriculum/max_completion_length"].append(float(limit))
        return super()._generate_single_turn(*args, **kwargs)

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[Any],
    ) -> torch.Tensor:
        """Return the scores [N, F] over all processes, and keep the columns that the rollout files add.

        A score is NaN if the function returned None, and in every column of a row that must not be trained
        on.
        """
        self._unwritten = self.model.training
        for column in CARRIED:
            if column in inputs[0]:
                self._log_completion_extra(column, [example[column] for example in inputs])
        self._log_completion_extra("tokens", [len(ids) for ids in completion_ids_list])
        if SCORES in inputs[0]:
            local_scores = [example.pop(SCORES) for example in inputs]
            self._scores = gather(torch.tensor(local_scores, device=self.accelerator.device))
            scored = ~self._scores.isnan().all(dim=1)
        else:
            self._scores, scored = self._score(inputs, prompts, completions, completion_ids_list)
        self._count_unscored(scored, inputs)
        return self._scores

    def _score(
        self, inputs: list[dict[str, Any]], prompts: list, completions: list, completion_ids: list
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Call the reward functions; return the result of `mask_unscored`, over all processes."""
        scores = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        columns = {name: [example[name] for example in inputs] for name in inputs[0]}
        local = [function.applies(len(inputs), columns) for function in self.reward_funcs]
        applies = gather(torch.tensor(local, device=scores.device).T.contiguous())
        verifies = torch.tensor(
            [bool(function.needs) for function in self.reward_funcs], device=scores.device
        )
        return mask_unscored(scores, applies, verifies)

    def _count_unscored(self, scored: torch.Tensor, inputs: list[dict[str, Any]]) -> None:
        """Count for the watch and the metrics; `scored` covers all processes, `inputs` this one's rows."""
        first = self.accelerator.process_index * len(inputs)
        here = (~scored[first : first + len(inputs)]).nonzero().flatten().tolist()
        example = "; ".join(f"{k}: {v!r}"[:200] for k, v in inputs[here[0]].items()) if here else ""
        missing = int((~scored).sum())
        if self.unscored is not None and self.model.training:
            self.unscored.add(missing, len(scored), example)
        self._metrics[self._mode]["frac_unjudged"].append(missing / len(scored))

    # Loss

    @property
    def _skips_zero_advantage(self) -> bool:
        """With dynamic sampling, whether rows without an advantage have no gradient at all."""
        extra = self._entropy_bonus_enabled or self.aux_loss_enabled
        plain = self.beta == 0.0 and not extra and self.top_entropy_quantile == 1.0
        return plain and self.dynamic_sampling is not None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Compute TRL's loss of the rows with an advantage; of one row if none has one."""
        if not (model.training and self._skips_zero_advantage):
            return super()._compute_loss(model, inputs)
        rows = inputs["advantages"].nonzero().flatten()
        rows = rows if len(rows) else torch.zeros(1, dtype=torch.long, device=rows.device)
        kept = select_rows(inputs, rows)
        share: float | torch.Tensor = 1.0
        if self.loss_type in MEAN_OVER_ROWS:
            share = len(kept["advantages"]) / len(inputs["advantages"])
        elif self.loss_type == "bnpo":
            share = kept["completion_mask"].sum() / inputs["completion_mask"].sum().clamp(min=1)
        return super()._compute_loss(model, kept) * share

    # Rollout files and checkpoints

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, then write the rollouts of the newest generation if no file has them yet."""
        if self._unwritten and self.log_diversity:
            texts = [text_of(completion) for completion in self._logs["completion"]]
            right = self._logs["rewards"].get("accuracy_reward")
            solutions = self._logs["extra"].get("solution")
            logs.update(diversity(texts, self.num_generations, list(right) if right else None, solutions))
        super().log(logs, start_time)
        if self._unwritten and self.rollouts_folder and self.accelerator.is_main_process:
            weights = dict(zip(self.reward_func_names, self.reward_weights.tolist(), strict=True))
            table = rollout_table(self.state.global_step, self._logs, weights)
            self.rollouts_folder.mkdir(parents=True, exist_ok=True)
            table.to_parquet(self.rollouts_folder / f"step_{self.state.global_step:05d}.parquet", index=False)
        self._unwritten = False

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        generate_every = self.args.steps_per_generation * self.num_iterations
        used_up = self._step % generate_every == 0
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        saved = {
            "step": self._step,
            "inputs": None if used_up else self._buffered_inputs,
            "chosen": self.sampling_state(),
        }
        torch.save(saved, folder / BUFFER.format(rank=self.accelerator.process_index))

    def restore_own_state(self, checkpoint: Path) -> None:
        """Continue with the micro-step, the rollouts and the curriculum of `checkpoint`."""
        path = Path(checkpoint) / BUFFER.format(rank=self.accelerator.process_index)
        if not path.exists():  # fewer processes made it, with no rollouts in use: checkpoints.check_resume
            path = Path(checkpoint) / BUFFER.format(rank=0)
        saved = torch.load(path, map_location=str(self.accelerator.device), weights_only=True)
        self._step, self._buffered_inputs = saved["step"], saved["inputs"]
        self.restore_sampling(saved["chosen"])

    def sampling_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of curriculum and dynamic sampling, as JSON."""
        return {"useful_share": self.useful_share, "curriculum": self.curriculum and self.curriculum.state()}

    def restore_sampling(self, state: dict[str, Any]) -> None:
        """Continue from `sampling_state()`."""
        self.useful_share = state["useful_share"]
        if self.curriculum is not None and state["curriculum"]:
            self.curriculum.restore(state["curriculum"])


class EpochRepeatSampler(RepeatSampler):
    """TRL's sampler, with an order that depends only on seed and epoch, not on how often it was read."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def mask_unscored(
    scores: torch.Tensor, applies: torch.Tensor, verifies: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (scores with NaN in every row that must not be trained on, which rows were scored [N]).

    The rule of `rewards.registry.is_judged`, for a whole batch.

    Args:
        scores: [N, F], NaN where a reward function gave None.
        applies: bool [N, F], whether the reward applies to the row.
        verifies: bool [F], whether the reward compares with a column of the dataset.
    """
    silent = (scores.isnan() & applies).any(dim=1)
    verified = (applies & verifies).any(dim=1) | ~verifies.any()
    scored = verified & ~silent
    return torch.where(scored[:, None], scores, torch.nan), scored


def share_without_signal(scores: torch.Tensor, weights: torch.Tensor, group_size: int) -> float:
    """Return the share of groups with equal rewards, which give no gradient.

    TRL 1.16 checks whether a group's standard deviation is 0 within 1e-8 (see EQUAL_REWARDS), so its metric
    was 0.00 for batches in which a quarter of the groups had equal rewards.

    Args:
        scores: [groups * group_size, functions], NaN where a function could not score.
        weights: of the functions, [functions].
    """
    rewards = (scores * weights).nansum(dim=1)
    unscored = scores.isnan().all(dim=1)  # they are in no group's baseline
    highest = rewards.masked_fill(unscored, -torch.inf).view(-1, group_size).amax(dim=1)
    lowest = rewards.masked_fill(unscored, torch.inf).view(-1, group_size).amin(dim=1)
    return (highest - lowest < EQUAL_REWARDS).float().mean().item()


def select_rows(inputs: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """Return a batch with some of its rows, [N] indices; values that are not tensors over rows stay."""
    count = len(inputs["advantages"])
    return {
        name: value[rows] if torch.is_tensor(value) and value.dim() and len(value) == count else value
        for name, value in inputs.items()
    }


def rollout_table(step: int, logs: dict[str, Any], weights: dict[str, float]) -> Any:
    """Return the rollouts that TRL kept in `_logs` as a DataFrame.

    Columns: step, prompt (text of the last user message), completion, the columns of CARRIED that the dataset
    has, reward_<name> for each reward function (without its `_reward` ending), reward (their weighted sum,
    NaN for a row that could not be scored), advantage, tokens.
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
    weighted = {name: table[f"reward_{name.removesuffix('_reward')}"] * w for name, w in weights.items()}
    table["reward"] = pandas.DataFrame(weighted).sum(axis=1, min_count=1)
    table["advantage"] = list(logs["advantages"])
    for name, values in extra.items():
        table[name] = values
    return table


def text_of(conversation: Any) -> str:
    """Return the text of a prompt or completion: a plain text, or the content of the last message."""
    return conversation if isinstance(conversation, str) else conversation[-1]["content"]
