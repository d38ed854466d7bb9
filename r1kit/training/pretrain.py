"""The base model, trained on plain text from random weights (`python -m r1kit.training.pretrain JOB/...`).

The embedded world downloads nothing, so it makes the base model that DeepSeek-R1 takes from DeepSeek-V3. Keys
of `base.yaml` are transformers' TrainingArguments; `architecture` holds Qwen2Config's keys. Documents are
packed whole into rows of `max_length` tokens (default: the model's context); a longer document is split.
"""

from __future__ import annotations

import sys
from typing import Any

from r1kit.training import program


def train(job: program.Job) -> None:
    """Train a new model on `inputs.corpus` (column `text`) with the job's `base` settings."""
    from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed

    from r1kit.training.optimizer import build_optimizer
    from r1kit.training.packing import RowsCollator, describe_rows
    from r1kit.training.resume import ExactResume, fit, load_small_dataset, make_config, trainer_keys

    settings = job.section("base")
    keys = {"remove_unused_columns": False} | trainer_keys(job, settings.trl)
    args = make_config(TrainingArguments, keys, "base.yaml")
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["tokenizer"])
    set_seed(args.seed)
    model = build_model(settings.architecture.model_dump(), tokenizer)

    class Pretraining(ExactResume, Trainer):
        """Trainer that resumes exactly."""

    row_length = settings.max_length or settings.architecture.max_position_embeddings
    dataset = tokenize(load_small_dataset(job.inputs["corpus"], ["text"]), tokenizer, row_length)
    if program.is_main():
        print(f"model: {model.num_parameters():,} parameters", flush=True)
        print(f"packed: {describe_rows(dataset, row_length)}", flush=True)
    trainer = Pretraining(
        model=model,
        args=args,
        train_dataset=dataset,
        processing_class=tokenizer,
        data_collator=RowsCollator(tokenizer.pad_token_id),
    )
    trainer.build_optimizer = build_optimizer(settings, args)
    fit(trainer, job)


def build_model(architecture: dict[str, Any], tokenizer: Any) -> Any:
    """Make a Qwen2 model with random weights; the tokenizer gives vocabulary size and special tokens."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        **architecture,
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def tokenize(dataset: Any, tokenizer: Any, row_length: int) -> Any:
    """Turn texts, each with an end token, into packed rows of `row_length` (`input_ids`, `seq_lengths`)."""
    from trl import pack_dataset

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in texts]}

    encoded = dataset.map(encode, batched=True, remove_columns=dataset.column_names)
    return pack_dataset(encoded, row_length, "bfd_split")


if __name__ == "__main__":
    sys.exit(program.run(train))
