"""GRPO steps made of chosen groups: prompts from the curriculum, groups without signal replaced.

DAPO (arXiv:2503.14476, section 3.2) samples until a batch holds only prompts whose accuracy is neither 0 nor
1; TRL's synchronous trainer trains on whatever came. Here completions are written and judged before TRL sees
the batch. As many groups are written at once as the share of useful ones so far lets expect to be needed,
since a larger batch takes hardly longer than a small one, and while groups are missing, more, all within
`max_extra`. What is left over is dropped, since in the next step it would be off-policy. If some are still
missing then, groups without signal fill the batch, whose shape never changes, and `gradient_rows` leaves them
out of the gradient's work.

All processes see all groups: they take the same decisions, and each goes on with its own part. TRL's
metrics (`reward`, `completions/...`) are about the batch that is trained on; `num_tokens` counts all tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object

from r1kit.settings.curriculum import DynamicSamplingSettings
from r1kit.training.curriculum import Curriculum
from r1kit.training.gradient_rows import GradientRows
from r1kit.training.groups import Group, completion_metrics


@dataclass
class Prepared:
    """What TRL's `_generate` and `_calculate_rewards` return next instead of working again."""

    groups: list[Group]
    own: slice  # this process's rows


class ChosenRollouts(GradientRows):
    """Mixed into a GRPOTrainer; without a curriculum it changes nothing (dynamic sampling needs one)."""

    curriculum: Curriculum | None = None
    dynamic_sampling: DynamicSamplingSettings | None = None
    useful_share = 1.0
    """Of the groups written lately, those with signal; it says how many to write."""
    _prepared: Prepared | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, on the groups that were chosen.

        Raises:
            ValueError: a process's rows are no whole number of groups.
        """
        if not self.model.training or self.curriculum is None:
            return super()._generate_and_score_completions(inputs)
        size, here = self.num_generations, len(inputs)
        if here % size:
            raise ValueError(f"each process holds {here} completions: no whole number of groups of {size}")
        groups = self._write_groups(here * self.accelerator.num_processes // size)
        own = slice(self.accelerator.process_index * here, (self.accelerator.process_index + 1) * here)
        chosen = [self.train_dataset[group.prompt] for group in groups for _ in range(size)][own]
        self._prepared = Prepared(groups, own)
        try:
            scored = super()._generate_and_score_completions(chosen)
        finally:
            self._prepared = None
        # Sixteen times 1.0 + 0.2 differ by rounding, and TRL gives them advantages of a thousandth.
        useful = torch.tensor([group.useful for group in groups for _ in range(size)])[own]
        scored["advantages"] = scored["advantages"] * useful.to(scored["advantages"].device)
        return scored

    def _write_groups(self, count: int) -> list[Group]:
        """`count` groups for this generation, those with signal first."""
        processes, dynamic = self.accelerator.num_processes, self.dynamic_sampling
        number = self._step // (self.args.steps_per_generation * self.num_iterations)
        most = count + (int(count * dynamic.max_extra) if dynamic else 0)
        most = max(count, min(most, len(self.curriculum.pools)))
        asked: list[int] = []
        groups: list[Group] = []
        rounds, useful = 0, 0
        while useful < count:
            share = self.useful_share if dynamic else 1.0
            wanted = math.ceil((count - useful) / max(share, 0.1))
            # Every process writes the same number of whole groups.
            wanted = min(math.ceil(wanted / processes), (most - len(groups)) // processes) * processes
            if wanted == 0:
                break
            prompts = self.curriculum.choose(wanted, number, rounds, asked)
            groups += self._write(prompts)
            asked += prompts
            rounds += 1
            useful = sum(group.useful for group in groups)
        batch = sorted(groups, key=lambda group: not group.useful)[:count]
        self._learn(groups, batch, rounds)
        return batch

    def _write(self, prompts: list[int]) -> list[Group]:
        """Completions and rewards of groups, written by all processes together; all get all of them."""
        size, rank = self.num_generations, self.accelerator.process_index
        share = len(prompts) // self.accelerator.num_processes
        own = [self.train_dataset[prompt] for prompt in prompts[rank * share : (rank + 1) * share]]
        inputs = [row for row in own for _ in range(size)]
        texts = [row["prompt"] for row in inputs]
        metrics = self._metrics["train"]
        before = {name: list(metrics[name]) for name in metrics if name.startswith("completions/")}
        prompt_ids, completion_ids, _, completions, logprobs, *_ = self._generate(texts)
        for name in [name for name in metrics if name.startswith("completions/")]:
            metrics[name] = before.get(name, [])  # they come from the batch that is trained on
        parts = self._judge(inputs, texts, completions, completion_ids)[0].cpu()
        logprobs = logprobs if logprobs is not None else [None] * len(inputs)
        rows = gather_object(list(zip(prompt_ids, completion_ids, completions, logprobs, strict=True)))
        groups = []
        for index, prompt in enumerate(prompts):
            place = slice(index * size, (index + 1) * size)
            judged = parts[place][~parts[place].isnan().all(dim=1)]
            rewards = (judged * self.reward_weights.cpu()).nansum(dim=1)
            groups.append(Group(prompt, rows[place], parts[place], rewards))
        return groups

    def _learn(self, groups: list[Group], batch: list[Group], rounds: int) -> None:
        """Tell curriculum and metrics what was found; `batch` are the groups that the step is made of."""
        metrics = self._metrics["train"]
        column = f"{self.curriculum.settings.reward}_reward"
        if column in self.reward_func_names:
            place = self.reward_func_names.index(column)
            rates = [(g.prompt, g.parts[:, place].nanmean().item()) for g in groups]
            known = [(prompt, rate) for prompt, rate in rates if not math.isnan(rate)]
            self.curriculum.update([prompt for prompt, _ in known], [rate for _, rate in known])
        served = [group.prompt for group in groups]
        for name, value in self.curriculum.metrics(served).items():
            metrics[name].append(value)
        if "level" in self.train_dataset.column_names:
            levels = self.train_dataset[served]["level"]
            metrics["curriculum/level_mean"].append(sum(levels) / len(levels))
        if self.dynamic_sampling is None:
            return
        useful, count = sum(group.useful for group in groups), len(batch)
        self.useful_share = 0.5 * self.useful_share + 0.5 * useful / len(groups)
        first, written = groups[:count], sum(group.tokens for group in groups)
        left_out = self.leave_out and self.only_advantages_count()
        trained = [group for group in batch if group.useful or not left_out]
        found = {
            "useful_before": sum(group.useful for group in first) / count,
            "useful_after": min(useful, count) / count,
            "reward_before": torch.cat([group.rewards for group in first]).mean().item(),
            "rounds": float(rounds),
            "extra_groups": (len(groups) - count) / count,
            "extra_tokens": written / max(sum(group.tokens for group in first), 1) - 1,
            "trained_share": sum(group.all_tokens for group in trained)
            / sum(group.all_tokens for group in groups),
        }
        for name, value in found.items():
            metrics[f"dynamic/{name}"].append(value)

    def _generate(self, prompts: list[Any]) -> Any:
        """TRL's, or what was written before."""
        if self._prepared is None:
            return super()._generate(prompts)
        rows = [row for group in self._prepared.groups for row in group.rows]
        stops = [*self.eos_token_ids, self._tokenizer.pad_token_id]
        for name, value in completion_metrics([row[1] for row in rows], stops).items():
            self._metrics["train"][name].append(value)
        columns = map(list, zip(*rows[self._prepared.own], strict=True))
        prompt_ids, completion_ids, completions, logprobs = columns
        logprobs = None if logprobs[0] is None else logprobs
        return prompt_ids, completion_ids, None, completions, logprobs, {}, None, []

    def _judge(
        self, inputs: list, prompts: list, completions: list, completion_ids: list
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards [N, F] over all processes and which rows were judged [N], once for each completion."""
        if self._prepared is None:
            return self._judge_anew(inputs, prompts, completions, completion_ids)
        parts = torch.cat([group.parts for group in self._prepared.groups]).to(self.accelerator.device)
        return parts, ~parts.isnan().all(dim=1)

    def chosen_state(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON."""
        return {"useful_share": self.useful_share, "curriculum": self.curriculum and self.curriculum.state()}

    def restore_chosen(self, state: dict[str, Any]) -> None:
        """Go on from `chosen_state()`."""
        self.useful_share = state["useful_share"]
        if self.curriculum is not None and state["curriculum"]:
            self.curriculum.restore(state["curriculum"])
