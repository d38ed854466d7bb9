"""base.yaml, sft.yaml, grpo.yaml: the kit's own keys, beside those of TRL and transformers.

These files are flat: `learning_rate` is a key of TRL's SFTConfig, `row_packing` one of the kit.
trl_keys.json lists TRL's and transformers' keys, so they are not repeated here. `algorithm` in grpo.yaml
stands for several of TRL's keys (`expand`).
"""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr

from r1kit.settings import trl_keys
from r1kit.settings.rewards import AnyReward
from r1kit.settings.validation import Positive, Settings, Share

AlgorithmName = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]

DEFINING: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "importance_sampling_level": "token", "scale_rewards": "group"},
    "dr_grpo": {"loss_type": "dr_grpo", "importance_sampling_level": "token", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "importance_sampling_level": "token"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "importance_sampling_level": "token"},
}
"""Keys that define the algorithm: a file may repeat them but not contradict them."""

USUAL: dict[str, dict[str, Any]] = {
    "dapo": {"epsilon": 0.2, "epsilon_high": 0.28},
    "gspo": {"epsilon": 3e-4, "epsilon_high": 4e-4},
    "cispo": {"epsilon_high": 5.0},
}
"""The papers' clipping bounds; a key in the file replaces them."""


def expand(algorithm: Any) -> dict[str, Any]:
    """Return TRL's keys for an algorithm, none for any other value.

    Each paper changes one line of GRPO; keys that are set neither here nor in the file keep TRL's default:

    - `grpo` (DeepSeekMath, arXiv:2402.03300, equation 3): the mean over each completion, then over
      completions; the advantage is divided by the group's standard deviation.
    - `dr_grpo` (arXiv:2503.20783, section 3.2): the sum over a completion's tokens over one constant length
      for all, and no standard deviation. A long wrong answer is no longer cheaper by the token than a short
      one.
    - `dapo` (arXiv:2503.14476, sections 3.1 and 3.3): the mean over all tokens of the batch, and more room
      upwards: a ratio may reach 1.28 and fall to 0.8. Its dynamic sampling is the key `dynamic_sampling`, its
      overlong penalty the reward `soft_overlong_punishment`.
    - `gspo` (arXiv:2507.18071, sections 4 and 5.1): one ratio per completion, the geometric mean of its
      tokens'; it moves little, so it is clipped at 3e-4 and 4e-4.
    - `cispo` (MiniMax-M1, arXiv:2506.13585, section 3.1): the ratio is a weight, clipped and without
      gradient, so no token is left out. 5.0 is the bound of ScaleRL (arXiv:2510.13786).
    """
    if not isinstance(algorithm, str):
        return {}
    return {**DEFINING.get(algorithm, {}), **USUAL.get(algorithm, {})}


def make_room(values: dict[str, Any], kept: Container[Any]) -> None:
    """Drop the file's keys that the algorithm of an override sets.

    Args:
        kept: keys that were overridden too.
    """
    for key in expand(values["algorithm"]):
        if key not in kept:
            values.pop(key, None)


def same(key: str, one: Any, other: Any) -> bool:
    """Compare two values of a TRL key; for `scale_rewards` true means "group" and false "none"."""
    if key == "scale_rewards":
        one, other = ({True: "group", False: "none"}.get(v, v) for v in (one, other))
    return one == other


class GuardSettings(Settings):
    """Signs of collapse that stop GRPO: bounds on averages over `window` logged rows; null turns one off.

    The bounds are wide, so that they stop only runs that have failed; the shipped profiles stay inside.
    """

    window: Positive = Field(default=10, description="Logged rows that an average is taken over.")
    min_entropy: float | None = Field(
        default=0.002,
        ge=0,
        description="Mean entropy of a token in nats; below, nothing is explored any more.",
    )
    max_entropy_growth: float | None = Field(
        default=8.0, gt=1, description="Entropy over that of the first window; above, the policy dissolves."
    )
    min_distinct: Share | None = Field(
        default=None, description="Distinct answers over completions of a group that is not all right."
    )
    max_same_answer: Share | None = Field(
        default=0.9, description="Completions of different prompts that end in one and the same answer."
    )
    max_repetition: Share | None = Field(
        default=0.8, description="Word 4-grams of a completion that occurred in it before."
    )
    min_length_share: Share | None = Field(
        default=0.2, description="Completion length over that of the first window; below, reasoning is gone."
    )
    max_clipped: Share | None = Field(
        default=0.95, description="Completions cut at max_completion_length, if they were fewer at first."
    )
    patience: Positive = Field(
        default=3, description="Held-out measurements in a row below the best one, while the reward rose."
    )
    min_heldout_drop: float | None = Field(
        default=0.05, ge=0, le=1, description="How far below the best each of them lies."
    )
    min_reward_rise: float = Field(
        default=0.05, ge=0, description="How far the reward has risen since the best one."
    )


class LengthStage(Settings):
    """Completion length from a step on."""

    step: int = Field(ge=0, description="First optimizer step of the stage.")
    max_completion_length: Positive = Field(description="Longest completion in tokens.")


