"""machine.yaml: the only file of a profile that knows what it runs on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r1kit.settings.cluster import EnvironmentText, LayoutSettings, ServerSettings, WeightSyncSettings
from r1kit.settings.planning import AcceleratorName, PlanSettings
from r1kit.settings.stage_names import STAGES
from r1kit.settings.strict import Positive, Settings


class SandboxSettings(Settings):
    """Where and within which limits model-written programs run (the `code` rewards)."""

    workers: Positive | None = Field(
        default=None,
        description="Programs at once; null: two cores less than there are, divided by the processes.",
    )
    tier: Literal["auto", "bubblewrap", "bubblewrap-no-proc", "landlock"] = Field(
        default="auto", description="`auto` takes the strongest that works on this machine."
    )
    fork_server: bool = Field(
        default=True, description="Fork a warm interpreter for each program instead of starting one."
    )
    unsafe: bool = Field(
        default=False, description="Run programs with limits but without isolation where no tier works."
    )
    cpu_seconds: Positive = Field(default=4, description="Of one test case.")
    wall_seconds: Positive = Field(default=8, description="Of one test case.")
    memory_mb: Positive = Field(default=512, description="Address space of one test case, in MiB.")


class MachineSettings(Settings):
    """machine.yaml: device, environment, sandbox, servers, and what `r1kit plan` counts with."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        description="Where training runs. `cuda` also means ROCm, as in PyTorch; `auto` takes what is there."
    )
    environment: dict[str, EnvironmentText] = Field(
        default_factory=dict, description="Environment variables of every program that a run starts."
    )
    grace_seconds: float = Field(
        gt=0, description="Seconds a training has to write a checkpoint after SIGTERM before it is killed."
    )
    sandbox: SandboxSettings = Field(
        default_factory=SandboxSettings, description="Where the programs run that models write."
    )
    layout: LayoutSettings | None = Field(
        default=None, description="Which GPUs serve and which train; null: all of them train."
    )
    server: ServerSettings | None = Field(
        default=None, description="A vLLM server beside the trainer; null: the trainer generates itself."
    )
    weight_sync: WeightSyncSettings = Field(
        default_factory=WeightSyncSettings, description="How the trainer's weights reach the server."
    )
    step_seconds: float = Field(
        default=1800, gt=0, description="Longest optimizer step without its rollouts; after it, it hangs."
    )
    expected_minutes: dict[Literal[tuple(STAGES)], Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Minutes per stage, measured on the reference machine."
    )
    reference_gflops: float | None = Field(
        default=None, gt=0, description="What `machine.speed.measure_gflops` says on the reference machine."
    )
    image: str | None = Field(
        default=None, description="Container image the profile is made for; its tag names the releases."
    )
    accelerator: AcceleratorName | None = Field(
        default=None, description="Row of the device table that `r1kit plan` counts with."
    )
    plan: PlanSettings = Field(
        default_factory=PlanSettings, description="What `r1kit plan` assumes on this machine."
    )
