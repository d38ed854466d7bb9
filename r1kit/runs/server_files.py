"""What a server's keeper and a trainer tell each other, as files in the server's folder.

    server.json     the keeper's: state, message, urls, pids, model, fingerprint, restarts
    api_key         the secret for /v1, if there is one
    restart.json    a trainer's: "it does not answer, start it again"; gone once the keeper has begun to

A file reaches a keeper on another node as well, where a signal could not.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from r1kit.runs.files import read_json, write_json_atomic

STATE, KEY, RESTART = "server.json", "api_key", "restart.json"


def server_state(folder: str | Path) -> dict[str, Any]:
    """What the server's keeper says of it; {} if nothing."""
    return read_json(Path(folder) / STATE, {})


def ask_restart(folder: str | Path, reason: str, urls: list[str]) -> None:
    """Ask the keeper to start the servers at `urls` again; `reason` is what they did, as in "has not ...".

    Raises:
        OSError: the folder cannot be written.
    """
    write_json_atomic(Path(folder) / RESTART, {"reason": reason, "urls": urls, "asked": time.time()})


def restart_asked(folder: str | Path) -> dict[str, Any] | None:
    """The request that the keeper has not taken up yet; None if there is none."""
    return read_json(Path(folder) / RESTART)


def forget_restart(folder: str | Path) -> None:
    """The keeper's: the request is taken up, or concerns a server of another start."""
    (Path(folder) / RESTART).unlink(missing_ok=True)