class CurriculumSettings(Settings):
    """Selection of GRPO's prompts.

    `levels` moves from one level of the dataset to the next; `pass_rate` prefers prompts that are sometimes
    solved; `length` uses all prompts and raises the completion length in stages.
    """

    strategy: Literal["none", "levels", "pass_rate", "length"] = Field(description="How prompts are chosen.")
    reward: str = Field(
        default="accuracy", description="The reward whose mean over a group is its pass rate."
    )
    promote: Share = Field(
        default=0.8, description="`levels`: pass rate of a level from which on the next one is asked as well."
    )
    focus: float = Field(
        default=3.0, ge=1, le=100, description="`levels`: weight of the newest open level, beside 1."
    )
    revisit: Share = Field(
        default=0.1, description="Share of prompts drawn from all that are open, so no estimate grows old."
    )
    memory: float = Field(
        default=0.9, ge=0, lt=1, description="Weight of a pool's older groups at each new one."
    )
    lengths: list[LengthStage] = Field(
        default_factory=list, description="`length`: its stages, the first from step 0."
    )


class DynamicSamplingSettings(Settings):
    """Replacement of groups whose completions all earned the same (DAPO, section 3.2).

    The gradient skips such groups if they remain.
    """

    max_extra: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Most extra groups per step, as a multiple of the step's groups; 0: no replacement.",
    )


TRAINER_SECTIONS = ("base", "sft", "grpo")
"""Files with keys of TrainingArguments, SFTConfig and GRPOConfig."""


class TrainerSettings(Settings):
    """A file's own keys as fields, and the keys of its trainer as two dicts.

    `from_flat` sorts the keys of a file (or of its section in resolved.yaml) into three places:

    - the fields declared here and in the subclass: `settings.sft.row_packing`;
    - `trl`, keywords of the trainer's configuration class: `settings.sft.trl["learning_rate"]`;
    - `model`, keywords of TRL's ModelConfig: `settings.sft.model["model_name_or_path"]`.

    The two dicts hold only what the file gives; `flat` puts all three together again.
    """

    section: ClassVar[Literal["base", "sft", "grpo"]]
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

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Sort the keys of a file. TRL's keys are not checked here; `profile.validate_section` does that.

        Raises:
            pydantic.ValidationError: an unknown key, or a wrong value of one of the kit's own keys.
        """
        library = cls.library_keys()
        settings = cls.model_validate({key: value for key, value in values.items() if key not in library})
        given = {key: value for key, value in values.items() if key in library}
        given = {**expand(getattr(settings, "algorithm", None)), **given}
        trainer = trl_keys.keys(cls.section)
        # A key that both name (trust_remote_code in some releases) goes to the trainer.
        settings._trl.update({key: value for key, value in given.items() if key in trainer})
        settings._model.update({key: value for key, value in given.items() if key not in trainer})
        return settings

    @classmethod
    @functools.cache
    def library_keys(cls) -> dict[str, Any]:
        """List the file's keys of the trainer and of ModelConfig, with their types."""
        library = trl_keys.trainer_keys(cls.section)
        return {key: kind for key, kind in library.items() if key not in cls.model_fields}

    @property
    def trl(self) -> dict[str, Any]:
        """The keywords of the trainer's configuration class that the file sets."""
        return dict(self._trl)

    @property
    def model(self) -> dict[str, Any]:
        """The keywords of TRL's ModelConfig that the file sets."""
        return dict(self._model)

    def flat(self) -> dict[str, Any]:
        """Return the mapping as in the file, with the kit's defaults filled in."""
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


class BaseSettings(TrainerSettings):
    """base.yaml: a base model made from random weights; a profile that starts from a given model has none.

    Plus every key of transformers' TrainingArguments and of ModelConfig; see trl_keys.json.
    """

    section = "base"

    architecture: Architecture = Field(description="Shape of the model.")
    max_length: int | None = Field(
        default=None, ge=2, description="Tokens of a training row; empty takes max_position_embeddings."
    )


class SftSettings(TrainerSettings):
    """sft.yaml: distillation, the student imitates the teacher's traces.

    Plus every key of SFTConfig (`learning_rate`, `max_length`, ...) and of ModelConfig; see trl_keys.json.
    """

    section = "sft"

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


class GrpoSettings(TrainerSettings):
    """grpo.yaml: reinforcement learning with verifiable rewards.

    Plus every key of GRPOConfig (`num_generations`, `beta`, ...) and of ModelConfig; see trl_keys.json.
    """

    section = "grpo"

    rewards: Annotated[list[AnyReward], Field(min_length=1)] = Field(description="Rewards, in this order.")
    eval_every: Positive | None = Field(
        default=None, description="Steps between evaluations on held-out problems; the best weights are kept."
    )
    eval_problems: Positive = Field(
        default=60, description="Held-out problems of these evaluations, none of the final evaluation's."
    )
    eval_samples: Positive = Field(default=4, description="Answers per held-out problem.")
    algorithm: AlgorithmName | None = Field(
        default=None, description="Sets TRL's keys of that paper; null: the keys of the file alone."
    )
    curriculum: CurriculumSettings | None = Field(default=None, description="Selection of the prompts.")
    dynamic_sampling: DynamicSamplingSettings | None = Field(
        default=None, description="Replace groups that give no gradient."
    )
    guards: GuardSettings | None = Field(
        default=None, description="Stop at signs of collapse; `{}` takes the bounds as they are."
    )
    collapse: Collapse | None = Field(default=None, description="Settings of the run that fails on purpose.")
    programs: Programs | None = Field(default=None, description="Settings of the lesson's code track.")

    def failure(self) -> dict[str, Any]:
        """Return the overrides of the run that fails on purpose: `collapse` with a shortened schedule.

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
