"""`r1kit plan`: memory, hours and disk of a profile before anything is downloaded. Pure arithmetic, no torch.

A plan is a bound and an estimate beside it, never a measurement: what is assumed is printed with it, and
`r1kit plan --against RUN` holds it against what happened.
"""

from __future__ import annotations

from r1kit.machine.layer_speed import LayerSpeed
from r1kit.machine.plan.claims import audit
from r1kit.machine.plan.hours import grpo_hours, sft_hours
from r1kit.machine.plan.inputs import (
    Training,
    device_of,
    generation_of,
    given,
    training_of,
)
from r1kit.machine.plan.memory import server_memory, training_memory
from r1kit.machine.plan.remedies import nearest
from r1kit.machine.plan.result import Plan, StagePlan
from r1kit.machine.plan.speeds import shared, speeds_of
from r1kit.settings import Problem, Profile, SettingsError
from r1kit.settings.errors import display_path
from r1kit.settings.lengths import Lengths
from r1kit.settings.trace_lengths import trace_count, trace_lengths

__all__ = ["Plan", "StagePlan", "disk_bytes", "make_plan", "packing_of"]

CHECKPOINT_BYTES = {"deepspeed": 14, "fsdp": 14, "ddp": 12, "single": 12}
"""Bytes a parameter on disk: bf16 weights and DeepSpeed's float32 states, or float32 weights and moments."""


def make_plan(
    profile: Profile,
    *,
    lengths: Lengths | None = None,
    gflops: float | None = None,
    layer: LayerSpeed | None = None,
    documents: int | None = None,
    prompts: int | None = None,
) -> Plan:
    """The plan of a profile.

    Args:
        lengths: the measured histogram of its SFT data; by default what is known of the source.
        gflops: a CPU's measured matrix speed, which takes the place of the profile's reference.
        layer: a CPU's measured speed with small layers; it says more, and counts where both are given.
        documents: how many traces there are; by default what is known of the source.
        prompts: how many prompts GRPO has; by default as data.yaml says.

    Raises:
        SettingsError: machine.yaml names no device, or nothing says the model's shape.
    """
    device, assumed = device_of(profile), profile.machine.plan
    speeds = speeds_of(profile, device, gflops, layer)
    data = profile.data.model_dump()
    lengths = lengths or trace_lengths(data)
    if lengths is None:
        message = "Nothing is known of the lengths of these traces."
        problem = Problem(
            display_path(profile.folder / "data.yaml"),
            "traces_from",
            allowed="--lengths FILE",
            message=message,
        )
        raise SettingsError([problem])
    documents, generation = documents or trace_count(data), generation_of(profile)
    trainings = {"sft": training_of(profile, "sft"), "grpo": training_of(profile, "grpo")}
    server = server_memory(generation, trainings["grpo"], device)
    beside = server.total if generation.mode != "server" else 0.0

    def fits(training: Training) -> bool:
        taken = beside if training.section == "grpo" else 0.0
        return training_memory(training, device).total + taken <= device.memory

    stages = {}
    for name, training in trainings.items():
        good = fits(training)
        changes = () if good else tuple(str(change) for change in nearest(training, fits))
        if not good and not changes:
            changes = ("no change of settings is enough: more or larger devices, or a smaller model",)
        stages[name] = StagePlan(training, training_memory(training, device), good, changes)
    sft = sft_hours(
        trainings["sft"],
        shared(speeds, profile, trainings["sft"].devices),
        lengths,
        documents,
        packing=packing_of(profile),
        max_steps=given(profile, "sft", "max_steps"),
        epochs=given(profile, "sft", "num_train_epochs"),
        measured_step=assumed.sft_step_seconds,
    )
    grpo = grpo_hours(
        trainings["grpo"],
        generation,
        shared(speeds, profile, trainings["grpo"].devices),
        prompts=prompts or profile.data.prompts,
        group=given(profile, "grpo", "num_generations"),
        iterations=given(profile, "grpo", "num_iterations") or 1,
        max_steps=given(profile, "grpo", "max_steps"),
        epochs=given(profile, "grpo", "num_train_epochs"),
        cache_tokens=server.kv_tokens,
    )
    claims = audit(assumed.claims, trainings["sft"], sft, documents) if assumed.claims else ()
    return Plan(
        profile=profile.name,
        device=device,
        speeds=speeds,
        lengths=lengths,
        stages=stages,
        generation=generation,
        server=server,
        server_fits=server.kv_tokens > generation.prompt + generation.longest
        and server.total <= device.memory,
        sft=sft,
        grpo=grpo,
        disk=disk_bytes(profile, trainings),
        claims=tuple(claims),
    )


def packing_of(profile: Profile) -> str | None:
    """How the SFT packs: TRL's strategy, "rows" for our own packing, None for padding."""
    if profile.sft.row_packing:
        return "rows"
    return given(profile, "sft", "packing_strategy") if given(profile, "sft", "packing") else None


def disk_bytes(profile: Profile, trainings: dict[str, Training]) -> dict[str, int]:
    """Bytes of the checkpoints that are kept at once, and of the final model, for each stage."""
    sizes = {}
    for name, training in trainings.items():
        trained = training.adapter or training.model.parameters
        kept = given(profile, name, "save_total_limit")
        states = 0 if given(profile, name, "save_only_model") else CHECKPOINT_BYTES[training.engine]
        one = trained * max(states, training.weight_bytes)
        # A checkpoint is complete before the oldest goes: one more than are kept.
        sizes[f"{name}_checkpoint"] = one
        sizes[f"{name}_kept"] = one * ((kept or 10) + 1)
        sizes[f"{name}_model"] = training.model.parameters * training.weight_bytes
    sizes["total"] = sum(size for name, size in sizes.items() if not name.endswith("_checkpoint"))
    return sizes
