"""`python -m r1kit.serving.keeper SERVER/resolved.yaml`: start the vLLM servers, watch them, start dead ones
again.

It runs under our supervisor, so that nothing it starts outlives the notebook or command that asked for it.
What it knows stands in `SERVER/server.json`, rewritten at every change:

    {"state": "starting|ready|restarting|failed|stopped", "message", "urls", "pids", "model", "fingerprint",
     "started", "restarts", "keeper", "log"}

Only a server that was ready once is started again: one that cannot start will not start the next time either.
A server may also be alive and stuck, with /health still answering; the trainer notices that its generation
exceeds its bound, and asks for a restart through a file (`runs.server_files`). SIGUSR1 starts all servers
anew, at the same addresses (`Server.restart`); SIGTERM ends them.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from r1kit.serving.watch import Keeper
from r1kit.settings import yaml_load
from r1kit.settings.machine import MachineSettings


def read_keeper(path: str | Path) -> Keeper:
    """The keeper of a server's resolved.yaml: `machine` with its `server`, and `inputs.model`.

    Raises:
        ValueError: it has no server, or no model.
    """
    path = Path(path).resolve()
    content = yaml_load(path.read_text(encoding="utf-8"))
    machine = MachineSettings.model_validate(content["machine"])
    if machine.server is None:
        raise ValueError(f"{path}: machine.yaml has no `server`")
    model = content["inputs"]["model"]
    local = path.parent / model
    return Keeper(path.parent, machine, str(local.resolve()) if local.exists() else model)


def main(arguments: list[str] | None = None) -> int:
    """Program entry; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    keeper = read_keeper(arguments[0])

    def on_signal(number: int, _frame: Any) -> None:
        if number == signal.SIGUSR1:
            keeper.anew = True
        else:
            keeper.stop = True
        keeper.wake.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, on_signal)
    return keeper.run()


if __name__ == "__main__":
    sys.exit(main())
