"""Our own settings, one strict model per file of a profile; each field says what it is where it is declared.

What TRL and transformers already name is not repeated here: see `trl_keys`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from r1kit.settings.algorithms import AlgorithmName
from r1kit.settings.benchmarks import BenchmarkSettings
from r1kit.settings.cluster import EnvironmentText, LayoutSettings, ServerSettings, WeightSyncSettings
from r1kit.settings.curriculum import CurriculumSettings, DynamicSamplingSettings
from r1kit.settings.guards import GuardSettings
from r1kit.settings.hub_data import HubDataSettings
from r1kit.settings.pipelines import PipelineSettings
from r1kit.settings.planning import AcceleratorName, PlanSettings
from r1kit.settings.rewards import AnyReward
from r1kit.settings.strict import Positive, Settings

STAGES = (
    "00_environment",
    "01_data",
    "02_sft",
    "03_vllm",
    "04_grpo",
    "04b_rewards",
    "05_evaluation",
    "06_pipeline",
)
"""Notebook stages in order, known to this floor because files name them."""

MODEL_STAGES = ("01_data", "02_sft", "04_grpo")
"""Stages that leave a model behind, so that `model_name_or_path` may name them."""

STAGE_OF_SECTION = {"base": "01_data", "sft": "02_sft", "grpo": "04_grpo"}

Level = Annotated[int, Field(ge=1, le=5, description="Number of operations in a story problem.")]
Levels = Annotated[list[Level], Field(min_length=1)]


class SandboxSettings(Settings):
    """Where and within which limits model-written programs run (the `code` rewards)."""

    workers: Positive | None = Field(
        default=None,
        description="Programs at once; null: two cores less than there are, divided by the processes.",
    )
    tier: Literal["auto", "bubblewrap", "bubblewrap-no-proc", "landlock"] = Field(
        default="auto", description="`auto` takes the strongest that works on this machine."
    )
    fork_server: bool = Field(
        default=True, description="Fork a warm interpreter for each program instead of starting one."
    )
    unsafe: bool = Field(
        default=False, description="Run programs with limits but without isolation where no tier works."
    )
    cpu_seconds: Positive = Field(default=4, description="Of one test case.")
    wall_seconds: Positive = Field(default=8, description="Of one test case.")
    memory_mb: Positive = Field(default=512, description="Address space of one test case, in MiB.")


class MachineSettings(Settings):
    """machine.yaml: the only file that knows what the profile runs on."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        description="Where training runs. `cuda` also means ROCm, as in PyTorch; `auto` takes what is there."
    )
    environment: dict[str, EnvironmentText] = Field(
        default_factory=dict, description="Environment variables of every program that a run starts."
    )
    grace_seconds: float = Field(
        gt=0, description="Seconds a training has to write a checkpoint after SIGTERM before it is killed."
    )
    sandbox: SandboxSettings = Field(
        default_factory=SandboxSettings, description="Where the programs run that models write."
    )
    layout: LayoutSettings | None = Field(
        default=None, description="Which GPUs serve and which train; null: all of them train."
    )
    server: ServerSettings | None = Field(
        default=None, description="A vLLM server beside the trainer; null: the trainer generates itself."
    )
    weight_sync: WeightSyncSettings = Field(
        default_factory=WeightSyncSettings, description="How the trainer's weights reach the server."
    )
    step_seconds: float = Field(
        default=1800, gt=0, description="Longest optimizer step without its rollouts; after it, it hangs."
    )
    expected_minutes: dict[Literal[STAGES], Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Minutes per stage, measured on the reference machine."
    )
    reference_gflops: float | None = Field(
        default=None, gt=0, description="What `machine.speed.measure_gflops` says on the reference machine."
    )
    image: str | None = Field(
        default=None, description="Container image the profile is made for; its tag names the releases."
    )
    accelerator: AcceleratorName | None = Field(
        default=None, description="Row of the device table that `r1kit plan` counts with."
    )
    plan: PlanSettings = Field(
        default_factory=PlanSettings, description="What `r1kit plan` assumes on this machine."
    )


