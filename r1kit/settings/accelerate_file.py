"""accelerate.yaml: accelerate's own file, checked against accelerate's keys."""

from __future__ import annotations

from typing import Any

from r1kit.settings import trl_keys
from r1kit.settings.errors import Problem, describe, nearest_name
from r1kit.settings.validation import Source
from r1kit.settings.yaml import KeyPath

# Older names that accelerate still converts.
CONVERTED = ("fp16", "dynamo_backend")
PRECISIONS = ("no", "fp16", "bf16", "fp8")
WHOLE = ("num_processes", "num_machines", "machine_rank", "main_process_port")


def validate_accelerate(data: Any, source: Source) -> tuple[dict | None, list[Problem], set[KeyPath]]:
    """Check accelerate.yaml: its mapping (None if anything is wrong), the problems, the wrong paths."""
    if not isinstance(data, dict):
        found = "an empty file" if data is None else describe(data)
        return (
            None,
            [Problem(source.file, "", found=found, allowed="a mapping of keys to values: key: value")],
            {()},
        )
    known = [*trl_keys.accelerate_keys(), *CONVERTED]
    found: dict[str, Problem] = {}

    def wrong(key: str, allowed: str, message: str = "", nearest: str = "") -> None:
        value = describe(data[key]) if key in data else "nothing"
        found[key] = source.problem((key,), found=value, allowed=allowed, message=message, nearest=nearest)

    for key in data:
        if key not in known:
            wrong(key, "", "Unknown key; accelerate would refuse the file.", nearest_name(key, known))
    kinds = trl_keys.distributed_types()
    kind = data.get("distributed_type")
    if kind not in kinds:
        nearest = nearest_name(kind, kinds) if isinstance(kind, str) else ""
        hint = 'YAML reads a bare NO as false; write distributed_type: "NO"' if kind is False else ""
        wrong("distributed_type", f"one of {', '.join(kinds)}", hint, nearest)
    precision = data.get("mixed_precision", "no")
    if precision not in PRECISIONS:
        hint = 'YAML reads a bare no as false; write mixed_precision: "no"' if precision is False else ""
        nearest = nearest_name(precision, PRECISIONS) if isinstance(precision, str) else ""
        wrong("mixed_precision", f"one of {', '.join(PRECISIONS)}", hint, nearest)
    for key in WHOLE:
        least = 1 if key in ("num_processes", "num_machines") else 0
        value = data.get(key, least)
        if value is None and key == "main_process_port":
            continue
        if type(value) is not int or value < least:
            wrong(key, f"a whole number, {least} or more")
    if not isinstance(data.get("use_cpu", False), bool):
        wrong("use_cpu", "true or false")
    if "num_processes" not in data and kind != "NO":
        wrong("num_processes", "a whole number, 1 or more", "The key is missing.")
    for key in ("deepspeed_config", "fsdp_config"):
        if not isinstance(data.get(key, {}), dict):
            wrong(key, "a mapping")
    problems = sorted(found.values(), key=lambda problem: problem.line or 0)
    return (None if problems else dict(data)), problems, {(key,) for key in found}
