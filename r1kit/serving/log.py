"""Reading vLLM's log: how far a start is, why it failed, what to try. Phrases are vLLM 0.31's."""

from __future__ import annotations

import re

from r1kit.runs import outcome

# `(EngineCore pid=123) ERROR 11-24 06:43:38 [core.py:12] text`, also after a restart of a replica.
_PREFIX = re.compile(
    r"^(?:\(\w[\w ]* pid=\d+\) ?)?(?:(?:DEBUG|INFO|WARNING|ERROR) [\d-]+ [\d:]+ \[[^\]]*\] ?)?"
)
_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)\b(?:: (?P<why>.*))?$")
# Said last by every failed start, and never the reason.
_HOLLOW = ("Engine core initialization failed", "WorkerProc initialization failed", "Engine process failed")

_PHASES = (  # the last one found is where the start is
    ("Resolved architecture", "starting the engine"),
    ("Initializing a V1 LLM engine", "starting the workers"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "preparing the memory"),
    ("Dynamo bytecode transform", "compiling"),
    ("Capturing CUDA graphs", "capturing graphs"),
    ("KV cache size", "preparing to answer"),
)
_ADVICE = (
    (
        "No module named 'vllm'",
        "Install vLLM: `make setup-cluster` for the CPU; images and environments for GPUs have it.",
    ),
    ("address already in use", "Another program took the port; use port: 0 in machine.yaml for a free one."),
    (
        "greater than the derived max_model_len",
        "Lower server.max_model_len in machine.yaml to the model's context.",
    ),
    ("No available memory for the cache", "Raise server.gpu_memory_utilization or kv_cache_gib."),
    ("KV cache is needed, which is larger", "Raise server.kv_cache_gib or lower server.max_model_len."),
    (
        "less than desired GPU memory utilization",
        "Other programs use the device: end them (see `r1kit doctor`).",
    ),
    (
        "out of memory",
        "Lower server.gpu_memory_utilization or kv_cache_gib, or end what else uses the device.",
    ),
    ("unrecognized arguments", "This vLLM has no such option; see server.arguments in machine.yaml."),
    ("Tokenizer class", "The model folder lacks its tokenizer."),
)


def lines_of(text: str) -> list[str]:
    """The log's lines without colours, prefixes, progress bars and empty ones."""
    stripped = (_PREFIX.sub("", line.strip()) for line in outcome.clean(text).splitlines())
    return [line.strip() for line in stripped if line.strip()]


def tail(text: str, n: int = 12) -> str:
    """The last `n` lines that are worth reading."""
    return "\n".join(lines_of(text)[-n:])


def phase(text: str) -> str:
    """How far a start is, in words."""
    found = [(text.rfind(sign), words) for sign, words in _PHASES]
    position, words = max(found)
    return words if position >= 0 else "loading the program"


def root_cause(text: str) -> str:
    """The exception that ended a start: the last one that says something; "" if there is none."""
    for line in reversed(lines_of(text)):
        match = _ERROR.match(line)
        if match and match["why"] and not any(hollow in line for hollow in _HOLLOW):
            return line[:400]
        if "error: unrecognized arguments" in line:
            return line[:400]
    return ""


def advice(text: str) -> str:
    """What to try, where the symptom is known; "" otherwise."""
    lowered = text.lower()
    return next((what for sign, what in _ADVICE if sign.lower() in lowered), "")
