"""base.yaml, sft.yaml, grpo.yaml: our own keys, which stand beside those of TRL and transformers.

What TRL and transformers already name is not repeated here: see `trl_keys`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from r1kit.settings.algorithms import AlgorithmName
from r1kit.settings.curriculum import CurriculumSettings, DynamicSamplingSettings
from r1kit.settings.guards import GuardSettings
from r1kit.settings.rewards import AnyReward
from r1kit.settings.strict import Positive, Settings


class TrainerFile(Settings):
    """A flat file: a few keys of ours beside those of a trainer configuration and ModelConfig.

    `.trl` holds the trainer's keys and `.model` ModelConfig's, both only as far as the file gives them.
    """

    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="`muon`: Muon for 2-D weights, AdamW for embeddings and norms."
    )
    muon_learning_rate: float = Field(
        default=0.02, gt=0, description="Muon's learning rate; `learning_rate` stays AdamW's."
    )
    alone: bool = Field(
        default=False,
        description="Train in one process, not in accelerate.yaml's: Muon needs the matrices that ZeRO cuts.",
    )
    _trl: dict[str, Any] = PrivateAttr(default_factory=dict)
    _model: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def trl(self) -> dict[str, Any]:
        """Keys of the trainer configuration given in the file."""
        return dict(self._trl)

    @property
    def model(self) -> dict[str, Any]:
        """Keys of TRL's ModelConfig given in the file."""
        return dict(self._model)

    def flat(self) -> dict[str, Any]:
        """The mapping as it would stand in the file, our defaults filled in."""
        return {**self._model, **self._trl, **self.model_dump(mode="json")}


class Architecture(Settings):
    """The base model's shape, in the names of transformers' Qwen2Config."""

    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    max_position_embeddings: Positive
    tie_word_embeddings: bool


class BaseSettings(TrainerFile):
    """base.yaml: a base model made from random weights; a profile that starts from a given model has none."""

    architecture: Architecture = Field(description="Shape of the model.")
    max_length: int | None = Field(
        default=None, ge=2, description="Tokens of a training row; empty takes max_position_embeddings."
    )


class SftSettings(TrainerFile):
    """sft.yaml: distillation, the student imitates the teacher's traces."""

    row_packing: bool = Field(
        default=False,
        description="Pack traces into rows [B, L] with restarting position_ids: block-diagonal everywhere.",
    )


class Collapse(Settings):
    """The lesson's failure on purpose: the same GRPO with a learning rate that destroys the policy."""

    learning_rate: float = Field(gt=0)
    max_steps: Positive


class Programs(Settings):
    """The lesson's code track (04b_rewards): stories answered by a tiny program."""

    traces: Positive = Field(description="Programs the teacher writes for SFT.")
    prompts: Positive = Field(description="Problems for GRPO.")
    cases: int = Field(ge=2, description="Test cases of a problem, the story's own start first.")
    slip_rate: float = Field(ge=0, lt=1, description="Share of operations with the wrong sign.")
    hurry_rate: float = Field(
        ge=0, lt=1, description="Share of programs with the start written into them instead of read."
    )
    sft_steps: Positive = Field(description="Steps of SFT on the traces.")
    max_steps: Positive = Field(description="Steps of GRPO.")
    num_generations: int = Field(ge=2, description="Completions of a prompt.")
    per_device_train_batch_size: Positive = Field(description="Completions of a step.")
    max_completion_length: Positive = Field(description="Longest completion in tokens.")


class GrpoSettings(TrainerFile):
    """grpo.yaml: reinforcement learning with verifiable rewards."""

    rewards: Annotated[list[AnyReward], Field(min_length=1)] = Field(
        description="What is rewarded, in this order."
    )
    eval_every: Positive | None = Field(
        default=None, description="Ask held-out problems every so many steps and keep the best weights."
    )
    eval_problems: Positive = Field(
        default=60, description="Held-out problems asked while training, none of the final evaluation's."
    )
    eval_samples: Positive = Field(default=4, description="Answers to each of them.")
    algorithm: AlgorithmName | None = Field(
        default=None, description="Sets TRL's keys of that paper; null: the keys of the file alone."
    )
    curriculum: CurriculumSettings | None = Field(default=None, description="Which prompts are asked when.")
    dynamic_sampling: DynamicSamplingSettings | None = Field(
        default=None, description="Replace groups that give no gradient."
    )
    guards: GuardSettings | None = Field(
        default=None, description="Stop at signs of collapse; `{}` takes the bounds as they are."
    )
    collapse: Collapse | None = Field(default=None, description="Settings of the run that fails on purpose.")
    programs: Programs | None = Field(default=None, description="Settings of the lesson's code track.")

    def failure(self) -> dict[str, Any]:
        """What changes for the run that fails on purpose: `collapse`, and what so few steps have no room for.

        Raises:
            ValueError: the file has no `collapse`.
        """
        if self.collapse is None:
            raise ValueError("grpo.yaml has no `collapse`")
        few = self.collapse.max_steps
        changes = {
            "grpo.learning_rate": self.collapse.learning_rate,
            "grpo.max_steps": few,
            "grpo.warmup_steps": min(self.trl.get("warmup_steps", 0), few // 4),
            "grpo.collapse": None,
            "grpo.guards": None,
            "grpo.eval_every": None,
        }
        if self.curriculum and self.curriculum.lengths:
            first = self.curriculum.lengths[0].max_completion_length
            changes |= {"grpo.curriculum": None, "grpo.max_completion_length": first}
        return changes
