"""What a plan says: a stage's memory, and everything else, as one object and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from r1kit.machine.peaks import Device
from r1kit.machine.plan.claims import Finding
from r1kit.machine.plan.hours import GrpoHours, SftHours, Speeds
from r1kit.machine.plan.inputs import Generation, Training
from r1kit.machine.plan.memory import Memory, ServerMemory
from r1kit.settings.lengths import Lengths


@dataclass(frozen=True)
class StagePlan:
    """One training stage."""

    training: Training
    memory: Memory
    fits: bool
    nearest: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that can be said from a profile alone. Bytes, seconds and tokens are plain numbers."""

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
    claims: tuple[Finding, ...]

    @property
    def trainer(self) -> StagePlan:
        """The stage that needs most memory: what the devices must hold."""
        return max(self.stages.values(), key=lambda stage: stage.memory.total)

    def as_dict(self) -> dict[str, Any]:
        """The plan for `--json`."""
        trainer, sft, grpo = self.trainer, self.sft, self.grpo
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
                "mean_completion": self.generation.mean,
            },
            "model": {
                "parameters": trainer.training.model.parameters,
                "matrix_parameters": trainer.training.model.matrix_parameters,
            },
            "trainer": {
                "devices": trainer.training.devices,
                "stage": trainer.training.section,
                "per_device_bytes": trainer.memory.as_dict(),
                "states_bytes": round(trainer.memory.states),
                "fits": all(stage.fits for stage in self.stages.values()),
                "nearest": [change for stage in self.stages.values() for change in stage.nearest],
                "stages": {
                    name: {
                        "per_device_bytes": stage.memory.as_dict(),
                        "fits": stage.fits,
                        "nearest": list(stage.nearest),
                    }
                    for name, stage in self.stages.items()
                },
            },
            "server": {
                "mode": self.generation.mode,
                "devices": self.generation.devices,
                "per_device_bytes": self.server.as_dict(),
                "kv_tokens": self.server.kv_tokens,
                "kv_tokens_wanted": self.server.wanted_tokens,
                "fits": self.server_fits,
            },
            "sft": {
                "tokens": sft.tokens,
                "steps": sft.steps,
                "hours": sft.hours,
                "mfu": sft.mfu,
                **{
                    name: getattr(sft, name)
                    for name in (
                        "mfu_full_attention",
                        "hfu",
                        "step_seconds",
                        "roofline_seconds",
                        "tokens_per_second",
                        "flops_per_token",
                        "epochs",
                        "fill",
                    )
                },
                "packing": asdict(sft.packing) if sft.packing else None,
            },
            "grpo": {
                "steps": grpo.steps,
                "step_seconds": grpo.step_seconds,
                "hours": grpo.hours,
                **{
                    name: getattr(grpo, name)
                    for name in (
                        "generate_seconds",
                        "learn_seconds",
                        "sync_seconds",
                        "roofline_seconds",
                        "completions_per_step",
                        "tokens_per_step",
                        "padding_fill",
                        "learner_mfu",
                    )
                },
            },
            "disk_bytes": self.disk,
            "claims": [asdict(finding) for finding in self.claims],
        }
