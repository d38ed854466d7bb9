"""Rules about the cluster: devices, the vLLM server, how weights reach it, and what vLLM does to GRPO's
ratios.

Most of them turn a hang or a silent bias of TRL 1.16 with vLLM into a sentence before the start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from r1kit.settings.checks import advice, rule
from r1kit.settings.cluster import LayoutSettings, ServerSettings, WeightSyncSettings, grpo_processes
from r1kit.settings.errors import Problem
from r1kit.settings.models import TRAINER_SECTIONS
from r1kit.settings.view import NotKnown, View

LONG = 1024  # tokens; from here on sequence-level correction silences completions (see the rule)
OURS = {  # options of vLLM's server that `server` or `r1kit serve` decides
    "model": "r1kit serve --model",
    "api-key": "server.shared_secret",
    "data-parallel-size": "server.replicas: since 0.14 vLLM refuses it for dense models",
    "logprobs-mode": "r1kit: TRL needs processed_logprobs",
    "max-logprobs": "r1kit: TRL needs -1",
    "worker-extension-cls": "r1kit: weights are loaded through it",
    "weight-transfer-config": "weight_sync.transport",
    "enforce-eager": "server.eager",
    "kv-cache-memory-bytes": "server.kv_cache_gib",
}
OURS |= {name.replace("_", "-"): f"server.{name}" for name in ("host", "port", "dtype", "max_model_len")}
OURS |= {
    name.replace("_", "-"): f"server.{name}"
    for name in ("max_num_seqs", "tensor_parallel_size", "gpu_memory_utilization")
}


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


def corrected(view: View) -> bool:
    """Whether the trainer corrects for the difference to vLLM's log-probabilities."""
    return bool(mode(view)) and bool(view["grpo.vllm_importance_sampling_correction"])


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


@rule
def server_and_trainer_know_each_other(view: View) -> Iterator[Problem]:
    """A server that nobody asks idles on its devices; a trainer without one waits for it in vain."""
    server, how = server_of(view), mode(view)
    given = view.given("grpo.vllm_server_base_url") or view.given("grpo.vllm_server_host")
    if server and how != "server":
        key = "grpo.vllm_mode" if how else "grpo.use_vllm"
        message = "machine.yaml has a server that the trainer would not use."
        yield view.problem(key, message, "use_vllm: true and vllm_mode: server")
    if server and given:
        message = "The address comes from the server of machine.yaml."
        key = "vllm_server_base_url" if view.given("grpo.vllm_server_base_url") else "vllm_server_host"
        yield view.problem(f"grpo.{key}", message, "no such key beside `server`")
    if how == "server" and not server and not given:
        message = "There is no server: machine.yaml has no `server`, and no address is given."
        yield view.problem("grpo.vllm_mode", message, "a server in machine.yaml, or vllm_server_base_url")


@rule
def a_cpu_serves_from_a_server(view: View) -> Iterator[Problem]:
    """vLLM inside the trainer needs a GPU."""
    if mode(view) == "colocate" and view["machine.device"] == "cpu":
        yield view.problem("grpo.vllm_mode", "device: cpu has no GPU to share.", "server", "server")


@rule
def served_context_holds_the_completion(view: View) -> Iterator[Problem]:
    """vLLM would refuse prompts or cut completions; TRL hung on that (issue 2923). Unset, colocated vLLM
    takes the model's whole context, 32k to 131k tokens, and has no cache left for more than a few
    completions.
    """
    longest = view["data.max_prompt_length"] + view["grpo.max_completion_length"]
    server = server_of(view)
    if server and server.max_model_len < longest:
        message = "Prompt (max_prompt_length of data.yaml) and completion do not fit."
        yield view.problem("machine.server.max_model_len", message, f"{longest} or more")
    if server:
        context, why = view.context("grpo")
        if server.max_model_len > context:
            message = "Longer than the model's context: vLLM would refuse to start."
            yield view.problem("machine.server.max_model_len", message, f"at most {context}, {why}")
    if mode(view) == "colocate":
        length = view["grpo.vllm_max_model_length"]
        if length is None or length < longest:
            message = "Prompt and completion must fit, and no more memory be kept than they need."
            yield view.problem("grpo.vllm_max_model_length", message, f"{longest} or more")


@rule
def server_takes_a_group_at_once(view: View) -> Iterator[Problem]:
    """The completions of one prompt would wait for each other instead of sharing its prefix."""
    server, group = server_of(view), view["grpo.num_generations"]
    if server and server.max_num_seqs is not None and server.max_num_seqs < group:
        allowed = f"{group} (num_generations) or more"
        yield view.problem("machine.server.max_num_seqs", "Not one group fits into flight.", allowed)


@rule
def a_cpu_serves_float32(view: View) -> Iterator[Problem]:
    """bf16 products are 50 to 500 times slower on such CPUs, and the ratios would leave 1."""
    server = server_of(view)
    if server and view["machine.device"] == "cpu" and server.dtype in ("bfloat16", "float16"):
        yield view.problem("machine.server.dtype", "device: cpu, where only float32 is fast.", "float32")


