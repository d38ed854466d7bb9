"""GRPO: TRL's GRPOTrainer with our rewards (`python -m r1kit.training.grpo JOB/resolved.yaml`).

DeepSeek-R1 trains with Group Relative Policy Optimization on rule-based rewards (paper section 2.2). The keys
of `grpo.yaml` are TRL's, except those of `GrpoSettings`; `algorithm` stands for several of TRL's. Every
logged step writes `rollouts/step_%05d.parquet`.

`train` builds the trainer of `rl.trainer` with what the settings ask for: rewards, a vLLM server
(`rl.vllm_rollouts`), a curriculum, held-out evaluation, guards. The course of a step is described there.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from r1kit.data.format import begins_reasoning
from r1kit.training import program
from r1kit.training.rl.server_connection import check_servers, connection_of, preflight

if TYPE_CHECKING:
    from r1kit.settings.training import GrpoSettings


def train(job: program.Job) -> None:
    """Train `inputs.model` on `inputs.prompts` with the job's `grpo` settings.

    Raises:
        SettingsError: GRPOConfig refuses a key, or a setting does not fit the job's data.
        Stopped: a guard ended the training, or the vLLM server is lost.
    """
    connection = connection_of(job)
    if connection and program.is_main():
        check_servers(connection, job.inputs["model"])
    leave_vllm_out(job)
    from transformers import AutoTokenizer
    from trl import GRPOConfig

    from r1kit.rewards.code import configure_by
    from r1kit.rewards.registry import get_rewards
    from r1kit.settings.machine import SandboxSettings
    from r1kit.training.optimizer import build_optimizer
    from r1kit.training.resume import fit, load_small_dataset, make_config, model_arguments, trainer_keys
    from r1kit.training.rl.guards import Guards, UnscoredWatch
    from r1kit.training.rl.heldout import HeldOut, evaluation_keys, heldout_dataset
    from r1kit.training.rl.trainer import GrpoTrainer
    from r1kit.training.rl.vllm_rollouts import generating_through

    settings = job.section("grpo")
    keys = trainer_keys(job, settings.trl)
    keys.pop("include_num_input_tokens_seen")  # TRL counts prompts and completions itself
    model_init, quantization, peft = model_arguments(settings.model)
    tokenizer = AutoTokenizer.from_pretrained(
        job.inputs.get("tokenizer", job.inputs["model"]), padding_side="left", truncation_side="left"
    )
    heldout = heldout_dataset(job, settings)
    keys = evaluation_keys(settings, keys, heldout)
    limit = keys.get("max_completion_length", GRPOConfig.max_completion_length)
    rewards, weights = get_rewards(settings.rewards, limit, opens_reasoning(tokenizer))
    configure_by(SandboxSettings.model_validate(job.machine.get("sandbox", {})))
    args = make_config(
        GRPOConfig, {**keys, "model_init_kwargs": model_init, "reward_weights": weights}, "grpo.yaml"
    )
    with generating_through(connection):
        if connection and program.is_main():
            preflight(connection, args.device)
        trainer = GrpoTrainer(
            model=job.inputs["model"],
            args=args,
            reward_funcs=rewards,
            train_dataset=load_small_dataset(job.inputs["prompts"]),
            eval_dataset=heldout,
            processing_class=tokenizer,
            quantization_config=quantization,
            peft_config=peft,
        )
        trainer.drift = (job.machine.get("weight_sync") or {}).get("drift")
        trainer.build_optimizer = build_optimizer(settings, args)
        trainer.rollouts_folder = job.rollouts
        trainer.curriculum = prompt_curriculum(settings, args.seed, trainer.train_dataset)
        trainer.dynamic_sampling = settings.dynamic_sampling
        if settings.curriculum is not None:
            trainer.length_curriculum = settings.curriculum.lengths
        trainer.unscored = UnscoredWatch(args.num_generations)
        trainer.add_callback(trainer.unscored)
        if heldout is not None:
            trainer.add_callback(HeldOut(job, trainer, settings))
        if settings.guards is not None:
            trainer.log_diversity = True
            trainer.add_callback(Guards(settings.guards, job.metrics))
        fit(trainer, job)


def leave_vllm_out(job: program.Job) -> None:
    """Make TRL believe that vLLM is not installed, unless this training uses it in its own process.

    TRL imports all of vLLM if it is installed: 5 s of a core in every process (2026-11-24, two cores), for
    nothing if rollouts come through HTTP and weights go as files. Call it before TRL is imported.
    """
    from trl import import_utils

    grpo, sync = job.settings["grpo"], job.machine.get("weight_sync") or {}
    colocated = grpo.get("use_vllm") and grpo.get("vllm_mode", "colocate") == "colocate"
    if not colocated and sync.get("transport", "file") == "file":
        import_utils.is_vllm_available = lambda min_version=None: False


def prompt_curriculum(grpo: GrpoSettings, seed: int, prompts: Any) -> Any:
    """Return the Curriculum of grpo.yaml; None if the dataset is trained on in TRL's order."""
    from r1kit.settings.training import CurriculumSettings
    from r1kit.training.rl.curriculum import Curriculum, pools_of

    settings = grpo.curriculum or CurriculumSettings(strategy="none")
    if grpo.dynamic_sampling is None and settings.strategy in ("none", "length"):
        return None
    known = {name: prompts[name] for name in ("pass_rate", "level") if name in prompts.column_names}
    return Curriculum(settings, pools_of(known, len(prompts)), seed)


def opens_reasoning(tokenizer: Any) -> bool:
    """Return whether the chat template ends the prompt with `<think>`, as R1's distilled models' does."""
    if not tokenizer.chat_template:
        return False
    turn = [{"role": "user", "content": "?"}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return begins_reasoning(prompt)


if __name__ == "__main__":
    sys.exit(program.run(train))
