"""`python requirements/trl_keys.py`: write r1kit/settings/trl_keys.json from the installed releases' classes.

base.yaml, sft.yaml and grpo.yaml take every key of TrainingArguments, SFTConfig, GRPOConfig and ModelConfig.
Importing these classes takes seconds and loads torch, so r1kit reads their names, types and defaults from the
JSON file. `make lock` runs this script for the releases that it locks.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from importlib import metadata
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "r1kit" / "settings" / "trl_keys.json"
PLAIN = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    dict: "dict",
    types.NoneType: "null",
    Any: "any",
}
LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")
CHOICES: dict[str, tuple[str, ...]] = {
    "GRPOConfig.loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "GRPOConfig.vllm_mode": ("server", "colocate"),
    "GRPOConfig.vllm_model_impl": ("vllm", "transformers"),
    "GRPOConfig.importance_sampling_level": ("token", "sequence"),
    "GRPOConfig.multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "GRPOConfig.scale_rewards": ("group", "batch", "none"),
    "GRPOConfig.vllm_importance_sampling_mode": (
        "token_truncate", "token_mask", "sequence_truncate", "sequence_mask",
    ),
    **{
        f"{name}.{key}": LOG_LEVELS
        for name in ("TrainingArguments", "SFTConfig", "GRPOConfig")
        for key in ("log_level", "log_level_replica")
    },
}  # fmt: skip
"""Values that only the help texts name; a test compares them with these texts."""
WIDER: dict[str, tuple[type, ...]] = {"GRPOConfig.scale_rewards": (bool,)}
"""Types that TRL accepts although the annotation does not say so."""


def classes() -> dict[str, type]:
    """Import the configuration classes, by the name that r1kit uses for them."""
    from transformers import TrainingArguments
    from trl import GRPOConfig, ModelConfig, SFTConfig

    return {"base": TrainingArguments, "sft": SFTConfig, "grpo": GRPOConfig, "model": ModelConfig}


def content() -> dict[str, Any]:
    """Compute the content of trl_keys.json.

    A type is a list of alternatives: "int", "null", ["one of", value, ...], ["list", alternative, ...] or
    ["dict", alternative, ...] (its values).
    """
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.utils import DistributedType

    return {
        "releases": {name: metadata.version(name) for name in ("accelerate", "transformers", "trl")},
        "accelerate": [field.name for field in dataclasses.fields(ClusterConfig) if field.init],
        "distributed_types": [member.value for member in DistributedType],
        **{name: keys_of(kind) for name, kind in classes().items()},
    }


def keys_of(kind: type) -> dict[str, dict[str, Any]]:
    """Describe each field of a configuration class: its type, and its default if that is a plain value."""
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        if field.init:
            name = f"{kind.__name__}.{field.name}"
            choices = CHOICES.get(name) or field.metadata.get("choices") or ()
            found[field.name] = {"type": alternatives(hints[field.name], choices, WIDER.get(name, ()))}
            if field.default is None or type(field.default) in (bool, int, float, str):
                found[field.name]["default"] = field.default
    return found


def alternatives(hint: Any, choices: typing.Iterable[str] = (), wider: tuple[type, ...] = ()) -> list[Any]:
    """Write a type hint as JSON; an enumeration or `choices` replaces `str`, any other class is "any"."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = list(typing.get_args(hint)) if union else [hint]
    for member in members:
        if isinstance(member, type) and issubclass(member, enum.Enum):
            choices = choices or [value.value for value in member]
    found: list[Any] = [["one of", *choices]] if choices else []
    for member in [*members, *wider]:
        origin, inner = typing.get_origin(member), typing.get_args(member)
        if origin is typing.Literal:
            found.append(["one of", *inner])
        elif origin in (list, dict):
            found.append([origin.__name__, *alternatives(inner[-1])])
        elif member in PLAIN:
            found += [PLAIN[member]] if not (choices and member is str) else []
        elif not (isinstance(member, type) and issubclass(member, enum.Enum)):
            return ["any"]
    return found


def text(found: dict[str, Any]) -> str:
    """Lay the content out with one key per line, so that a new release shows as a readable difference."""
    blocks = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(inner)}" for key, inner in value.items())
            blocks.append(f"{json.dumps(name)}: {{\n{lines}\n }}")
        else:
            blocks.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n " + ",\n ".join(blocks) + "\n}\n"


if __name__ == "__main__":
    TARGET.write_text(text(content()), encoding="utf-8")
