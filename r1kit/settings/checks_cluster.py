"""Which devices serve, which train, and how many processes that makes; what the other cluster rules read.

A wrong layout hangs in the first collective; here it is a sentence before the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from r1kit.settings.checks import rule
from r1kit.settings.cluster import LayoutSettings, ServerSettings, WeightSyncSettings, grpo_processes
from r1kit.settings.errors import Problem
from r1kit.settings.view import NotKnown, View


def part(view: View, name: str, model: Any) -> Any:
    """A part of machine.yaml with its defaults; None if there is none. Raises NotKnown if it is wrong."""
    value = view[f"machine.{name}"]
    if value is None or not isinstance(value, dict):
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise NotKnown(name) from error


def layout_of(view: View) -> LayoutSettings | None:
    """machine.yaml's layout."""
    return part(view, "layout", LayoutSettings)


def server_of(view: View) -> ServerSettings | None:
    """machine.yaml's server."""
    return part(view, "server", ServerSettings)


def sync_of(view: View) -> WeightSyncSettings:
    """machine.yaml's weight_sync, or its defaults."""
    return part(view, "weight_sync", WeightSyncSettings) or WeightSyncSettings()


def processes_of_grpo(view: View) -> int:
    """Training processes of GRPO."""
    return grpo_processes(layout_of(view), view["accelerate.num_processes"])


def mode(view: View) -> str:
    """How GRPO generates: `server`, `colocate`, or "" for the trainer itself."""
    return view["grpo.vllm_mode"] if view["grpo.use_vllm"] else ""


@rule
def layout_is_for_gpus(view: View) -> Iterator[Problem]:
    """The masks of a layout would hide GPUs that are not used anyway, and GRPO's processes be miscounted."""
    if layout_of(view) and view["machine.device"] == "cpu":
        yield view.problem("machine.layout", "device: cpu has no devices to share out.", "no such key")


@rule
def devices_are_apart(view: View) -> Iterator[Problem]:
    """Server and trainer on one GPU hang when they build the group in which weights move (TRL issue 2923)."""
    layout = layout_of(view)
    if not layout:
        return
    for name, devices in (("serve", layout.serve), ("train", layout.train)):
        if len(set(devices)) < len(devices):
            yield view.problem(f"machine.layout.{name}", "A device is named twice.", "each device once")
    both = sorted({*layout.serve} & {*layout.train})
    if both:
        message = f"{both} would serve and train at once. To share devices: vllm_mode: colocate, serve: []."
        yield view.problem("machine.layout.serve", message, "devices that are not among `train`")


@rule
def layout_and_server_agree(view: View) -> Iterator[Problem]:
    """A replica would start without a device, or a device would idle."""
    layout, server = layout_of(view), server_of(view)
    if layout and server:
        needed = server.replicas * server.tensor_parallel_size
        if len(layout.serve) != needed:
            allowed = (
                f"{needed} devices = {server.replicas} replicas x {server.tensor_parallel_size} "
                "tensor_parallel_size"
            )
            yield view.problem("machine.layout.serve", "The server has other devices than it needs.", allowed)
    elif layout and layout.serve:
        yield view.problem("machine.layout.serve", "There is no `server` to run on them.", "[]")
    elif server and view["machine.device"] == "cuda":
        message = "Without a layout the server would share the trainer's devices: the first sync would hang."
        allowed = "layout: {serve: [...], train: [...]}"
        yield view.problem("machine.layout", message, allowed, found="nothing")


@rule
def processes_fit_the_layout(view: View) -> Iterator[Problem]:
    """One process would find no device, or share one with another process."""
    layout, processes = layout_of(view), view["accelerate.num_processes"]
    if layout and view["accelerate.num_machines"] == 1:
        train, all_ = len(layout.train), len({*layout.serve, *layout.train})
        if processes not in (train, all_):
            allowed = f"{train}, the devices of layout.train" + (
                f", or {all_}: base model and SFT then use those of the server too" if all_ != train else ""
            )
            message = "GRPO takes one process a device of layout.train, whatever this says."
            yield view.problem("accelerate.num_processes", message, allowed)


@rule
def several_processes_start_on_a_cpu(view: View) -> Iterator[Problem]:
    """accelerate 1.15 leaves MULTI_CPU to MPI: with num_processes 2 it starts one process without a word.

    Over several nodes it is srun that starts them (runs/nodes.py).
    """
    of_mpi = view["accelerate.distributed_type"] == "MULTI_CPU" and view["accelerate.num_machines"] == 1
    if of_mpi and view["accelerate.num_processes"] > 1:
        message = "accelerate would start one process only."
        allowed = "MULTI_GPU (with use_cpu: true: the same on CPUs), DEEPSPEED or FSDP"
        yield view.problem("accelerate.distributed_type", message, allowed, "MULTI_GPU")


@rule
def layout_sets_the_masks(view: View) -> Iterator[Problem]:
    """A mask in `environment` would renumber the devices that the layout names."""
    for name in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        key = f"machine.environment.{name}"
        if layout_of(view) and view.given(key):
            message = "machine.yaml's layout sets the masks."
            yield view.problem(key, message, "no such variable beside a layout")
