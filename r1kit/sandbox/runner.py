"""`Sandbox`: runs one model-written program at a time per worker, and says how it ended."""

from __future__ import annotations

from collections.abc import Sequence

from r1kit.sandbox.verdicts import Execution, Limits


class SandboxError(RuntimeError):
    """No tier of isolation works on this machine, or the sandbox was closed."""


class Sandbox:
    """A bounded number of isolated runs at once; `run` blocks, and may be called from any thread.

    workers: runs at the same time; None means the cores this process may use.
    tier: "auto", or the name of one tier, which then must work. unsafe: go on where no tier works.
    fork_server: keep a warm interpreter per worker and fork it for each run (Python only).
    limits: of runs that do not bring their own.

    Raises:
        SandboxError: no tier works here (and `unsafe` was not asked for), or not the one asked for.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        tier: str = "auto",
        fork_server: bool = False,
        unsafe: bool = False,
        limits: Limits | None = None,
    ) -> None:
        raise NotImplementedError

    def run(self, source: str | bytes, stdin: bytes = b"", *, limits: Limits | None = None) -> Execution:
        """Run a Python program. Never raises for what the program is or does."""
        raise NotImplementedError

    def run_binary(self, binary: bytes, stdin: bytes = b"", *, limits: Limits | None = None) -> Execution:
        """Run a compiled program, as `compile` returned it."""
        raise NotImplementedError

    def compile(
        self,
        source: str | bytes,
        compiler: str = "g++",
        flags: Sequence[str] = ("-O2", "-std=c++17"),
        *,
        suffix: str = ".cpp",
        limits: Limits | None = None,
    ) -> tuple[bytes | None, Execution]:
        """Compile inside the sandbox; the binary comes out as bytes, or None with the compiler's complaint.

        Verdicts: `ok`, `error` (the program does not compile), `timeout`/`cpu`/`memory` (it could not be
        compiled within limits), `infra` (no such compiler on this machine).
        """
        raise NotImplementedError

    def close(self) -> None:
        """End every process of this sandbox; runs under way end as `infra`."""

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
