"""machine.yaml, accelerate.yaml and site files: what a profile runs on.

machine.yaml describes the devices, the environment, the sandbox, and the vLLM server with its weight sync.
The server is optional; TRL's own keys for it (`use_vllm`, `vllm_mode`, ...) are in grpo.yaml.
accelerate.yaml is accelerate's own file. `sites/<name>.yaml` holds what a cluster's scheduler and network
need; it is not part of a profile, because it does not change a training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from r1kit.settings import trl_keys
from r1kit.settings.errors import Problem, SettingsError, display_path, nearest_name, shipped_folder
from r1kit.settings.lessons import STAGES
from r1kit.settings.validation import Positive, Seconds, Settings, Source, settings_of

# An environment variable is text, but nobody writes OMP_NUM_THREADS: "1".
EnvironmentText = Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v)]
Devices = list[Annotated[int, Field(ge=0)]]


class LayoutSettings(Settings):
    """Assignment of the machine's GPUs, by their numbers without any mask. A CPU machine has no layout."""

    serve: Devices = Field(description="Devices of the vLLM server; empty if vLLM runs inside the trainer.")
    train: Annotated[Devices, Field(min_length=1)] = Field(description="One training process per device.")


class ServerSettings(Settings):
    """A vLLM server beside the trainer, started with `r1kit serve` or by the lesson."""

    replicas: Positive = Field(
        default=1,
        description="Servers, each with the whole model; vLLM's own data parallelism refuses dense models.",
    )
    tensor_parallel_size: Positive = Field(default=1, description="Devices that share one replica.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address the server listens on. Anyone who reaches it may replace the weights.",
    )
    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of the first replica, the next ones follow; 0 takes free ones.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Type of the served weights; `auto` takes the model's own."
    )
    max_model_len: Positive = Field(description="Tokens of the longest prompt and completion together.")
    max_num_seqs: Positive | None = Field(
        default=None, description="Completions in flight at once in a replica; null: vLLM decides."
    )
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="Share of a device's memory for weights and KV cache."
    )
    kv_cache_gib: float | None = Field(
        default=None, gt=0, description="KV cache of a replica in GiB, instead of a share of the memory."
    )
    eager: bool = Field(
        default=False, description="Skip compilation and graph capture: starts faster, generates more slowly."
    )
    shared_secret: bool = Field(
        default=True, description="Ask for a key on /v1; vLLM leaves its development endpoints open."
    )
    environment: dict[str, EnvironmentText] = Field(
        default_factory=dict, description="Environment variables of the server, on top of the profile's."
    )
    arguments: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Further options of vLLM's server by their long names, without dashes in front.",
    )
    start_seconds: Seconds = Field(default=600, description="Longest wait until a server is ready.")
    health_seconds: Seconds = Field(
        default=60, description="Longest silence on /health before a server counts as dead."
    )
    generation_seconds: Seconds = Field(default=900, description="Longest time of one batch of rollouts.")
    sync_seconds: Seconds = Field(default=120, description="Longest time of one transfer of the weights.")
    restart: bool = Field(default=False, description="Restart a server that died and continue the run.")
    restarts: int = Field(default=3, ge=0, description="Restarts before the run stops.")


class WeightSyncSettings(Settings):
    """Transfer of the trainer's weights to the server, and the largest drift between the two."""

    transport: Literal["file", "nccl"] = Field(
        default="file",
        description="`file`: through a folder both see, works everywhere; `nccl`: TRL's own way, GPUs only.",
    )
    folder: str | None = Field(
        default=None, description="Folder of the transport `file`; null: shared memory (/dev/shm)."
    )
    drift: float = Field(
        default=0.1,
        gt=0,
        description="Stop when the mean importance ratio of trainer and server leaves 1, or their "
        "log-probabilities differ on average, by more than this.",
    )


def grpo_processes(layout: LayoutSettings | None, processes: int) -> int:
    """Count GRPO's training processes: one per device of `layout.train`, without a layout `processes`.

    Base model and SFT always train with all `processes`, because no server runs beside them.
    """
    return len(layout.train) if layout else processes


AcceleratorName = Literal["mi300x", "mi325x", "mi350x", "mi355x", "h100", "h200", "b200", "l4", "cpu"]
"""Rows of the device table, `r1kit.machine.speed.DEVICES` (a test holds the two equal)."""

PositiveShare = Annotated[float, Field(gt=0, le=1)]


