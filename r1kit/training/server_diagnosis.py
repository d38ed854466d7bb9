"""What to say when the vLLM server is in trouble: one paragraph, and the exit code of the contract."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil

from r1kit.runs import outcome
from r1kit.runs.server_files import server_state
from r1kit.training.server_session import ServerRefused, ServerSilent, ServerTrouble
from r1kit.training.watchdog import HUNG

FAILED, BAD_SETTINGS = 1, 2
LOG_LINES = 3
NEWS = 1.0  # seconds a keeper has to notice a death; it looks four times a second
ERROR = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception): .*)$", re.MULTILINE)
ADVICE = {
    "gone": "Start the stage again: it goes on from the checkpoint. With `server: {restart: true}` in "
    "machine.yaml a server that dies is started again and the same run continues.",
    "silent": "The server is alive but stuck or too slow: look at its log, lower max_completion_length, or "
    "raise server.generation_seconds (and sync_seconds) in machine.yaml; then start the stage again. With "
    "`server: {restart: true}` such a server is started again and the same run continues.",
    "refused": "Start the server with `r1kit serve`, which sets all that the trainer needs.",
    "room": "Free the medium, or set weight_sync.folder in machine.yaml to another one; then start the stage "
    "again.",
}


def exit_code(trouble: BaseException, started: bool = True) -> int:
    """4 for a server that is gone or silent; 1 for one that refused, and for a full disk.

    A refusal before anything is loaded (`started` False) is 2: the settings name the wrong server.
    """
    if isinstance(trouble, ServerRefused):
        return FAILED if started else BAD_SETTINGS
    return HUNG if isinstance(trouble, ServerTrouble) else FAILED


def explain(folder: Path, trouble: BaseException) -> str:
    """The paragraph for a trouble with the server of `folder`."""
    kinds = {ServerSilent: "silent", ServerRefused: "refused"}
    kind = kinds.get(type(trouble), "room" if isinstance(trouble, OSError) else "gone")
    deadline = time.monotonic() + NEWS
    while kind == "gone" and server_state(folder).get("state") == "ready" and time.monotonic() < deadline:
        time.sleep(0.05)  # a connection ends before its process does, and before the keeper can say why
    return diagnosis(folder, getattr(trouble, "strerror", None) or str(trouble), ADVICE[kind])


def diagnosis(folder: Path, trouble: str, advice: str) -> str:
    """One paragraph: what happened, which process, the end of its log, what to try."""
    state = server_state(folder)
    pids = state.get("pids") or []
    process = ", ".join(f"{pid} {'runs' if runs(pid) else 'is gone'}" for pid in pids) or "unknown"
    log = outcome.clean(outcome.read_tail(folder / "train.log"))
    lines = [line.strip()[:200] for line in log.splitlines() if line.strip()][-LOG_LINES:]
    tail = " | ".join(lines) or "empty"
    first = ERROR.search(log)  # an engine's death fills the log; what caused it stands first
    error = f" First error in its log: {first[1][:300]}." if first else ""
    keeper = state.get("state", "says nothing") + (f" ({state['message']})" if state.get("message") else "")
    return (
        f"{trouble.rstrip('.')}. Server process: {process}; its keeper: {keeper}, {state.get('restarts', 0)} "
        f"restarts.{error} End of its log ({folder / 'train.log'}): {tail}. {advice}"
    )


def runs(pid: int) -> bool:
    """Whether the process lives; one that has ended and waits for its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
