"""Options that several commands share, and how commands print and stop."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

DEFAULT_PROFILE = "cpu-tiny"

ProfileOption = Annotated[str, typer.Option("--profile", help="A folder of configs/, by name or path.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting, such as sft.learning_rate=1e-3.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
WorkersOption = Annotated[int, typer.Option(help="Worker processes; 0 uses all cores.")]


def show(content: Any, as_json: bool, text: Callable[[], str], **options: Any) -> None:
    """Print a result: as JSON (`options` are those of `json.dumps`), or as text."""
    print(json.dumps(content, indent=1, **options) if as_json else text())


def say(line: str) -> None:
    """Print a message about the work to stderr."""
    print(line, file=sys.stderr, flush=True)


def progress_lines(describe: Callable[..., str], every: float = 5.0) -> Callable[..., None]:
    """Return a progress function that prints `describe` of its arguments to stderr every few seconds."""
    last = time.monotonic()

    def progress(*now: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            say(describe(*now))

    return progress


def stop_like_ctrl_c() -> list[int]:
    """Make SIGTERM do what Ctrl-C does; the returned list then has the signal."""
    received: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        received.append(number)
        os.kill(os.getpid(), signal.SIGINT)

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts a command with & like this
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, stop)
    return received