class PlanSettings(Settings):
    """Numbers for `r1kit plan` that cannot be computed. Note the origin of each in a comment beside it."""

    train_share: PositiveShare | None = Field(
        default=None,
        description="Share of the peak that training reaches, recomputation included; null: device table.",
    )
    decode_share: PositiveShare | None = Field(
        default=None, description="Share of the memory bandwidth that generation reaches; null: device table."
    )
    sft_step_seconds: float | None = Field(
        default=None, gt=0, description="A measured SFT step; hours and MFU then come from it."
    )
    mean_completion: PositiveShare = Field(
        default=0.5,
        description="Mean length of a GRPO completion over max_completion_length: 0.5 is uniform lengths.",
    )


class SandboxSettings(Settings):
    """Isolation and limits of model-written programs (the `code` rewards)."""

    workers: Positive | None = Field(
        default=None,
        description="Parallel programs; null: all cores but two, divided by the processes.",
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
    """machine.yaml: device, environment, sandbox, servers, and the inputs of `r1kit plan`."""

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
        default_factory=SandboxSettings, description="Isolation of model-written programs."
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
        default=1800,
        gt=0,
        description="Longest optimizer step without its rollouts; a longer one hangs.",
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


class AccelerateSettings(Settings):
    """accelerate.yaml, as far as the kit reads it; accelerate's other keys are allowed with any value."""

    distributed_type: Literal[tuple(trl_keys.distributed_types())]
    num_processes: Positive = 1
    num_machines: Positive = 1
    machine_rank: int = Field(default=0, ge=0)
    main_process_port: int | None = Field(default=None, ge=0)
    mixed_precision: Literal["no", "fp16", "bf16", "fp8"] = "no"
    use_cpu: bool = False
    deepspeed_config: dict[str, Any] = Field(default_factory=dict)
    fsdp_config: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def library_keys(cls) -> dict[str, Any]:
        """List the other keys of accelerate's file, with the older names that it still converts."""
        names = {*trl_keys.accelerate_keys(), "fp16", "dynamo_backend"}
        return dict.fromkeys(names - set(cls.model_fields), Any)


SITE_ROOT = shipped_folder("sites")
Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]


class Site(Settings):
    """Requests of `r1kit run --on slurm` to the cluster."""

    partition: str | None = Field(default=None, description="Slurm's partition; null: the default one.")
    account: str | None = Field(default=None, description="Account that is charged.")
    time: str = Field(
        default="24:00:00",
        pattern=r"^(\d+-)?\d{1,2}(:\d{2}){0,2}$|^\d+$",
        description="Time limit of the job; a longer run is requeued and resumes.",
    )
    server_nodes: int = Field(
        default=0, ge=0, description="Nodes for the vLLM servers, beside the trainer's num_machines."
    )
    gpus_per_node: Positive | None = Field(default=None, description="GPUs of a node; null asks for none.")
    cpus_per_node: Positive | None = Field(default=None, description="Cores of a node; null: all of them.")
    options: dict[str, Text | bool] = Field(
        default_factory=dict,
        description="Further options of sbatch by their long names, without dashes: {constraint: mi350x}.",
    )
    setup: list[str] = Field(
        default_factory=list, description="Lines of bash that run first: module load rocm."
    )
    environment: dict[str, Text] = Field(
        default_factory=dict, description="Variables of every node: network cards, NCCL, RCCL."
    )
    requeues: int = Field(
        default=20, ge=0, description="Most times that a run is requeued at its time limit."
    )


def load_site(name_or_path: str) -> Site:
    """Load the site `sites/<name>.yaml` or the given file; without a name return the defaults.

    Raises:
        SettingsError: with all problems, if the file is missing or wrong.
    """
    if not name_or_path:
        return Site()
    path = Path(name_or_path).expanduser()
    if "/" not in name_or_path and not path.suffix:
        path = SITE_ROOT / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in SITE_ROOT.glob("*.yaml"))
        raise SettingsError(
            [
                Problem(
                    name_or_path,
                    "site",
                    found="a folder" if path.is_dir() else "no such file or directory",
                    allowed=", ".join([*known, "or the path of a site file"]),
                    nearest=nearest_name(path.stem, known),
                    message=f"Sites are files in {display_path(SITE_ROOT)}.",
                )
            ]
        )
    site, problems = settings_of(Site, Source("site", display_path(path)), {}, path)
    if problems:
        raise SettingsError(problems, f"bad site file {display_path(path)}")
    return site
