"""The plan of a profile: memory, hours and disk of its SFT and its GRPO."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from r1kit.machine.plan.hours import GrpoHours, SftHours, grpo_hours, sft_hours
from r1kit.machine.plan.inputs import (
    Generation,
    Speeds,
    Training,
    device_of,
    generation_of,
    packing_of,
    refusal,
    speeds_of,
    training_of,
    training_speeds,
)
from r1kit.machine.plan.memory import Memory, ServerMemory, server_memory, suggest, training_memory
from r1kit.machine.speed import Device
from r1kit.settings import Profile
from r1kit.settings.known_models import Lengths, trace_count, trace_lengths

CHECKPOINT_BYTES = {"deepspeed": 14, "fsdp": 14, "ddp": 12, "single": 12}
"""Bytes per parameter on disk: bf16 weights with DeepSpeed's float32 states, or float32 weights, moments."""

NOTHING_FITS = "no change of settings is enough: more or larger devices, or a smaller model"


@dataclass(frozen=True)
class StagePlan:
    """The memory of one training; `nearest`: the settings to change if it does not fit."""

    training: Training
    memory: Memory
    fits: bool
    nearest: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The plan of a profile, in bytes, seconds and tokens."""

    profile: str
    device: Device
    speeds: Speeds
    lengths: Lengths
    stages: dict[str, StagePlan]
    generation: Generation
    server: ServerMemory
    server_fits: bool
    sft: SftHours
    grpo: GrpoHours
    disk: dict[str, int]

    @property
    def trainer(self) -> StagePlan:
        """The training that needs the most memory: what the devices must hold."""
        return max(self.stages.values(), key=lambda stage: stage.memory.total)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for `--json`."""
        trainer, generation, server = self.trainer, self.generation, self.server
        model = trainer.training.model
        stages = {
            name: {
                "per_device_bytes": stage.memory.as_dict(),
                "fits": stage.fits,
                "nearest": list(stage.nearest),
            }
            for name, stage in self.stages.items()
        }
        return {
            "profile": self.profile,
            "device": {
                "name": self.device.name,
                "memory_bytes": self.device.memory,
                "matrix_flops": self.speeds.peak,
                "bandwidth": self.speeds.bandwidth,
                "source": self.device.source,
            },
            "assumptions": {
                "train_share": self.speeds.train_share,
                "decode_share": self.speeds.decode_share,
                "lengths": self.lengths.source,
                "mean_completion": generation.mean,
            },
            "model": {"parameters": model.parameters, "matrix_parameters": model.matrix_parameters},
            "trainer": {
                "devices": trainer.training.devices,
                "stage": trainer.training.section,
                "per_device_bytes": trainer.memory.as_dict(),
                "states_bytes": round(trainer.memory.states),
                "fits": all(stage.fits for stage in self.stages.values()),
                "nearest": [change for stage in self.stages.values() for change in stage.nearest],
                "stages": stages,
            },
            "server": {
                "mode": generation.mode,
                "devices": generation.devices,
                "per_device_bytes": server.as_dict(),
                "kv_tokens": server.kv_tokens,
                "kv_tokens_wanted": server.wanted_tokens,
                "fits": self.server_fits,
            },
            "sft": asdict(self.sft) | {"hours": self.sft.hours},
            "grpo": asdict(self.grpo) | {"step_seconds": self.grpo.step_seconds, "hours": self.grpo.hours},
            "disk_bytes": self.disk,
        }


def make_plan(
    profile: Profile,
    *,
    lengths: Lengths | None = None,
    gflops: float | None = None,
    documents: int | None = None,
    prompts: int | None = None,
) -> Plan:
    """Plan the SFT and the GRPO of a profile.

    Args:
        lengths: the measured histogram of its SFT data; by default what is known of the source.
        gflops: the measured matrix speed of a CPU, in place of the profile's reference.
        documents: number of traces; by default what is known of the source.
        prompts: number of prompts of GRPO; by default as data.yaml says.

    Raises:
        SettingsError: machine.yaml names no device, or nothing says the model's shape or the traces' lengths.
    """
    device, data = device_of(profile), profile.data.model_dump()
    speeds = speeds_of(profile, gflops)
    lengths = lengths or trace_lengths(data)
    if lengths is None:
        message = "Nothing is known of the lengths of these traces."
        raise refusal(profile, "data.yaml", "traces_from", message, allowed="--lengths FILE")
    sft, grpo = training_of(profile, "sft"), training_of(profile, "grpo")
    generation = generation_of(profile)
    server = server_memory(generation, grpo, device)
    beside = server.total if generation.mode != "server" else 0.0
    return Plan(
        profile=profile.name,
        device=device,
        speeds=speeds,
        lengths=lengths,
        stages={"sft": stage_plan(sft, device), "grpo": stage_plan(grpo, device, beside)},
        generation=generation,
        server=server,
        server_fits=server.kv_tokens > generation.prompt + generation.longest
        and server.total <= device.memory,
        sft=sft_hours(
            sft,
            training_speeds(profile, speeds, sft),
            lengths,
            documents or trace_count(data),
            packing=packing_of(profile),
            max_steps=profile.in_effect("sft", "max_steps"),
            epochs=profile.in_effect("sft", "num_train_epochs"),
            measured_step=profile.machine.plan.sft_step_seconds,
        ),
        grpo=grpo_hours(
            grpo,
            generation,
            training_speeds(profile, speeds, grpo),
            prompts=prompts or profile.data.prompts,
            group=profile.in_effect("grpo", "num_generations"),
            iterations=profile.in_effect("grpo", "num_iterations") or 1,
            max_steps=profile.in_effect("grpo", "max_steps"),
            epochs=profile.in_effect("grpo", "num_train_epochs"),
            cache_tokens=server.kv_tokens,
        ),
        disk=disk_bytes(profile, {"sft": sft, "grpo": grpo}),
    )


def stage_plan(training: Training, device: Device, beside: float = 0.0) -> StagePlan:
    """Plan the memory of a training beside `beside` bytes of generation in the same devices."""

    def fits(other: Training) -> bool:
        return training_memory(other, device).total + beside <= device.memory

    good = fits(training)
    nearest = () if good else suggest(training, fits) or (NOTHING_FITS,)
    return StagePlan(training, training_memory(training, device), good, nearest)


def disk_bytes(profile: Profile, trainings: dict[str, Training]) -> dict[str, int]:
    """Return the bytes of the checkpoints that are kept at once, and of the final model, for each stage."""
    sizes = {}
    for name, training in trainings.items():
        trained = training.adapter or training.model.parameters
        kept = profile.in_effect(name, "save_total_limit")
        states = 0 if profile.in_effect(name, "save_only_model") else CHECKPOINT_BYTES[training.engine]
        one = trained * max(states, training.weight_bytes)
        # The oldest checkpoint is deleted only after the newest is complete: one more than are kept.
        sizes[f"{name}_checkpoint"] = one
        sizes[f"{name}_kept"] = one * ((kept or 10) + 1)
        sizes[f"{name}_model"] = training.model.parameters * training.weight_bytes
    sizes["total"] = sum(size for name, size in sizes.items() if not name.endswith("_checkpoint"))
    return sizes
