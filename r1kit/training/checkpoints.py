"""Checkpoints that are whole or not there: a marker file written last, a final model that appears at once.

Layout: `checkpoints/checkpoint-N/` as transformers' Trainer writes it, plus `complete.json`; `model/` the
final weights.

Which processes made a checkpoint, and whether others can go on from it; asked before anything loads.

With one process or DDP every process has the whole optimizer state, so another number of them may go on, as
long as the batch stays the same. DeepSpeed's optimizer state lies in as many pieces as there were processes:
0.19 fails on another number after the model was loaded ("Automatic adjustment of ZeRO's optimizer state
partitioning with a new world size is not currently supported"). FSDP could reshard; nobody has tried here.
"""

from __future__ import annotations

import json
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


def step_of(folder: str | Path) -> int:
    """N of `checkpoint-N`. Raises ValueError for another name."""
    match = NAME.fullmatch(Path(folder).name)
    if match is None:
        raise ValueError(f"{folder} is not named checkpoint-N")
    return int(match.group(1))


def all_checkpoints(folder: str | Path) -> list[Path]:
    """Every `checkpoint-N` in `folder`, complete or not, by step; [] if the folder does not exist."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def is_complete(checkpoint: str | Path) -> bool:
    """Whether weights, optimizer and random states were all on disk when the marker was written."""
    return (Path(checkpoint) / MARKER).is_file()


def trainer_state(checkpoint: str | Path) -> dict[str, Any]:
    """Read `trainer_state.json` of a checkpoint."""
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))


def newest_complete(folder: str | Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    complete = [path for path in all_checkpoints(folder) if is_complete(path)]
    return complete[-1] if complete else None


def remove_incomplete(folder: str | Path) -> list[Path]:
    """Delete checkpoints without a marker (their writer was killed) and return their paths."""
    removed = [path for path in all_checkpoints(folder) if not is_complete(path)]
    for path in removed:
        shutil.rmtree(path)
    return removed


def keep_newest(folder: str | Path, limit: int | None) -> list[Path]:
    """Delete the oldest complete checkpoints until `limit` are left (None: keep all) and return their paths.

    Called only after the newest has its marker: Trainer's own rotation runs before, and a kill between the
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
    partial = target.with_name(f".{target.name}.partial")
    if is_main and partial.exists():
        shutil.rmtree(partial)
    write(str(partial))
    if is_main:
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)


REPLICATED = ("one process", "DDP")


def backend(environment: Mapping[str, str] = os.environ) -> str:
    """What `accelerate launch` has set up for this process."""
    if environment.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return f"DeepSpeed ZeRO-{environment.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '?')}"
    if environment.get("ACCELERATE_USE_FSDP") == "true":
        return f"FSDP{environment.get('FSDP_VERSION', '')}"
    return "DDP" if process_count(environment) > 1 else "one process"


def process_count(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes train together."""
    return int(environment.get("WORLD_SIZE", "1"))


def record(batch: int) -> dict[str, Any]:
    """What goes into complete.json; `batch`: samples of an optimizer step over all processes."""
    return {"processes": process_count(), "backend": backend(), "batch": batch}


def batch_of(keys: Mapping[str, Any], count: int) -> int:
    """Samples of an optimizer step of `count` processes, from the trainer's keys."""
    return keys.get("per_device_train_batch_size", 8) * keys.get("gradient_accumulation_steps", 1) * count


def check_started(folder: str | Path) -> None:
    """Refuse to train alone where accelerate.yaml asks for several processes, or for a model without weights.

    accelerate 1.15 starts just one for `distributed_type: MULTI_CPU` (it leaves the others to MPI), and says
    nothing. On a CPU, `MULTI_GPU` with `use_cpu: true` starts them.

    With ZeRO-3 the final model folder gets no weights, only DeepSpeed's pieces, unless
    `zero3_save_16bit_model` is true (seen with DeepSpeed 0.19, 2026-11-24), and the next stage would fail.

    Raises:
        SettingsError: fewer processes run than asked for, or ZeRO-3 would not write the model.
    """
    path = Path(folder) / "accelerate.yaml"
    if "ACCELERATE_USE_CPU" not in os.environ or not path.exists():
        return  # not started by accelerate
    content = yaml_load(path.read_text(encoding="utf-8"))
    zero = content.get("deepspeed_config") or {}
    if zero.get("zero_stage") == 3 and zero.get("zero3_save_16bit_model") is not True:
        key, message = "deepspeed_config.zero3_save_16bit_model", "The final model would have no weights."
        raise SettingsError([Problem("accelerate.yaml", key, allowed="true", message=message)])
    asked = content.get("num_processes") or 1
    if (count := process_count()) < asked:
        message = f"{count} of {asked} processes was started. On a CPU write MULTI_GPU with use_cpu: true."
        raise SettingsError([Problem("accelerate.yaml", "distributed_type", message=message)])


def check_sharded(accelerator: Any) -> None:
    """Refuse to train with DDP where accelerate.yaml asks for FSDP: on a CPU accelerate 1.15 says nothing.

    Raises:
        SettingsError: the model is not sharded.
    """
    found = accelerator.distributed_type.value
    if backend().startswith("FSDP") and found != "FSDP":
        message = f"accelerate would train with {found} instead: it shards on GPUs only."
        raise SettingsError([Problem("accelerate.yaml", "distributed_type", "FSDP", message=message)])


def check_resume(folder: str | Path, keys: Mapping[str, Any]) -> None:
    """Refuse to go on from the newest checkpoint in `folder` where that cannot work.

    Raises:
        SettingsError: with what made the checkpoint, what there is now, and what to set.
    """
    newest = newest_complete(folder)
    made = read_json(newest / MARKER, {}) if newest else {}
    if "processes" not in made:
        return
    before, now = made["backend"], backend()
    count, batch = process_count(), batch_of(keys, process_count())
    told = (
        f"{newest.name} was made by {made['processes']} processes ({before}), now there are {count} ({now})"
    )
    key, allowed = "num_processes", str(made["processes"])
    if (before, made["processes"]) == (now, count):
        return
    if before not in REPLICATED or now not in REPLICATED:
        why = f"{told}; the optimizer's state lies in pieces that fit only the same processes."
        if before != now:
            key, allowed = "distributed_type", before
    elif batch != made["batch"]:
        each = made["batch"] / (count * keys.get("gradient_accumulation_steps", 1))
        why = (
            f"{told}; a step has {batch} samples, not {made['batch']}: the data would come in another order."
        )
        key, allowed = "per_device_train_batch_size", f"{each:g}" if each.is_integer() else "the same product"
    elif rollouts_in_use(newest):
        why = f"{told}; it holds rollouts that a step was using, divided among its processes."
    else:
        return
    start_anew = "To start anew from the model, remove the checkpoints folder."
    raise SettingsError([Problem("accelerate.yaml", key, allowed=allowed, message=f"{why} {start_anew}")])


def rollouts_in_use(checkpoint: Path) -> bool:
    """Whether a GRPO checkpoint was taken between two generations (see `rollouts`)."""
    path = checkpoint / "rollout_buffer_0.pt"
    if not path.exists():
        return False
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)["inputs"] is not None
