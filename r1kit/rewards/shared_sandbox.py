"""The one sandbox of this process that the code rewards share: started by the first program, closed at exit.

TRL calls a reward as a bare function, so there is nobody to hand a sandbox to it.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from r1kit.sandbox import Limits, Sandbox
from r1kit.sandbox.runner import default_workers
from r1kit.sandbox.verdicts import MIB
from r1kit.settings.machine import SandboxSettings

_lock = threading.RLock()
_options: dict[str, Any] = {"fork_server": True}  # what the next shared sandbox is started with
_sandbox: Sandbox | None = None  # in the child of a fork it starts brokers of its own


def configure(*, fork_server: bool = True, **options: Any) -> None:
    """Set the options of the shared sandbox, as `Sandbox` takes them; one that runs with others is closed.

    Without `workers` a process takes its share of the sandbox's usual number: LOCAL_WORLD_SIZE processes
    share a host, and eight times all cores would make programs time out.
    """
    global _options
    with _lock:
        wanted = {"fork_server": fork_server, **options}
        if wanted != _options:
            close_shared()
            _options = wanted


def configure_by(settings: SandboxSettings) -> None:
    """`configure` with `sandbox` of machine.yaml."""
    options = settings.model_dump()
    limits = {key: options.pop(key) for key in ("cpu_seconds", "wall_seconds")}
    limits["memory_bytes"] = options.pop("memory_mb") * MIB
    configure(limits=Limits(**limits), **options)


def shared_sandbox() -> Sandbox:
    """The sandbox of this process, started if need be.

    Raises:
        SandboxError: no tier of isolation works here, and `unsafe` was not configured.
    """
    global _sandbox
    with _lock:
        if _sandbox is None:
            workers = _options.get("workers") or share_of_workers()
            _sandbox = Sandbox(**{**_options, "workers": workers})
        return _sandbox


def close_shared() -> None:
    """End the shared sandbox, if there is one; the next program starts a new one."""
    global _sandbox
    with _lock:
        if _sandbox is not None:
            _sandbox.close()
        _sandbox = None


def share_of_workers() -> int:
    """The sandbox's usual number of workers, divided by the processes that share this host; at least one."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, default_workers() // max(1, int(processes) if processes.isdigit() else 1))


def _renew_lock() -> None:
    """In the child of a fork: another thread may have held the lock."""
    global _lock
    _lock = threading.RLock()


atexit.register(close_shared)
os.register_at_fork(after_in_child=_renew_lock)
