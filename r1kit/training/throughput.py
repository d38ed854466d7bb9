"""MFU of every logged step, in both conventions, for SFT and GRPO.

`mfu/causal` counts half of attention's square (Llama's and Megatron's convention), `mfu/full_attention` all
of it (PaLM's, and TRL's `compute_flops_per_token`). Recomputation and the old policy's pass are not counted:
they are work, not progress. In GRPO the seconds of a step hold its generation too, so the figure is far below
SFT's by nature; TRL 1.16 logs none in its synchronous trainers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from r1kit.machine import flops
from r1kit.machine.peaks import DEVICES, find_device
from r1kit.settings.known_models import ModelShape, shape_from_config

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
            name: flops.mfu(
                tokens_per_second,
                flops.training_flops(self.model, length, convention),
                self.devices,
                self.peak,
            )
            for name, convention in (("mfu/causal", flops.CAUSAL), ("mfu/full_attention", flops.FULL))
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
        return flops.attended_length(length for row in few["seq_lengths"] for length in row)
    return flops.attended_length(len(ids) for ids in few["input_ids"])
