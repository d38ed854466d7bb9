"""Distillation: TRL's SFTTrainer on verified traces (`python -m r1kit.training.sft JOB/resolved.yaml`).

DeepSeek-R1 distils into small models by plain supervised fine-tuning on sampled traces (paper section 2.4).
All keys of `sft.yaml` are TRL's; `row_packing: true` is ours and replaces TRL's packing where that is slow
(see packing.py).
"""

from __future__ import annotations

import sys
from typing import Any

from r1kit.training import program


def train(job: program.Job) -> None:
    """Fine-tune `inputs.model` on `inputs.traces` as `sft` in the job's settings says."""
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from r1kit.training.optimizer import build_optimizer
    from r1kit.training.packing import RowsCollator, check_rows_possible, describe_rows
    from r1kit.training.resume import (
        ExactResume,
        fit,
        make_config,
        model_arguments,
        small_dataset,
        trainer_arguments,
    )

    keys, model_keys, settings = job.section("sft")
    keys, keep = trainer_arguments(job, keys)
    model_init, quantization, peft = model_arguments(model_keys)
    args = make_config(SFTConfig, {**keys, "model_init_kwargs": model_init}, "sft.yaml")
    rows = settings.row_packing
    if rows:
        check_rows_possible(args, model_init.get("attn_implementation"))

    class Distillation(ExactResume, SFTTrainer):
        """SFTTrainer whose rows may be packed and whose token count survives a resume."""

        def _prepare_dataset(self, dataset: Any, tokenizer: Any, args: Any, packing: bool, *rest: Any) -> Any:
            prepared = super()._prepare_dataset(dataset, tokenizer, args, packing or rows, *rest)
            if rows and program.is_main():
                print(f"packed: {describe_rows(prepared, args.max_length)}", flush=True)
            return prepared

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if self.model.training:
                self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
            super().log(logs, start_time)

    tokenizer = AutoTokenizer.from_pretrained(job.inputs.get("tokenizer", job.inputs["model"]))
    trainer = Distillation(
        model=job.inputs["model"],
        args=args,
        train_dataset=small_dataset(job.inputs["traces"], ["messages"]),
        processing_class=tokenizer,
        data_collator=RowsCollator(tokenizer.pad_token_id) if rows else None,
        quantization_config=quantization,
        peft_config=peft,
    )
    trainer.build_optimizer = build_optimizer(settings, args)
    fit(trainer, job, keep)


def main(arguments: list[str] | None = None) -> int:
    """Program entry; returns the exit code."""
    return program.run(train, arguments)


if __name__ == "__main__":
    sys.exit(main())
