"""GRPO steps made of chosen groups: prompts from the curriculum, groups without signal replaced.

DAPO (arXiv:2503.14476, section 3.2) samples until a batch holds only prompts whose accuracy is neither 0 nor
1; TRL's synchronous trainer trains on whatever came. Here completions are written and judged before TRL sees
the batch. While groups are missing, others are written in addition, as many at once as the share of useful
ones so far lets expect, within `max_extra`. If some are still missing then, groups without signal fill the
batch: its shape never changes. What is left over is dropped, since in the next step it would be off-policy.

All processes see all groups: they take the same decisions, and each goes on with its own part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object

from r1kit.settings.curriculum import DynamicSamplingSettings
from r1kit.training.curriculum import Curriculum

EQUAL = 1e-6
"""Rewards of a group that differ by less are the same: 16 x (1.0 + 0.2) varies by 1e-7 in float32."""


@dataclass
class Group:
    """The completions of one prompt: what TRL's `_generate` says of them, row by row, and their rewards."""

    prompt: int
    rows: list[tuple]
    parts: torch.Tensor  # [group size, reward functions]
    useful: bool = True


@dataclass
class Prepared:
    """What the next call of TRL's `_generate` and `_calculate_rewards` return instead of working again."""

    rows: list[tuple]
    parts: torch.Tensor
    used: set[str] = field(default_factory=set)


class ChosenRollouts:
    """Mixed into a GRPOTrainer; without `curriculum` and `dynamic_sampling` it changes nothing."""

    curriculum: Curriculum | None = None
    dynamic_sampling: DynamicSamplingSettings | None = None
    useful_share = 1.0
    """Of the groups written lately, those with signal; it says how many to write."""
    _prepared: Prepared | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, on the groups that were chosen."""
        if not self.model.training or (self.curriculum is None and self.dynamic_sampling is None):
            return super()._generate_and_score_completions(inputs)
        size, processes = self.num_generations, self.accelerator.num_processes
        count = len(inputs) * processes // size
        groups = self._write_groups(count, inputs)
        mine = slice(
            self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs)
        )
        rows = [row for group in groups for row in group.rows][mine]
        parts = torch.cat([group.parts for group in groups]).to(self.accelerator.device)
        chosen = [self.train_dataset[group.prompt] for group in groups for _ in range(size)][mine]
        self._prepared = Prepared(rows, parts)
        try:
            return super()._generate_and_score_completions(chosen)
        finally:
            self._prepared = None

    def _write_groups(self, count: int, inputs: list[dict[str, Any]]) -> list[Group]:
        """`count` groups for this step, those with signal first."""
        step, processes = self.state.global_step, self.accelerator.num_processes
        asked: list[int] = []
        groups: list[Group] = []
        most = count + (int(count * self.dynamic_sampling.max_extra) if self.dynamic_sampling else 0)
        rounds = 0
        while True:
            useful = sum(group.useful for group in groups)
            wanted = count if not rounds else math.ceil((count - useful) / max(self.useful_share, 0.1))
            # Every process writes the same number of whole groups.
            wanted = min(math.ceil(wanted / processes) * processes, most - len(groups))
            if wanted < processes or (rounds and useful >= count):
                break
            prompts = self._choose(wanted - wanted % processes, step, rounds, asked)
            groups += self._write(prompts)
            asked += prompts
            rounds += 1
            if self.dynamic_sampling is None:
                break
        self._learn(groups, count, rounds)
        return sorted(groups, key=lambda group: not group.useful)[:count]

    def _choose(self, count: int, step: int, part: int, asked: list[int]) -> list[int]:
        if self.curriculum is None:
            raise ValueError("prompts are chosen by a curriculum; strategy `none` draws them at random")
        return self.curriculum.choose(count, step, part, asked)

    def _write(self, prompts: list[int]) -> list[Group]:
        """Completions and rewards of groups, written by all processes together; all get all of them."""
        size, processes, rank = (
            self.num_generations,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        share = len(prompts) // processes
        own = [self.train_dataset[prompt] for prompt in prompts[rank * share : (rank + 1) * share]]
        inputs = [row for row in own for _ in range(size)]
        texts = [row["prompt"] for row in inputs]
        prompt_ids, completion_ids, _, completions, logprobs, *_ = self._generate(texts)
        parts = self._judge(inputs, texts, completions, completion_ids)[0].cpu()
        logprobs = logprobs if logprobs is not None else [None] * len(inputs)
        rows = gather_object(list(zip(prompt_ids, completion_ids, completions, logprobs, strict=True)))
        weights = self.reward_weights.cpu()
        groups = []
        for index, prompt in enumerate(prompts):
            place = slice(index * size, (index + 1) * size)
            rewards = (parts[place] * weights).nansum(dim=1)[~parts[place].isnan().all(dim=1)]
            useful = len(rewards) > 1 and (rewards.max() - rewards.min()).item() > EQUAL
            groups.append(Group(prompt, rows[place], parts[place], useful))
        return groups

    def _learn(self, groups: list[Group], count: int, rounds: int) -> None:
        """Tell curriculum and metrics what was found."""
        metrics = self._metrics["train"]
        useful = sum(group.useful for group in groups)
        if self.curriculum is not None:
            column = self.reward_func_names.index(f"{self.curriculum.settings.reward}_reward")
            rates = [group.parts[:, column].nanmean().item() for group in groups]
            known = [(g.prompt, rate) for g, rate in zip(groups, rates, strict=True) if not math.isnan(rate)]
            prompts = [prompt for prompt, _ in known]
            self.curriculum.update(prompts, [rate for _, rate in known])
            for name, value in self.curriculum.metrics([group.prompt for group in groups]).items():
                metrics[name].append(value)
        if self.dynamic_sampling is not None:
            first = groups[:count]
            self.useful_share = 0.5 * self.useful_share + 0.5 * useful / len(groups)
            tokens = [sum(len(row[1]) for row in group.rows) for group in groups]
            metrics["dynamic/useful_before"].append(sum(group.useful for group in first) / count)
            metrics["dynamic/useful_after"].append(min(useful, count) / count)
            metrics["dynamic/rounds"].append(float(rounds))
            metrics["dynamic/extra_groups"].append((len(groups) - count) / count)
            metrics["dynamic/extra_tokens"].append(sum(tokens) / max(sum(tokens[:count]), 1) - 1)

    def _generate(self, prompts: list[Any]) -> Any:
        """TRL's, or what was written before."""
        if self._prepared is None or "rows" in self._prepared.used:
            return super()._generate(prompts)
        self._prepared.used.add("rows")
        prompt_ids, completion_ids, completions, logprobs = map(list, zip(*self._prepared.rows, strict=True))
        return (
            prompt_ids,
            completion_ids,
            None,
            completions,
            None if logprobs[0] is None else logprobs,
            {},
            None,
            [],
        )

    def _judge(
        self, inputs: list, prompts: list, completions: list, completion_ids: list
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards [N, F] over all processes and which rows were judged [N], once for each group."""
        if self._prepared is None:
            return self._judge_anew(inputs, prompts, completions, completion_ids)
        return self._prepared.parts, ~self._prepared.parts.isnan().all(dim=1)

    def chosen_state(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON."""
        return {"useful_share": self.useful_share, "curriculum": self.curriculum and self.curriculum.state()}

    def restore_chosen(self, state: dict[str, Any]) -> None:
        """Go on from `chosen_state()`."""
        self.useful_share = state["useful_share"]
        if self.curriculum is not None and state["curriculum"]:
            self.curriculum.restore(state["curriculum"])
