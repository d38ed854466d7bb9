"""What TRL's and transformers' source does not say in types: choices in prose, bounds, old names.

Checked against TRL 1.16 and transformers 5.17; a test holds the choices to TRL's own help texts.
"""

from __future__ import annotations

LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")

CHOICES: dict[str | tuple[str, str], tuple[str, ...]] = {
    ("GRPOConfig", "loss_type"): ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "vllm_mode": ("server", "colocate"),
    "vllm_model_impl": ("vllm", "transformers"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "log_level": LOG_LEVELS,
    "log_level_replica": LOG_LEVELS,
}

# Types that TRL takes although its annotation does not say so.
WIDER: dict[str, tuple[type, ...]] = {"scale_rewards": (bool,)}

# Keys whose annotation takes None although the trainer then fails.
NEVER_EMPTY = ("num_generations",)

# Bounds that the trainers assume: (operator of pydantic's Field, value).
BOUNDS: dict[str, dict[str, float]] = {
    "learning_rate": {"gt": 0},
    "weight_decay": {"ge": 0},
    "warmup_steps": {"ge": 0},
    "max_grad_norm": {"ge": 0},
    "adam_beta1": {"ge": 0, "lt": 1},
    "adam_beta2": {"ge": 0, "lt": 1},
    "adam_epsilon": {"gt": 0},
    "num_train_epochs": {"gt": 0},
    "per_device_train_batch_size": {"ge": 1},
    "per_device_eval_batch_size": {"ge": 1},
    "gradient_accumulation_steps": {"ge": 1},
    "generation_batch_size": {"ge": 1},
    "steps_per_generation": {"ge": 1},
    "num_generations": {"ge": 2},
    "num_iterations": {"ge": 1},
    "max_completion_length": {"ge": 1},
    "max_length": {"ge": 1},
    "logging_steps": {"gt": 0},
    "save_steps": {"gt": 0},
    "save_total_limit": {"ge": 1},
    "seed": {"ge": 0},
    "temperature": {"gt": 0},
    "top_p": {"gt": 0, "le": 1},
    "top_k": {"ge": 0},
    "min_p": {"ge": 0, "le": 1},
    "repetition_penalty": {"gt": 0},
    "beta": {"ge": 0},
    "epsilon": {"ge": 0},
    "epsilon_high": {"ge": 0},
    "lora_r": {"ge": 1},
    "lora_dropout": {"ge": 0, "lt": 1},
    "vllm_gpu_memory_utilization": {"gt": 0, "le": 1},
    "vllm_tensor_parallel_size": {"ge": 1},
}

# Keys that TRL knows and that must not stand in a file: key -> why.
REFUSED: dict[str, str] = {
    "output_dir": "The run folder decides where a stage writes: runs/<run_id>/<stage>/checkpoints.",
    "logging_dir": "Metrics go to metrics.jsonl in the run folder.",
    "resume_from_checkpoint": "`r1kit run --resume RUN_ID` finds the newest complete checkpoint itself.",
    "reward_weights": "Write each weight beside its reward: rewards: [{name: accuracy, weight: 1.0}].",
    "deepspeed": "DeepSpeed is set in accelerate.yaml (distributed_type: DEEPSPEED).",
    "fsdp": "FSDP is set in accelerate.yaml (distributed_type: FSDP).",
    "fsdp_config": "FSDP is set in accelerate.yaml (fsdp_config).",
    "parallelism_config": "Parallelism is set in accelerate.yaml (parallelism_config).",
    "local_rank": "`accelerate launch` sets it for each process.",
    "hub_token": "A secret does not belong in a file: set the environment variable HF_TOKEN.",
    "do_train": "The stage decides what runs; the trainer never reads this key.",
    "do_predict": "The stage decides what runs; the trainer never reads this key.",
}

# Names from older TRL / transformers, open-r1 or other kits: key -> (the name today or "", what to know).
RENAMED: dict[str, tuple[str, str]] = {
    "max_seq_length": ("max_length", "TRL renamed it to max_length."),
    "max_prompt_length": ("", "TRL removed it; the bound on prompts is max_prompt_length in data.yaml."),
    "vllm_server_url": (
        "vllm_server_base_url",
        "TRL calls it vllm_server_base_url, an address without /v1, beside vllm_mode: server.",
    ),
    "vllm_device": (
        "vllm_mode",
        "TRL removed it; vLLM runs beside (server) or inside (colocate) the trainer.",
    ),
    "vllm_max_model_len": ("vllm_max_model_length", "TRL calls it vllm_max_model_length."),
    "vllm_dtype": ("dtype", "TRL removed it; vLLM takes the model's dtype."),
    "vllm_guided_decoding_regex": ("vllm_structured_outputs_regex", "TRL renamed it."),
    "torch_dtype": ("dtype", "transformers renamed it to dtype."),
    "reward_funcs": ("rewards", "Here rewards are a list: rewards: [{name: accuracy, weight: 1.0}]."),
    **{
        key: (
            "",
            f"It is a parameter of its reward: rewards: [{{name: {reward}, {parameter}: ...}}].",
        )
        for key, reward, parameter in (
            ("cosine_min_value_wrong", "cosine", "min_value_wrong"),
            ("cosine_max_value_wrong", "cosine", "max_value_wrong"),
            ("cosine_min_value_correct", "cosine", "min_value_correct"),
            ("cosine_max_value_correct", "cosine", "max_value_correct"),
            ("cosine_max_len", "cosine", "max_len"),
            ("repetition_n_grams", "repetition_penalty", "ngram_size"),
            ("repetition_max_penalty", "repetition_penalty", "max_penalty"),
            ("max_completion_len", "soft_overlong_punishment", "max_completion_len"),
            ("soft_punish_cache", "soft_overlong_punishment", "soft_punish_cache"),
            ("code_language", "code_format", "language"),
        )
    },
    "code_provider": ("", "Programs run on this machine, as machine.yaml says: sandbox: {tier: auto}."),
    "parallel_code_exec_per_proc": ("", "Programs at once are set in machine.yaml: sandbox: {workers: 8}."),
    "evaluation_strategy": ("eval_strategy", "transformers renamed it to eval_strategy."),
    "num_train_steps": ("max_steps", "transformers calls it max_steps."),
    "num_epochs": ("num_train_epochs", "transformers calls it num_train_epochs."),
    "epochs": ("num_train_epochs", "transformers calls it num_train_epochs."),
    "batch_size": ("per_device_train_batch_size", "transformers calls it per_device_train_batch_size."),
    "per_gpu_train_batch_size": ("per_device_train_batch_size", "transformers renamed it."),
    "lr": ("learning_rate", "transformers calls it learning_rate."),
    "lr_scheduler": ("lr_scheduler_type", "transformers calls it lr_scheduler_type."),
    "warmup_ratio": (
        "warmup_steps",
        "transformers 5 removed it; warmup_steps below 1 is a share of all steps.",
    ),
    "use_flash_attention_2": ("attn_implementation", "Write attn_implementation: flash_attention_2."),
    "no_cuda": ("use_cpu", "transformers renamed it to use_cpu."),
    "fp32": ("dtype", "Write dtype: float32 and bf16: false."),
    "group_by_length": ("train_sampling_strategy", "Write train_sampling_strategy: group_by_length."),
    "use_liger": ("use_liger_kernel", "TRL renamed it."),
    "use_liger_loss": ("", "TRL removed it."),
    "kl_coef": ("beta", "TRL calls it beta."),
    "kl_coeff": ("beta", "TRL calls it beta."),
    "group_size": ("num_generations", "TRL calls it num_generations."),
    "num_generations_per_prompt": ("num_generations", "TRL calls it num_generations."),
    "max_new_tokens": ("max_completion_length", "TRL calls it max_completion_length."),
    "model": ("model_name_or_path", "TRL calls it model_name_or_path."),
    "model_name": ("model_name_or_path", "TRL calls it model_name_or_path."),
    "clip_range": ("epsilon", "TRL calls it epsilon."),
    "overwrite_output_dir": ("", "transformers removed it; a run never overwrites another run's folder."),
    "dataset_name": ("", "Data is set in data.yaml: traces_from for SFT, prompts_from for GRPO."),
    "dataset_config": ("", "Data is set in data.yaml: traces_from: [{dataset: ..., config: all}]."),
    "dataset_mixture": (
        "",
        "Data is set in data.yaml: several entries of traces_from, each with its weight.",
    ),
    "dataset_prompt_column": ("", "It is prompt_column of an entry of prompts_from in data.yaml."),
    "system_prompt": ("", "The chat template decides it: chat_template_path in sft.yaml."),
    "chat_template": ("", "Write chat_template_path in sft.yaml: a .jinja file or a model of the hub."),
    "benchmarks": ("", "Benchmarks are set in evaluation.yaml."),
    "callbacks": ("", "The programs bring their own callbacks."),
    "push_to_hub_model_id": ("hub_model_id", "transformers renamed it to hub_model_id."),
    "save_safetensors": ("", "transformers removed it; weights are always safetensors."),
}

# What else there is to say about a value: (key, value as written) -> sentence.
VALUE_HINTS: dict[str, str] = {
    "rewards": "Write a list of mappings: rewards: [{name: accuracy, weight: 1.0}, {name: format}].",
    "lora_target_modules": "For every linear layer write lora_target_modules: [all-linear].",
}
