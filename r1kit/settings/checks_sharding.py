"""Rules about weights that are cut up over processes: DeepSpeed's ZeRO and FSDP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r1kit.settings.checks import rule
from r1kit.settings.checks_cluster import mode
from r1kit.settings.errors import Problem
from r1kit.settings.models import TRAINER_SECTIONS
from r1kit.settings.view import View


def options(view: View, name: str) -> dict[str, Any]:
    """accelerate.yaml's mapping for a back end (`deepspeed_config`, `fsdp_config`); {} if there is none."""
    return view[f"accelerate.{name}"] if view.given(f"accelerate.{name}") else {}


@rule
def matrices_stay_whole_for_muon(view: View) -> Iterator[Problem]:
    """ZeRO and FSDP flatten and cut the weights; Muon turns whole matrices and fails at the first step."""
    kind = view["accelerate.distributed_type"]
    zero = options(view, "deepspeed_config")
    if kind == "FSDP" or (kind == "DEEPSPEED" and zero.get("zero_stage", 2) != 0):
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


@rule
def fsdp_shards_on_gpus(view: View) -> Iterator[Problem]:
    """accelerate 1.15 forgets FSDP on a CPU: every process would hold the whole model, as with DDP, and no
    word of it in the log (seen 2026-11-24).
    """
    if view["accelerate.distributed_type"] == "FSDP" and view["accelerate.use_cpu"]:
        message = "On a CPU accelerate would train with DDP, without a word."
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
        if options(view, "fsdp_config").get(key) != value:
            why = (
                "The final model would have no weights."
                if key == "fsdp_state_dict_type"
                else "Only FSDP2 is supported; without the key accelerate takes version 1."
            )
            name = f"accelerate.fsdp_config.{key}"
            found = "" if view.given(name) else "nothing"
            yield view.problem(name, why, nearest, nearest, found=found)


@rule
def zero_3_writes_whole_models(view: View) -> Iterator[Problem]:
    """Without the key the final model folder gets DeepSpeed's pieces and no weights (seen with 0.19)."""
    zero = options(view, "deepspeed_config")
    if zero.get("zero_stage") == 3 and zero.get("zero3_save_16bit_model") is not True:
        name = "accelerate.deepspeed_config.zero3_save_16bit_model"
        found = "" if view.given(name) else "nothing"
        yield view.problem(name, "The final model would have no weights.", "true", "true", found=found)
