"""Read vLLM's log: how far a start is, why a server failed, what to try. The phrases are vLLM 0.31's."""

from __future__ import annotations

import re
import time
from pathlib import Path

from r1kit.runs import outcome
from r1kit.runs.processes import alive
from r1kit.serving.server import server_state
from r1kit.serving.session import ServerGone

NOTICE_SECONDS = 1.0  # for the keeper to notice a death; it polls four times per second
# `(EngineCore pid=123) ERROR 11-24 06:43:38 [core.py:12] text`, also after a restart of a replica.
_PREFIX = re.compile(
    r"^(?:\(\w[\w ]* pid=\d+\) ?)?(?:(?:DEBUG|INFO|WARNING|ERROR) [\d-]+ [\d:]+ \[[^\]]*\] ?)?"
)
_ERROR = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .+|.*error: unrecognized arguments.*")
# The last lines of every failed start; they only point to the cause.
_POINTERS = ("Engine core initialization failed", "WorkerProc initialization failed", "Engine process failed")

_PHASES = (  # the last one in the log is the current one
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
    ("Tokenizer class", "The model folder has no tokenizer."),
)
_NO_ROOM = (
    "Free the medium, or set weight_sync.folder in machine.yaml to another one; then start the stage again."
)


def log_lines(text: str) -> list[str]:
    """Return the log's lines without colours, prefixes, progress bars and empty ones."""
    stripped = (_PREFIX.sub("", line.strip()).strip() for line in outcome.clean(text).splitlines())
    return [line for line in stripped if line]


def start_phase(text: str) -> str:
    """Return how far a start is, in words."""
    position, words = max((text.rfind(sign), words) for sign, words in _PHASES)
    return words if position >= 0 else "loading the program"


def errors(text: str) -> list[str]:
    """Return the exceptions in a log, each cut to 400 characters, without those that only point to others."""
    lines = [line[:400] for line in log_lines(text) if _ERROR.fullmatch(line)]
    return [line for line in lines if not any(pointer in line for pointer in _POINTERS)]


def advice(text: str) -> str:
    """Return what to try if the log shows a known symptom; "" otherwise."""
    lowered = text.lower()
    return next((what for sign, what in _ADVICE if sign.lower() in lowered), "")


def explain_end(log: str, what: str) -> str:
    """Add to `what`, the end of a server process, its cause and what to try.

    The last exception of a failed start is the cause.
    """
    if exceptions := errors(log):
        what += f": {exceptions[-1]}"
    elif lines := log_lines(log):
        what += f"; the last line of its log: {lines[-1]}"
    return f"{what.rstrip('.')}. {advice(log)}".strip()


def explain_trouble(folder: Path, trouble: BaseException) -> str:
    """Return one paragraph for a client's trouble with the server of `folder`, a ServerTrouble or OSError.

    It says what happened, to which process, the end of its log and what to try. A dying engine fills the log
    with exceptions, so here the first one is the cause.
    """
    deadline = time.monotonic() + NOTICE_SECONDS
    while type(trouble) is ServerGone and server_state(folder).get("state") == "ready":
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)  # a connection ends before its process does, and before the keeper reports why
    state = server_state(folder)
    process = ", ".join(f"{pid} {'runs' if alive(pid) else 'is gone'}" for pid in state.get("pids") or [])
    log = outcome.read_tail(folder / "train.log")
    tail = " | ".join(line[:200] for line in log_lines(log)[-3:]) or "empty"
    exceptions = errors(log)
    error = f" First error in its log: {exceptions[0][:300]}." if exceptions else ""
    keeper = state.get("state", "says nothing") + (f" ({state['message']})" if state.get("message") else "")
    happened = getattr(trouble, "strerror", None) or str(trouble)
    return (
        f"{happened.rstrip('.')}. Server process: {process or 'unknown'}; its keeper: {keeper}, "
        f"{state.get('restarts', 0)} restarts.{error} End of its log ({folder / 'train.log'}): {tail}. "
        f"{getattr(trouble, 'advice', _NO_ROOM)}"
    )
