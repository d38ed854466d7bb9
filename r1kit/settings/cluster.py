"""The cluster part of machine.yaml: which devices serve and which train, the vLLM server, the way of weights.

All of it is optional. Without `server` a profile generates inside the trainer, as cpu-tiny does. What TRL
names already (`use_vllm`, `vllm_mode`, `vllm_group_port`, ...) stands in grpo.yaml.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from r1kit.settings.strict import Positive, Seconds, Settings

# An environment variable is text, but nobody writes OMP_NUM_THREADS: "1".
EnvironmentText = Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v)]
Devices = list[Annotated[int, Field(ge=0)]]


class LayoutSettings(Settings):
    """Which GPUs of the machine do what, by their numbers without any mask; a CPU has none to share."""

    serve: Devices = Field(description="Devices of the vLLM server; empty where it runs inside the trainer.")
    train: Annotated[Devices, Field(min_length=1)] = Field(description="One training process on each.")


class ServerSettings(Settings):
    """A vLLM server beside the trainer, started with `r1kit serve` or by the lesson."""

    replicas: Positive = Field(
        default=1,
        description="Servers, each with the whole model; vLLM's own data parallelism refuses dense models.",
    )
    tensor_parallel_size: Positive = Field(default=1, description="Devices over which one replica is cut.")
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
        default=False, description="Neither compile nor capture graphs: starts sooner, generates more slowly."
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
    restart: bool = Field(
        default=False, description="Start a server again that died; the same run then goes on."
    )
    restarts: int = Field(default=3, ge=0, description="How often, before the run stops.")


class WeightSyncSettings(Settings):
    """How the trainer's weights reach the server, and when the two count as apart."""

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
    """Training processes of GRPO: one on each device of `layout.train`, else as many as accelerate's.

    Base model and SFT train on all `processes`: no server runs beside them.
    """
    return len(layout.train) if layout else processes
