"""Callbacks of every trainer: metrics.jsonl, the mark of a complete checkpoint, a stop that saves first, and
the watchdog's progress.

A logged step has its MFU in two conventions: `mfu/causal` counts half of attention's square (Llama's and
Megatron's convention), `mfu/full_attention` all of it (PaLM's, and TRL's `compute_flops_per_token`).
Recomputation and the old policy's pass are not counted: they are work, not progress. In GRPO the seconds of a
step include its generation, so MFU is far below SFT's; TRL 1.16 logs none in its synchronous trainers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1kit.machine import speed
from r1kit.runs import files, jsonl
from r1kit.settings.known_models import ModelShape, shape_from_config
from r1kit.training import checkpoints
from r1kit.training.program import StopRequest
from r1kit.training.watchdog import Watchdog

NOT_METRICS = ("train_runtime", "train_tokens_per_second", "epoch")
"""Left out of metrics.jsonl: what Trainer adds to each log when it counts tokens."""

SHOWN = {  # metric -> its format in train.log
    "loss": "loss {:.4f}",
    "reward": "reward {:.3f}",
    "completions/mean_length": "length {:.1f}",
    "entropy": "entropy {:.3f}",
    "mean_token_accuracy": "token accuracy {:.3f}",
    "frac_reward_zero_std": "equal groups {:.2f}",
    "heldout/pass@1": "held-out pass@1 {:.3f}",
    "grad_norm": "gradient {:.2f}",
    "learning_rate": "lr {:.2e}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu/causal": "MFU {:.1%}",
}


class MetricsLog(TrainerCallback):
    """Appends one row per logged step to `metrics.jsonl` and prints it as one line. Main process only.

    `seconds` counts training time and continues from the last kept row after a resume; `seconds_left` comes
    from this session's speed; `tokens_per_second` from the tokens since the last row (SFT: tokens read; GRPO:
    prompts and completions); `mfu/causal` and `mfu/full_attention` from those, if `throughput` is given.
    """

    def __init__(self, path: str | Path, throughput: Throughput | None = None):
        self.path, self.throughput = Path(path), throughput

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Continue the clock of the rows that were kept."""
        rows = jsonl.read(self.path) if self.path.exists() else []
        self.offset = float(rows[-1]["seconds"]) if rows else 0.0
        self.start = self.last_time = time.monotonic()
        self.first_step = state.global_step
        self.last_tokens = state.num_input_tokens_seen

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict | None = None, **kwargs: Any
    ) -> None:
        """Write the row; the Trainer's summary at the end of the training (`train_loss`) is not one."""
        if not state.is_world_process_zero or not logs or "train_loss" in logs:
            return
        now = time.monotonic()
        steps = state.global_step - self.first_step
        left = (now - self.start) / steps * (state.max_steps - state.global_step) if steps else 0.0
        row: dict[str, Any] = {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "seconds": round(self.offset + now - self.start, 3),
            "seconds_left": round(left, 3),
        }
        row.update({name: value for name, value in logs.items() if name not in NOT_METRICS})
        tokens = state.num_input_tokens_seen - self.last_tokens
        if tokens and now > self.last_time:
            rate = tokens / (now - self.last_time)
            row["tokens_per_second"] = round(rate, 1)
            if self.throughput is not None:
                trained = logs.get("dynamic/trained_share", 1.0)  # the rest was generated and not trained on
                mfu = self.throughput.metrics(rate * trained, logs)
                row.update({name: round(value, 5) for name, value in mfu.items()})
        self.last_time, self.last_tokens = now, state.num_input_tokens_seen
        jsonl.append(self.path, row)
        print(readable(row), flush=True)


def readable(row: dict[str, Any]) -> str:
    """Format a row for train.log: `step 10/250  loss 2.3100  lr 4.00e-03  12,300 tokens/s  left 1:20`."""
    parts = [f"step {row['step']}/{row['total_steps']}"]
    for name, template in SHOWN.items():
        if isinstance(row.get(name), (int, float)):
            parts.append(template.format(row[name]))
        if name == "reward":
            parts += [
                f"{key.split('/')[1].removesuffix('_reward')} {value:.3f}"
                for key, value in row.items()
                if key.startswith("rewards/") and key.endswith("/mean") and value is not None
            ]
    minutes, seconds = divmod(round(row["seconds_left"]), 60)
    return "  ".join([*parts, f"left {minutes}:{seconds:02d}"])


