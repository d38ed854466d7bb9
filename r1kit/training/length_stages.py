"""Completions that may grow longer in stages: `curriculum: {strategy: length}` in grpo.yaml.

Short limits first save most of the generation while answers are still short (DeepScaleR trained at 8k, 16k,
then 24k tokens). Only the limit of generation changes. The constant by which `dr_grpo` divides stays
`max_completion_length`, the last stage's, so a new stage does not change the size of a step; TRL, told
another max_completion_length, would halve it where the length doubles. The other losses divide by tokens
(`dapo`, `bnpo`, `cispo`) or by each completion's (`grpo`): there a new stage changes nothing but the lengths.
Rewards that shape lengths go by the last stage too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1kit.settings.curriculum import LengthStage


def limit_at(stages: Sequence[LengthStage], step: int) -> int:
    """Longest completion in the stage that `step` belongs to; stages are in order, the first from step 0."""
    return [stage.max_completion_length for stage in stages if stage.step <= step][-1]


class LengthStages:
    """Mixed into a GRPOTrainer; without `length_stages` it changes nothing."""

    length_stages: Sequence[LengthStage] = ()

    def _generate(self, prompts: list[Any]) -> Any:
        """TRL's, within the limit of this step's stage; evaluations are given the last one's."""
        if not self.length_stages:
            return super()._generate(prompts)
        training = self.model.training
        limit = (
            limit_at(self.length_stages, self.state.global_step) if training else self.max_completion_length
        )
        if self.use_vllm:
            self.vllm_generation.max_completion_length = limit
        else:
            self.generation_config.max_new_tokens = self.generation_kwargs["max_new_tokens"] = limit
        self._metrics["train" if training else "eval"]["curriculum/max_completion_length"].append(
            float(limit)
        )
        return super()._generate(prompts)
