"""What the three trainers share: their keys, exact resume, and the course of a training (`fit`).

A training may be killed at any moment and continued to the same weights. transformers' Trainer restores
weights, optimizer, schedule and random states. It does not restore the epoch of a sampler behind accelerate's
wrappers (`ExactResume` does) nor the rollouts that a GRPO step was using (`rl.trainer` does). With both, a
training that was killed and continued ends bit-equal to an uninterrupted one on the same machine with the
same number of threads.

A program calls `trainer_keys`, `model_arguments` and `make_config`, builds its trainer with the mixin
`ExactResume`, and calls `fit`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer

from r1kit.runs import files, jsonl
from r1kit.settings import Problem, SettingsError
from r1kit.training import checkpoints
from r1kit.training.callbacks import CompleteMarker, GracefulStop, MetricsLog, Progress, throughput_of
from r1kit.training.program import Job


def trainer_keys(job: Job, keys: dict[str, Any]) -> dict[str, Any]:
    """Return the yaml's keys for a trainer, with defaults and with what the job decides.

    A default applies only where the yaml leaves a key out; folder and device are always the job's.

    Raises:
        SettingsError: these processes cannot train, or cannot resume from the newest checkpoint. Nothing has
            been loaded by then.
    """
    defaults: dict[str, Any] = {
        "report_to": "none",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss of NaN must appear in metrics.jsonl
        "include_num_input_tokens_seen": "non_padding",
        "dataloader_pin_memory": job.device != "cpu",
    }
    if job.device == "cpu":
        defaults["bf16"] = False  # TRL's default is True
    keys = {**defaults, **keys}
    checkpoints.check_started(job.folder)
    checkpoints.check_resume(job.checkpoints, keys)
    forced = {
        "output_dir": str(job.checkpoints),
        "use_cpu": job.device == "cpu",
        "disable_tqdm": True,
        "save_only_model": False,
    }
    return {**keys, **forced}


def model_arguments(model_keys: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """Turn ModelConfig's keys into (`model_init_kwargs`, quantization config, PEFT config or None)."""
    from trl import ModelConfig, get_peft_config, get_quantization_config

    model_config = ModelConfig(**{**model_keys, "model_name_or_path": None})
    names = {"dtype": "dtype", "attn_implementation": "attn_implementation", "model_revision": "revision"}
    init = {names[key]: getattr(model_config, key) for key in names if model_keys.get(key) is not None}
    return init, get_quantization_config(model_config), get_peft_config(model_config)


def make_config(config_class: type, keys: dict[str, Any], file: str) -> Any:
    """Make the trainer's configuration object.

    Raises:
        SettingsError: it refuses a key or value; the error names `file`.
    """
    try:
        return config_class(**keys)
    except (TypeError, ValueError) as error:
        raise SettingsError([Problem(file=file, key="", message=str(error))]) from error


def load_small_dataset(path: str, columns: list[str] | None = None) -> Any:
    """Load a dataset folder (only `columns` if given); below 256 MB in memory, to leave no cache files."""
    from datasets import disable_progress_bars, load_from_disk

    disable_progress_bars()
    size = sum(file.stat().st_size for file in Path(path).rglob("*.arrow"))
    dataset = load_from_disk(path, keep_in_memory=size < 256 * 2**20)
    return dataset.select_columns(columns) if columns else dataset


class ExactResume:
    """Trainer mixin: `optimizer:` of the settings, samplers that know their epoch, no model cards."""

    build_optimizer = None
    """Makes the optimizer from the model; None for the Trainer's own."""

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer with `build_optimizer` if it is set and none was made yet."""
        if self.optimizer is None and self.build_optimizer is not None:
            self.optimizer = self.build_optimizer(self.model if model is None else model)
        return super().create_optimizer(model)

    def _run_epoch(self, **arguments: Any) -> None:
        """Set the innermost sampler's epoch, so that its order does not depend on what was read before."""
        sampler = arguments["train_dataloader"]
        while (
            inner := getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        ) is not None:
            sampler = inner
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(arguments["epoch"])
        super()._run_epoch(**arguments)

    def restore_own_state(self, checkpoint: Path) -> None:
        """Restore state that transformers' Trainer does not know; a trainer without any inherits this."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no README, which TRL would put into the checkpoints folder at every save."""


def fit(trainer: Trainer, job: Job) -> None:
    """Train from the newest complete checkpoint, or from the start, and write `model/` at the end.

    Args:
        trainer: has the ExactResume mixin. `save_total_limit` of its arguments counts complete checkpoints
            and is applied by `CompleteMarker`, not by the Trainer.

    Raises:
        SettingsError: accelerate.yaml asks for FSDP and accelerate does not shard the model.
    """
    main = trainer.accelerator.is_main_process
    checkpoints.check_sharded(trainer.accelerator)
    keep, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    trainer.remove_callback(PrinterCallback)
    log = MetricsLog(job.metrics, throughput_of(trainer, job.machine))
    for callback in (log, CompleteMarker(job.checkpoints, keep), GracefulStop(job.stop)):
        trainer.add_callback(callback)
    if job.watchdog:
        trainer.add_callback(Progress(job.watchdog))
    if main:
        clean_up(job)
    trainer.accelerator.wait_for_everyone()
    newest = checkpoints.newest_complete(job.checkpoints)
    if newest is not None:
        if main:
            print(f"resuming from step {checkpoints.step_of(newest)}", flush=True)
        trainer.restore_own_state(newest)
    if newest is not None and is_finished(newest, trainer.args.max_steps):
        trainer._load_from_checkpoint(str(newest))  # killed between the last checkpoint and the final model
    else:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if job.stop.received is None:
        checkpoints.save_model_atomically(job.model, partial(write_whole_model, trainer), main)
        trainer.accelerator.wait_for_everyone()


def clean_up(job: Job) -> None:
    """Drop half-written checkpoints, and rows and rollouts of steps after the newest complete checkpoint."""
    for path in checkpoints.remove_incomplete(job.checkpoints):
        print(f"removed incomplete {path.name}", flush=True)
    newest = checkpoints.newest_complete(job.checkpoints)
    step = checkpoints.step_of(newest) if newest else 0
    if job.metrics.exists():
        jsonl.truncate_after(job.metrics, step)
    for path in job.rollouts.glob("step_*.parquet"):
        if int(path.stem.removeprefix("step_")) > step:
            path.unlink()


def is_finished(checkpoint: Path, max_steps: int) -> bool:
    """Return whether `checkpoint` is the training's last (max_steps <= 0: according to its own state)."""
    state = files.read_json(checkpoint / "trainer_state.json", {})
    return state["global_step"] >= (max_steps if max_steps > 0 else state["max_steps"])


def write_whole_model(trainer: Trainer, folder: str) -> None:
    """Write the final weights and the tokenizer; adapters are merged into the weights they were trained on.

    TRL would write adapters alone: the next stage, an evaluation or a server would need PEFT and the base
    model to read them, and a second training would put its own on top. The trainer's model has no adapters
    any more after this.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(model, "merge_and_unload"):
        trainer.save_model(folder)
    elif trainer.accelerator.is_main_process:
        model.merge_and_unload().save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