@rule
def options_are_said_once(view: View) -> Iterator[Problem]:
    """The option would silently win over the setting, or break what the trainer needs."""
    server = server_of(view)
    for name in server.arguments if server else ():
        plain = name.replace("_", "-").removeprefix("no-")
        key = f"machine.server.arguments.{name}"
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            yield view.problem(key, "Write the option without dashes in front.", "a long name: swap-space")
        elif plain in OURS:
            yield view.problem(key, f"It is decided by {OURS[plain]}.", "no such option here")


@rule
def nccl_moves_between_gpus(view: View) -> Iterator[Problem]:
    """TRL's transfer refuses a CPU (NotImplementedError), after the models were loaded."""
    if sync_of(view).transport == "nccl" and view["machine.device"] == "cpu" and server_of(view):
        yield view.problem("machine.weight_sync.transport", "NCCL needs GPUs.", "file", "file")


@rule
def others_wait_for_the_rollouts(view: View) -> Iterator[Problem]:
    """While process 0 waits for rollouts, the others wait in a broadcast and die at ddp_timeout: a slow
    generation would look like a dead network. TRL itself gives the request no bound at all.
    """
    server = server_of(view)
    if not server or processes_of_grpo(view) < 2:
        return
    longest = server.generation_seconds + server.sync_seconds + server.restart * server.start_seconds
    if view["grpo.ddp_timeout"] <= longest:
        message = "The other processes would give up before the server's own bounds are reached."
        sum_ = "generation_seconds + sync_seconds" + (" + start_seconds" if server.restart else "")
        yield view.problem("grpo.ddp_timeout", message, f"more than {longest:g} = {sum_} of the server")


@rule
def long_completions_keep_their_weight(view: View) -> Iterator[Problem]:
    """TRL's default sequence_mask weighs a completion by exp(sum of its tokens' differences): with 0.02 nats
    of noise a token the mean weight left is 0.92 at 1,000 tokens, 0.58 at 4,000, 0.18 at 16,000. They stop
    teaching.
    """
    how, length = view["grpo.vllm_importance_sampling_mode"], view["grpo.max_completion_length"]
    if corrected(view) and how.startswith("sequence_") and length > LONG:
        message = f"At {length} tokens the product of all ratios silences long completions."
        allowed = "token_truncate or token_mask"
        yield view.problem("grpo.vllm_importance_sampling_mode", message, allowed, "token_truncate")


@rule
def the_sampler_is_the_policy(view: View) -> Iterator[Problem]:
    """vLLM renormalises over the tokens it kept, the trainer does not: every ratio is off by the kept mass
    (0.896 on average at top_p 0.8; TRL issue 6789).
    """
    if not corrected(view):
        return
    off = {
        "top_p": (1.0, None),
        "top_k": (0, -1, None),
        "min_p": (0, None),
        "repetition_penalty": (1.0, None),
    }
    for name, values in off.items():
        if view[f"grpo.{name}"] not in values:
            message = "The trainer's log-probabilities know nothing of it: all importance ratios are biased."
            allowed = f"{values[0]:g}, or vllm_importance_sampling_correction: false"
            yield view.problem(f"grpo.{name}", message, allowed)


@rule
def matrices_stay_whole_for_muon(view: View) -> Iterator[Problem]:
    """ZeRO and FSDP flatten and cut the weights; Muon turns whole matrices and fails at the first step."""
    kind = view["accelerate.distributed_type"]
    config = view["accelerate.deepspeed_config"] if view.given("accelerate.deepspeed_config") else {}
    if kind == "FSDP" or (kind == "DEEPSPEED" and config.get("zero_stage", 2) != 0):
        for section in TRAINER_SECTIONS:
            muon = view.has(section) and view[f"{section}.optimizer"] == "muon"
            if muon and not view[f"{section}.alone"]:
                message = f"accelerate.yaml says {kind}, which cuts the matrices up."
                yield view.problem(f"{section}.optimizer", message, "adamw, or alone: true", "adamw")


@rule
def weights_are_gathered_for_vllm(view: View) -> Iterator[Problem]:
    """With ZeRO-3 every process holds a part; vLLM would be sent parts."""
    if mode(view) and view["grpo.ds3_gather_for_generation"] is False:
        yield view.problem("grpo.ds3_gather_for_generation", "vLLM needs whole weights.", "true")


@advice
def a_server_outside_loopback_is_known(view: View) -> Iterator[Problem]:
    """vLLM's key does not guard the endpoints through which weights arrive."""
    server = server_of(view)
    if server and not (server.host in ("localhost", "::1") or server.host.startswith("127.")):
        message = "Whoever reaches the port can replace the weights; keep it in a private network."
        yield view.problem("machine.server.host", message, "127.0.0.1 where the trainer is on this machine")
