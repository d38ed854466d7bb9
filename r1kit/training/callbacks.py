"""Every trainer's callbacks: the metrics file, the mark of a complete checkpoint, a stop that saves first,
the watchdog's beat.

MFU of every logged step, in both conventions, for SFT and GRPO.

`mfu/causal` counts half of attention's square (Llama's and Megatron's convention), `mfu/full_attention` all
of it (PaLM's, and TRL's `compute_flops_per_token`). Recomputation and the old policy's pass are not counted:
they are work, not progress. In GRPO the seconds of a step hold its generation too, so the figure is far below
SFT's by nature; TRL 1.16 logs none in its synchronous trainers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1kit.machine import speed
from r1kit.machine.speed import DEVICES, find_device
from r1kit.runs import files, jsonl
from r1kit.settings.known_models import ModelShape, shape_from_config
from r1kit.training import checkpoints
from r1kit.training.program import StopRequest
from r1kit.training.watchdog import Watchdog

SAMPLE = 2000
"""Documents whose lengths are asked for, so that a dataset of millions costs no time."""


@dataclass(frozen=True)
class Throughput:
    """What turns tokens a second into MFU.

    Attributes:
        devices: training processes of all nodes.
        peak: FLOP/s of one device.
        attended: tokens that attention costs as much as; None: the mean length of the row's completions.
    """

    model: ModelShape
    devices: int
    peak: float
    attended: float | None = None

    def metrics(self, tokens_per_second: float, logs: dict[str, Any]) -> dict[str, float]:
        """`mfu/causal` and `mfu/full_attention`, 0 to 1, of a row whose other metrics are `logs`."""
        length = self.attended or logs.get("completions/mean_length") or 0.0
        return {
            name: speed.mfu(
                tokens_per_second,
                speed.training_flops(self.model, length, convention),
                self.devices,
                self.peak,
            )
            for name, convention in (("mfu/causal", speed.CAUSAL), ("mfu/full_attention", speed.FULL))
        }


def throughput_of(trainer: Any, machine: dict[str, Any]) -> Throughput | None:
    """For a trainer and machine.yaml's settings; None where no table says the device's peak or the shape."""
    peak = peak_of(trainer.args.device, machine)
    model = getattr(trainer, "accelerator", None) and trainer.accelerator.unwrap_model(trainer.model)
    config = getattr(model, "config", None)
    if peak is None or config is None:
        return None
    try:
        shape = shape_from_config(config.to_dict())
    except KeyError:  # not a dense decoder
        return None
    return Throughput(shape, trainer.args.world_size, peak, attended_length(trainer.train_dataset))


def peak_of(device: Any, machine: dict[str, Any]) -> float | None:
    """FLOP/s of one device: the table's row for the GPU at hand, or a CPU's measured matrix speed."""
    if getattr(device, "type", "cpu") == "cpu":
        return (machine.get("reference_gflops") or DEVICES["cpu"].matrix / 1e9) * 1e9
    import torch

    row = find_device(torch.cuda.get_device_name(device))
    return row.matrix if row else None


def attended_length(dataset: Any) -> float | None:
    """The document length that attention costs as much as; packed rows count document by document."""
    columns = getattr(dataset, "column_names", None) or []
    if "seq_lengths" not in columns and "input_ids" not in columns:
        return None
    few = dataset.select(range(min(SAMPLE, len(dataset))))
    if "seq_lengths" in columns:
        return speed.attended_length(length for row in few["seq_lengths"] for length in row)
    return speed.attended_length(len(ids) for ids in few["input_ids"])


# Left out of metrics.jsonl: what Trainer adds to each log when it counts tokens.
NOT_METRICS = ("train_runtime", "train_tokens_per_second", "epoch")
SHOWN = {  # metric -> how it reads in train.log
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


def readable(row: dict[str, Any]) -> str:
    """One line for train.log: `step 10/250  loss 2.3100  lr 4.00e-03  12,300 tokens/s  left 1:20`."""
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


class MetricsLog(TrainerCallback):
    """Appends one row a logged step to `metrics.jsonl` and prints it as one line. Main process only.

    `seconds` counts training time and goes on where the last kept row stopped; `seconds_left` comes from this
    session's speed; `tokens_per_second` from the tokens since the last row (SFT: tokens read; GRPO: prompts
    and completions); `mfu/causal` and `mfu/full_attention` from those, where `throughput` is given.
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
        """Write the row."""
        if (
            not state.is_world_process_zero or not logs or "train_loss" in logs
        ):  # train_loss: Trainer's last words
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
                trained = logs.get("dynamic/trained_share", 1.0)  # the rest was written and left out
                found = self.throughput.metrics(rate * trained, logs)
                row.update({name: round(value, 5) for name, value in found.items()})
        self.last_time, self.last_tokens = now, state.num_input_tokens_seen
        jsonl.append(self.path, row)
        print(readable(row), flush=True)


class CompleteMarker(TrainerCallback):
    """Writes `complete.json` into a checkpoint once every process has written its part; drops the oldest.

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
            checkpoint = self.folder / f"checkpoint-{state.global_step}"
            record = {"step": state.global_step, "total_steps": state.max_steps, "written": time.time()}
            record |= checkpoints.record(
                args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
            )
            files.write_json_atomic(checkpoint / checkpoints.MARKER, record)
            checkpoints.keep_newest(self.folder, self.keep)


class GracefulStop(TrainerCallback):
    """On SIGTERM or SIGINT finish the step, save and leave the loop; all processes at the same step."""

    def __init__(self, stop: StopRequest):
        self.stop = stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From here on a signal is answered after the step."""
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
        """Nothing left to save step by step."""
        self.stop.in_loop = False


class Progress(TrainerCallback):
    """Tells the watchdog of every step."""

    def __init__(self, watchdog: Watchdog):
        self.watchdog = watchdog

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """A step begins."""
        self.watchdog.beat(state.global_step)

    def on_substep_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """A micro-step has ended."""
        self.watchdog.beat(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """A step has ended; saving and logging follow."""
        self.watchdog.beat(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What follows (the final model) has no bound."""
        self.watchdog.finish()
