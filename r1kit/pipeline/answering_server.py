"""The vLLM server of stages that only write answers: benchmarks, rejection sampling, pass rates.

No trainer runs beside them, so all devices serve. A profile whose GRPO generates inside the trainer needs no
`server` in machine.yaml for it: transformers would write 32,768 tokens for days.
"""

from __future__ import annotations

from importlib.util import find_spec

from r1kit.machine import detect_device
from r1kit.settings.cluster import LayoutSettings, ServerSettings
from r1kit.settings.models import MachineSettings


def answering_machine(machine: MachineSettings, tokens: int) -> MachineSettings | None:
    """machine.yaml with a server for prompts and answers of `tokens` together, on every device that there is.

    None where this process has to answer: vLLM is not installed, or there is neither a server in the profile
    nor a GPU.
    """
    device = "cpu" if machine.device == "cpu" else detect_device()[0].split(":")[0]
    if find_spec("vllm") is None or (machine.server is None and device != "cuda"):
        return None
    if machine.server is None:
        from torch.cuda import device_count

        return on_all(machine, ServerSettings(max_model_len=tokens, dtype="bfloat16"), range(device_count()))
    server = machine.server.model_copy(update={"max_model_len": max(tokens, machine.server.max_model_len)})
    if machine.layout is None:
        return machine.model_copy(update={"server": server})
    return on_all(machine, server, sorted({*machine.layout.serve, *machine.layout.train}))


def on_all(machine: MachineSettings, server: ServerSettings, devices: range | list[int]) -> MachineSettings:
    """The machine with as many replicas of the server as its devices hold."""
    replicas = max(1, len(devices) // server.tensor_parallel_size)
    used = list(devices)[: replicas * server.tensor_parallel_size]
    update = {"server": server.model_copy(update={"replicas": replicas})}
    if len(used) > 1:
        # `train` must name a device; no trainer runs beside this server.
        update["layout"] = LayoutSettings(serve=used, train=used[:1])
    return machine.model_copy(update=update)
