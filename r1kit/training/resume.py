"""Training that can be killed at any moment and continued to the same weights.

transformers' Trainer restores weights, optimizer, schedule and random states. Two things it does not restore
are added
here: the epoch of a sampler behind accelerate's wrappers, and (in grpo.py) the rollouts that a step was
using. With them a training that was killed and continued ends bit-equal to an uninterrupted one on the same
machine with the same threads.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer

from r1kit.runs import jsonl
from r1kit.settings import Problem, SettingsError
from r1kit.training import checkpoints
from r1kit.training.callbacks import CompleteMarker, GracefulStop, MetricsLog, Progress, throughput_of
from r1kit.training.checkpoints import check_resume, check_sharded, check_started
from r1kit.training.program import Job


class ExactResume:
    """Mixed into a Trainer: our optimizer, samplers that know their epoch, no model cards."""

    build_optimizer = None
    """A function of the model that makes the optimizer; None for the Trainer's own."""

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer of `build_optimizer` if there is one and none was made yet."""
        if self.optimizer is None and self.build_optimizer is not None:
            self.optimizer = self.build_optimizer(self.model if model is None else model)
        return super().create_optimizer(model)

    def _run_epoch(self, **arguments: Any) -> None:
        set_sampler_epoch(arguments["train_dataloader"], arguments["epoch"])
        super()._run_epoch(**arguments)

    def restore_own_state(self, checkpoint: Path) -> None:
        """Restore what a trainer has and transformers' Trainer does not know; nothing here."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: TRL would write a README into the checkpoints folder at every save."""


def set_sampler_epoch(dataloader: Any, epoch: int) -> None:
    """Tell the innermost sampler which epoch begins, so that its order does not depend on its past."""
    sampler = dataloader
    while (inner := getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)) is not None:
        sampler = inner
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)


def trainer_arguments(job: Job, keys: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """The yaml's keys with what a supervised program needs, and `save_total_limit`, which we apply ourselves.

    A checkpoint that these processes cannot go on from is refused here, before anything is loaded. Only keys
    the yaml leaves out get a default here; where and on what we train is the job's to say.
    """
    defaults: dict[str, Any] = {
        "report_to": "none",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
        "include_num_input_tokens_seen": "non_padding",
        "dataloader_pin_memory": job.device != "cpu",
    }
    if job.device == "cpu":
        defaults["bf16"] = False  # TRL's default is True
    keys = {**defaults, **keys}
    check_started(job.folder)
    check_resume(job.checkpoints, keys)
    keep = keys.pop("save_total_limit", None)
    forced = {
        "output_dir": str(job.checkpoints),
        "use_cpu": job.device == "cpu",
        "disable_tqdm": True,
        "save_only_model": False,
    }
    return {**keys, **forced}, keep


def make_config(config_class: type, keys: dict[str, Any], file: str) -> Any:
    """The trainer's config object. What it refuses is a bad setting: SettingsError naming `file`."""
    try:
        return config_class(**keys)
    except (TypeError, ValueError) as error:
        raise SettingsError([Problem(file=file, key="", message=str(error))]) from error


def model_arguments(model_keys: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """ModelConfig keys to (`model_init_kwargs`, quantization config or None, PEFT config or None)."""
    from trl import ModelConfig, get_peft_config, get_quantization_config

    model_config = ModelConfig(**{**model_keys, "model_name_or_path": None})
    names = {"dtype": "dtype", "attn_implementation": "attn_implementation", "model_revision": "revision"}
    init = {names[key]: getattr(model_config, key) for key in names if model_keys.get(key) is not None}
    return init, get_quantization_config(model_config), get_peft_config(model_config)


def small_dataset(path: str, columns: list[str] | None = None) -> Any:
    """A saved dataset with only `columns`, in memory below 256 MB so that no cache files appear beside it."""
    from datasets import disable_progress_bars, load_from_disk

    disable_progress_bars()
    size = sum(file.stat().st_size for file in Path(path).rglob("*.arrow"))
    dataset = load_from_disk(path, keep_in_memory=size < 256 * 2**20)
    return dataset.select_columns(columns) if columns else dataset


def fit(trainer: Trainer, job: Job, keep: int | None = None) -> None:
    """Train from the newest complete checkpoint, or from the start, and write `model/` at the end.

    Args:
        trainer: has the ExactResume mixin.
        keep: how many complete checkpoints to leave on disk (None: all).
    """
    check_sharded(trainer.accelerator)
    trainer.remove_callback(PrinterCallback)
    log = MetricsLog(job.metrics, throughput_of(trainer, job.machine))
    for callback in (log, CompleteMarker(job.checkpoints, keep), GracefulStop(job.stop)):
        trainer.add_callback(callback)
    if job.watchdog:
        trainer.add_callback(Progress(job.watchdog))
    if trainer.accelerator.is_main_process:
        clean_up(job)
    trainer.accelerator.wait_for_everyone()
    newest = checkpoints.newest_complete(job.checkpoints)
    if newest is not None:
        if trainer.accelerator.is_main_process:
            print(f"resuming from step {checkpoints.step_of(newest)}", flush=True)
        trainer.restore_own_state(newest)
    if newest is not None and is_finished(newest, trainer.args.max_steps):
        trainer._load_from_checkpoint(str(newest))  # killed between the last checkpoint and the final model
    else:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if job.stop.received is None:
        write = partial(write_whole_model, trainer)
        checkpoints.save_model_atomically(job.model, write, trainer.accelerator.is_main_process)
        trainer.accelerator.wait_for_everyone()


def write_whole_model(trainer: Trainer, folder: str) -> None:
    """The final weights and their tokenizer; adapters are merged into the weights that they were trained on.

    TRL would write adapters alone: the next stage, an evaluation or a server would need PEFT and the base
    model to read them, and a second training would put its own on top. The trainer's model has none any more
    after this.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(model, "merge_and_unload"):
        trainer.save_model(folder)
    elif trainer.accelerator.is_main_process:
        model.merge_and_unload().save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


def is_finished(checkpoint: Path, max_steps: int) -> bool:
    """Whether `checkpoint` is the training's last (max_steps <= 0: as its own state says)."""
    state = checkpoints.trainer_state(checkpoint)
    return state["global_step"] >= (max_steps if max_steps > 0 else state["max_steps"])


def clean_up(job: Job) -> None:
    """Drop half-written checkpoints, and rows and rollouts of steps after the newest complete one."""
    for path in checkpoints.remove_incomplete(job.checkpoints):
        print(f"removed incomplete {path.name}", flush=True)
    newest = checkpoints.newest_complete(job.checkpoints)
    step = checkpoints.step_of(newest) if newest else 0
    if job.metrics.exists():
        jsonl.truncate_after(job.metrics, step)
    for path in job.rollouts.glob("step_*.parquet"):
        if int(path.stem.removeprefix("step_")) > step:
            path.unlink()
