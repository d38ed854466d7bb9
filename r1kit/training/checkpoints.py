"""Checkpoints that are complete or absent, and whether these processes can resume from one.

Layout: `checkpoints/checkpoint-N/` as transformers' Trainer writes it, plus `complete.json`, written last;
`model/` the final weights, which appear in one rename.

The checks below run before anything is loaded. With one process or DDP every process has the whole optimizer
state, so another number of processes may resume as long as the batch stays the same. DeepSpeed's optimizer
state comes in as many pieces as there were processes: version 0.19 fails on another number after the model
was loaded ("Automatic adjustment of ZeRO's optimizer state partitioning with a new world size is not
currently supported"). FSDP could reshard; we have not tested it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r1kit.runs.files import read_json
from r1kit.settings import Problem, SettingsError, yaml_load

MARKER = "complete.json"
NAME = re.compile(r"checkpoint-(\d+)")
REPLICATED = ("one process", "DDP")
"""Back ends in which every process holds the whole optimizer state."""


def step_of(folder: str | Path) -> int:
    """Return N of `checkpoint-N`.

    Raises:
        ValueError: the folder has another name.
    """
    match = NAME.fullmatch(Path(folder).name)
    if match is None:
        raise ValueError(f"{folder} is not named checkpoint-N")
    return int(match.group(1))


def all_checkpoints(folder: str | Path) -> list[Path]:
    """List every `checkpoint-N` in `folder`, complete or not, by step; [] if the folder does not exist."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def is_complete(checkpoint: str | Path) -> bool:
    """Return whether weights, optimizer and random states are all on disk."""
    return (Path(checkpoint) / MARKER).is_file()


def newest_complete(folder: str | Path) -> Path | None:
    """Return the complete checkpoint with the highest step, or None."""
    complete = [path for path in all_checkpoints(folder) if is_complete(path)]
    return complete[-1] if complete else None


def remove_incomplete(folder: str | Path) -> list[Path]:
    """Delete checkpoints without a marker (their writer was killed) and return their paths."""
    removed = [path for path in all_checkpoints(folder) if not is_complete(path)]
    for path in removed:
        shutil.rmtree(path)
    return removed


def keep_newest(folder: str | Path, limit: int | None) -> list[Path]:
    """Delete the oldest complete checkpoints until `limit` remain (None: keep all) and return their paths.

    Call it only after the newest has its marker: Trainer's own rotation runs before, and a kill between the
    two would leave no complete checkpoint at all.
    """
    complete = [path for path in all_checkpoints(folder) if is_complete(path)]
    removed = complete[: max(0, len(complete) - limit)] if limit is not None else []
    for path in removed:
        (path / MARKER).unlink()  # first, so that a kill halfway leaves an incomplete one
        shutil.rmtree(path)
    return removed


def save_model_atomically(target: str | Path, write: Callable[[str], None], is_main: bool = True) -> None:
    """Let `write(folder)` write a model, then make it appear at `target` in one rename.

    Every process of a distributed training calls this; only the main one renames.
    """
    target = Path(target)
    partial, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("partial", "old"))
    if is_main and partial.exists():
        shutil.rmtree(partial)
    write(str(partial))
    if is_main:
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)


# Processes: how many train, with which back end, and which checkpoints they can resume from.


def process_count() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def backend() -> str:
    """Name what `accelerate launch` has set up for this process."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return f"DeepSpeed ZeRO-{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '?')}"
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return f"FSDP{os.environ.get('FSDP_VERSION', '')}"
    return "DDP" if process_count() > 1 else "one process"


def check_started(folder: str | Path) -> None:
    """Check that accelerate started all processes and that the final model will have weights.

    accelerate 1.15 silently starts just one process for `distributed_type: MULTI_CPU` (it leaves the others
    to MPI). On a CPU, `MULTI_GPU` with `use_cpu: true` starts them.

    With ZeRO-3 the final model folder gets no weights, only DeepSpeed's pieces, unless
    `zero3_save_16bit_model` is true (DeepSpeed 0.19, 2026-11-24), and the next stage would fail.

    Raises:
        SettingsError: fewer processes run than accelerate.yaml asks for, or ZeRO-3 would not write the model.
    """
    path = Path(folder) / "accelerate.yaml"
    if "ACCELERATE_USE_CPU" not in os.environ or not path.exists():
        return  # not started by accelerate
    content = yaml_load(path.read_text(encoding="utf-8"))
    zero = content.get("deepspeed_config") or {}
    if zero.get("zero_stage") == 3 and zero.get("zero3_save_16bit_model") is not True:
        key, message = "deepspeed_config.zero3_save_16bit_model", "The final model would have no weights."
        raise SettingsError([Problem("accelerate.yaml", key, allowed="true", message=message)])
    expected = content.get("num_processes") or 1
    if (count := process_count()) < expected:
        message = f"{count} of {expected} processes was started. On a CPU write MULTI_GPU with use_cpu: true."
        raise SettingsError([Problem("accelerate.yaml", "distributed_type", message=message)])


def check_sharded(accelerator: Any) -> None:
    """Check that FSDP shards the model if accelerate.yaml asks for it: on a CPU accelerate 1.15 does not.

    Raises:
        SettingsError: the model is not sharded.
    """
    found = accelerator.distributed_type.value
    if backend().startswith("FSDP") and found != "FSDP":
        message = f"accelerate would train with {found} instead: it shards on GPUs only."
        raise SettingsError([Problem("accelerate.yaml", "distributed_type", "FSDP", message=message)])


def check_resume(folder: str | Path, keys: Mapping[str, Any]) -> None:
    """Check that these processes can resume from the newest checkpoint in `folder`.

    Args:
        keys: the trainer's; the batch size follows from them.

    Raises:
        SettingsError: they cannot; the message says what made the checkpoint, what runs now and what to set.
    """
    newest = newest_complete(folder)
    made = read_json(newest / MARKER, {}) if newest else {}
    count, now = process_count(), backend()
    if "processes" not in made or (made["backend"], made["processes"]) == (now, count):
        return
    accumulation = keys.get("gradient_accumulation_steps", 1)
    batch = keys.get("per_device_train_batch_size", 8) * accumulation * count
    key, allowed = "num_processes", str(made["processes"])
    if made["backend"] not in REPLICATED or now not in REPLICATED:
        why = "the optimizer's state is in pieces that fit only the same processes."
        if made["backend"] != now:
            key, allowed = "distributed_type", made["backend"]
    elif batch != made["batch"]:
        per_device = made["batch"] / (count * accumulation)
        key = "per_device_train_batch_size"
        allowed = f"{per_device:g}" if per_device.is_integer() else "the same product"
        why = f"a step has {batch} samples, not {made['batch']}: the data would come in another order."
    elif rollouts_in_use(newest):
        why = "it holds rollouts that a step was using, divided among its processes."
    else:
        return
    message = (
        f"{newest.name} was made by {made['processes']} processes ({made['backend']}), now there are {count} "
        f"({now}); {why} To start anew from the model, remove the checkpoints folder."
    )
    raise SettingsError([Problem("accelerate.yaml", key, allowed=allowed, message=message)])


def rollouts_in_use(checkpoint: Path) -> bool:
    """Return whether a GRPO checkpoint was taken between two generations (see `rl.trainer`)."""
    path = checkpoint / "rollout_buffer_0.pt"
    if not path.exists():
        return False
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)["inputs"] is not None
