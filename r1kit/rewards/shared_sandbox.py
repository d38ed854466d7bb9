"""The one sandbox of this process that the code rewards share: started by the first program, closed at exit.

TRL calls a reward as a bare function, so there is nobody to hand a sandbox to it. A process that was forked
from one with a sandbox starts its own; the parent's is left alone.
"""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass

from r1kit.sandbox import Limits, Sandbox
from r1kit.sandbox.piston import PistonClient, client_from_environment
from r1kit.sandbox.runner import default_workers
from r1kit.sandbox.verdicts import MIB
from r1kit.settings.machine import SandboxSettings


@dataclass(frozen=True)
class _Settings:
    workers: int | None = None
    tier: str = "auto"
    unsafe: bool = False
    fork_server: bool = True
    limits: Limits | None = None


_lock = threading.RLock()
_settings = _Settings()
_sandbox: Sandbox | None = None
_client: PistonClient | None = None
_of_parents: list[Sandbox] = []  # kept, so that no destructor of theirs runs in this process


def configure(
    *,
    workers: int | None = None,
    tier: str = "auto",
    unsafe: bool = False,
    fork_server: bool = True,
    limits: Limits | None = None,
) -> None:
    """Say how the shared sandbox is to be; one that is running otherwise is closed.

    Args:
        workers: programs at once in this process; None means its share of the sandbox's usual number.
            LOCAL_WORLD_SIZE processes share a host: eight times all cores would make programs time out.
        tier, unsafe, fork_server: as in `Sandbox`.
        limits: of each case; None means the defaults of `Limits`.
    """
    global _settings
    with _lock:
        wanted = _Settings(workers, tier, unsafe, fork_server, limits)
        if wanted != _settings:
            close_shared()
            _settings = wanted


def configure_by(settings: SandboxSettings) -> None:
    """`configure` with `sandbox` of machine.yaml."""
    limits = Limits(
        cpu_seconds=settings.cpu_seconds,
        wall_seconds=settings.wall_seconds,
        memory_bytes=settings.memory_mb * MIB,
    )
    configure(
        workers=settings.workers,
        tier=settings.tier,
        unsafe=settings.unsafe,
        fork_server=settings.fork_server,
        limits=limits,
    )


def shared_sandbox() -> Sandbox:
    """The sandbox of this process, started if need be.

    Raises:
        SandboxError: no tier of isolation works here, and `unsafe` was not configured.
    """
    global _sandbox
    with _lock:
        if _sandbox is None:
            wanted = _settings
            _sandbox = Sandbox(
                wanted.workers or share_of_workers(), tier=wanted.tier, unsafe=wanted.unsafe,
                fork_server=wanted.fork_server, limits=wanted.limits or Limits(),
            )  # fmt: skip
        return _sandbox


def shared_client() -> PistonClient:
    """The Piston client of this process, as PISTON_ENDPOINTS describes it.

    Raises:
        ValueError: PISTON_ENDPOINTS is missing or wrong.
    """
    global _client
    with _lock:
        if _client is None:
            _client = client_from_environment()
            _client.limits = _settings.limits or Limits()
        return _client


def close_shared() -> None:
    """End the shared sandbox, if there is one; the next program starts a new one."""
    global _sandbox, _client
    with _lock:
        if _sandbox is not None:
            _sandbox.close()
        _sandbox = _client = None


def share_of_workers() -> int:
    """The sandbox's usual number of workers, divided by the processes that share this host; at least one."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, default_workers() // max(1, int(processes) if processes.isdigit() else 1))


def _forked() -> None:
    """The child of a fork has no part in its parent's sandbox, and its lock may be held for ever."""
    global _lock, _sandbox, _client
    _lock = threading.RLock()
    if _sandbox is not None:
        _of_parents.append(_sandbox)
    _sandbox = _client = None


atexit.register(close_shared)
os.register_at_fork(after_in_child=_forked)
