"""The vLLM server of machine.yaml and the trainer that asks it: most rules turn a hang into a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator

from r1kit.settings.checks import advice, rule
from r1kit.settings.checks_cluster import mode, processes_of_grpo, server_of, sync_of
from r1kit.settings.errors import Problem
from r1kit.settings.view import View

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


@advice
def a_server_outside_loopback_is_known(view: View) -> Iterator[Problem]:
    """vLLM's key does not guard the endpoints through which weights arrive."""
    server = server_of(view)
    if server and not (server.host in ("localhost", "::1") or server.host.startswith("127.")):
        message = "Whoever reaches the port can replace the weights; keep it in a private network."
        yield view.problem("machine.server.host", message, "127.0.0.1 where the trainer is on this machine")