class CompleteMarker(TrainerCallback):
    """Writes `complete.json` into a checkpoint once every process has written its part; deletes the oldest.

    It also makes every saved step a logged step: running averages are not saved, so a row that spans a
    checkpoint would differ after a resume.
    """

    def __init__(self, folder: str | Path, keep: int | None = None):
        self.folder, self.keep = Path(folder), keep

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Log wherever a checkpoint is saved."""
        if control.should_save:
            control.should_log = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            record = {
                "step": state.global_step,
                "total_steps": state.max_steps,
                "written": time.time(),
                "processes": checkpoints.process_count(),
                "backend": checkpoints.backend(),
                # samples of an optimizer step over all processes
                "batch": args.per_device_train_batch_size
                * args.gradient_accumulation_steps
                * args.world_size,
            }
            checkpoint = self.folder / f"checkpoint-{state.global_step}"
            files.write_json_atomic(checkpoint / checkpoints.MARKER, record)
            checkpoints.keep_newest(self.folder, self.keep)


class GracefulStop(TrainerCallback):
    """On SIGTERM or SIGINT finish the step, save and leave the loop; all processes at the same step."""

    def __init__(self, stop: StopRequest):
        self.stop = stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Have signals wait for the end of the step from here on."""
        self.stop.in_loop = True

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Save and stop if a signal came to any process."""
        received = self.stop.received or 0
        if args.world_size > 1:
            shared = torch.tensor(received, device=args.device)
            torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
            received = int(shared)
        if received:
            self.stop.received = received
            control.should_save = control.should_log = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let a signal end the program at once again."""
        self.stop.in_loop = False


class Progress(TrainerCallback):
    """Reports every step and micro-step to the watchdog."""

    def __init__(self, watchdog: Watchdog):
        self.watchdog = watchdog

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Report progress; saving and logging of the step before are over."""
        self.watchdog.beat(state.global_step)

    on_substep_end = on_step_end = on_step_begin

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Lift the bound: writing the final model has none."""
        self.watchdog.finish()


# MFU


@dataclass(frozen=True)
class Throughput:
    """What turns tokens per second into MFU.

    Attributes:
        devices: training processes of all nodes.
        peak: FLOP/s of one device.
        attended: length of a document that attention costs as much as (`speed.attended_length`), in tokens;
            None: the mean length of the row's completions.
    """

    model: ModelShape
    devices: int
    peak: float
    attended: float | None = None

    def metrics(self, tokens_per_second: float, logs: dict[str, Any]) -> dict[str, float]:
        """Return `mfu/causal` and `mfu/full_attention`, 0 to 1, of a row with the other metrics `logs`."""
        length = self.attended or logs.get("completions/mean_length") or 0.0

        def mfu(convention: float) -> float:
            flops = speed.training_flops(self.model, length, convention)
            return speed.mfu(tokens_per_second, flops, self.devices, self.peak)

        return {"mfu/causal": mfu(speed.CAUSAL), "mfu/full_attention": mfu(speed.FULL)}


def throughput_of(trainer: Any, machine: dict[str, Any]) -> Throughput | None:
    """Return the Throughput of a trainer; None if the device's peak or the model's shape is not known.

    Args:
        machine: machine.yaml's settings.
    """
    peak = peak_of(trainer.args.device, machine)
    if peak is None:
        return None
    try:
        shape = shape_from_config(trainer.accelerator.unwrap_model(trainer.model).config.to_dict())
    except KeyError:  # not a dense decoder
        return None
    return Throughput(shape, trainer.args.world_size, peak, attended_length(trainer.train_dataset))


def peak_of(device: torch.device, machine: dict[str, Any]) -> float | None:
    """Return the FLOP/s of one device: the GPU's row of the table, or a CPU's measured matrix speed."""
    if device.type == "cpu":
        return (machine.get("reference_gflops") or speed.DEVICES["cpu"].matrix / 1e9) * 1e9
    row = speed.find_device(torch.cuda.get_device_name(device))
    return row.matrix if row else None


def attended_length(dataset: Any, sample: int = 2000) -> float | None:
    """Return `speed.attended_length` of a dataset's documents; None if the dataset has no token ids.

    Packed rows count document by document. Only the first `sample` rows are read: a dataset of millions
    shall cost no time.
    """
    few = dataset.select(range(min(sample, len(dataset))))
    if "seq_lengths" in dataset.column_names:
        return speed.attended_length(length for row in few["seq_lengths"] for length in row)
    if "input_ids" in dataset.column_names:
        return speed.attended_length(len(ids) for ids in few["input_ids"])
    return None
