"""Distillation: TRL's SFTTrainer on verified traces (`python -m r1kit.training.sft JOB/resolved.yaml`).

DeepSeek-R1 distils into small models by plain supervised fine-tuning on sampled traces (paper section 2.4).
The keys of `sft.yaml` are TRL's, except those of `SftSettings`: `row_packing: true` replaces TRL's packing
where that is slow (see packing.py), `optimizer: muon` TRL's AdamW.

The calls: `program.run` reads the job, `train` builds SFTConfig and trainer, `resume.fit` trains and writes
`model/`.
"""

from __future__ import annotations

import sys
from typing import Any

from r1kit.training import program


def train(job: program.Job) -> None:
    """Fine-tune `inputs.model` on `inputs.traces` with the job's `sft` settings.

    Raises:
        SettingsError: SFTConfig refuses a key, or `row_packing` is not possible here.
    """
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from r1kit.training.optimizer import build_optimizer
    from r1kit.training.packing import RowsCollator, check_rows_possible, describe_rows
    from r1kit.training.resume import (
        ExactResume,
        fit,
        load_small_dataset,
        make_config,
        model_arguments,
        trainer_keys,
    )

    settings = job.section("sft")
    keys = trainer_keys(job, settings.trl)
    model_init, quantization, peft = model_arguments(settings.model)
    args = make_config(SFTConfig, {**keys, "model_init_kwargs": model_init}, "sft.yaml")
    row_packing = settings.row_packing
    if row_packing:
        check_rows_possible(args, model_init.get("attn_implementation"))

    class Distillation(ExactResume, SFTTrainer):
        """SFTTrainer with optional packed rows and a token count that survives a resume."""

        def _prepare_dataset(self, dataset: Any, tokenizer: Any, args: Any, packing: bool, *rest: Any) -> Any:
            prepared = super()._prepare_dataset(dataset, tokenizer, args, packing or row_packing, *rest)
            if row_packing and program.is_main():
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
        train_dataset=load_small_dataset(job.inputs["traces"], ["messages"]),
        processing_class=tokenizer,
        data_collator=RowsCollator(tokenizer.pad_token_id) if row_packing else None,
        quantization_config=quantization,
        peft_config=peft,
    )
    trainer.build_optimizer = build_optimizer(settings, args)
    fit(trainer, job)


if __name__ == "__main__":
    sys.exit(program.run(train))