class DataSettings(Settings):
    """data.yaml: the embedded world of story problems and its teacher."""

    # `hub` is read with HubDataSettings (model_for); it stands here for the list of what is allowed.
    source: Literal["stories", "hub"] = Field(description="Where problems come from.")
    seed: int = Field(ge=0, description="Seed of all problems and of the teacher's slips.")
    base_documents: Positive = Field(description="Plain-text documents the base model is trained on.")
    traces: Positive = Field(description="Traces the teacher writes for SFT, before verification.")
    prompts: Positive = Field(description="Problems for GRPO, none of them among the traces.")
    heldout_per_level: Positive = Field(description="Held-out problems of each level, for evaluation only.")
    levels: Levels = Field(description="Levels in training.")
    heldout_levels: Levels = Field(description="Levels held out; may hold levels that are never trained.")
    slip_rate: float = Field(ge=0, lt=1, description="Share of steps in which the teacher makes a mistake.")
    hurry_rate: float = Field(
        default=0, ge=0, lt=1, description="Share of traces in which the teacher writes no steps."
    )
    rare_levels: list[Level] = Field(
        default_factory=list, description="Levels of which only a few traces are written."
    )
    rare_share: float = Field(default=0, ge=0, le=0.5, description="Share of the traces at `rare_levels`.")
    rare_hurry_rate: float | None = Field(
        default=None, ge=0, lt=1, description="`hurry_rate` at `rare_levels`; null: the same."
    )
    prompt_levels: Levels | None = Field(
        default=None, description="Levels of GRPO's prompts; null: `levels`."
    )
    base_levels: Levels | None = Field(default=None, description="Levels of the corpus; null: `levels`.")
    worked_share: float = Field(
        default=0, ge=0, lt=1, description="Share of the corpus that is a problem with a worked solution."
    )
    asked_share: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="Share of the corpus that is a chat in which a problem is answered.",
    )
    asked_hurry_rate: float | None = Field(
        default=None, ge=0, le=1, description="Share of those answers without steps; null: `hurry_rate`."
    )
    asked_plain_share: float = Field(
        default=0, ge=0, le=1, description="Share of those answers with neither tags nor a box."
    )
    vocabulary_size: int = Field(
        ge=274,
        description="Most tokens of the tokenizer; 256 bytes and 17 tokens of the format are always in it.",
    )
    max_prompt_length: int = Field(
        default=64,  # the longest of 1,500 stories at level 5 takes 46 (2026-11-23)
        ge=1,
        description="Tokens the longest prompt may take, chat template included; context checks use it.",
    )


class EvaluationSettings(Settings):
    """evaluation.yaml: how checkpoints are judged."""

    problems_per_level: Positive = Field(description="Held-out problems of each level that are asked.")
    samples: Positive = Field(description="Completions per problem.")
    levels: Levels = Field(
        description="Levels whose mean is the headline pass@1; all held-out levels are shown."
    )
    temperature: float = Field(gt=0, description="Sampling temperature; greedy answers are shown beside it.")
    top_p: float = Field(gt=0, le=1, description="Nucleus sampling; 1.0 is off.")
    max_new_tokens: Positive = Field(description="Longest completion in tokens.")
    batch_size: Positive = Field(description="Completions generated at once.")
    k: Annotated[list[Positive], Field(min_length=1)] = Field(description="The k of pass@k.")
    seed: int = Field(ge=0, description="Seed of the sampling.")
    greedy: bool = Field(default=True, description="One greedy answer to each problem as well.")
    expect: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict,
        description="Checkpoint -> [lowest, highest] pass@1; outside, `r1kit run --strict` exits with 5.",
    )


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


FILES: dict[str, type[Settings]] = {
    "machine": MachineSettings,
    "data": DataSettings,
    "base": BaseSettings,
    "sft": SftSettings,
    "grpo": GrpoSettings,
    "evaluation": EvaluationSettings,
    "pipeline": PipelineSettings,
}
OPTIONAL_FILES = ("base", "pipeline")
TRAINER_SECTIONS = ("base", "sft", "grpo")


def model_for(section: str, data: Any) -> type[Settings]:
    """The model that a file's content chooses: `source` in data.yaml, `benchmarks` in evaluation.yaml."""
    if isinstance(data, dict):
        if section == "data" and data.get("source") == "hub":
            return HubDataSettings
        if section == "evaluation" and "benchmarks" in data:
            return BenchmarkSettings
    return FILES[section]
