"""One tier of isolation at work: starts a Python text inside of it.

bubblewrap (with or without /proc): namespaces, then the system-call filter. landlock: no namespaces; files,
network and signals given up by Landlock, and the filter refuses what Landlock leaves open. There a program
cannot write files at all: the kernel bounds one file (RLIMIT_FSIZE) but not their sum, and a disk of a fixed
size takes a mount. It can also still learn whether a path exists.
unsafe: rlimits only, for machines where nothing else works and somebody said so.
"""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from r1kit.sandbox import bubblewrap, landlock, linux, seccomp
from r1kit.sandbox.spawn import STATUS, spawn
from r1kit.sandbox.verdicts import MIB, Limits

BUBBLEWRAP, NO_PROC, LANDLOCK, UNSAFE = "bubblewrap", "bubblewrap-no-proc", "landlock", "unsafe"
STACK_BYTES = 16 * MIB  # also every thread's: 64 MB each ate the address space after 14 threads
_HIGH = 100  # out of the way of a new process's own descriptors
_COUNT_SECONDS = 5  # a count of this user's processes stays good for so long


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs the programs: its path and version, the folders it needs besides the system's, and
    those of installed packages."""

    path: str
    version: str
    roots: tuple[str, ...]
    packages: tuple[str, ...] = ()


@dataclass
class Enclosure:
    """A tier with its interpreter; `path` is bubblewrap's."""

    tier: str
    interpreter: Interpreter
    path: str = ""

    def __post_init__(self) -> None:
        self._files: dict[tuple, int] = {}
        self._tasks = (-1e9, 0)

    @property
    def namespaces(self) -> bool:
        """True if programs have process numbers and a file tree of their own."""
        return self.tier in (BUBBLEWRAP, NO_PROC)

    @property
    def scratch(self) -> bool:
        """True if programs have a disk to write on."""
        return self.namespaces

    def start(
        self,
        script: str,
        arguments: Sequence[str],
        descriptors: Mapping[int, int],
        *,
        limits: Limits,
        children: bool = False,
        forks: bool = False,
        folder: str | None = None,
    ) -> int:
        """Start `python -S -c script arguments` with `descriptors` (its number: ours); returns its pid.

        limits: set for everything that is started, bubblewrap included: its init runs as the program's user,
        and a program that found a way into it (/proc/1/mem is open to it) would find no limit there. The
        number of processes is left to `boot.py`, for it counts by user namespace. A fork server has no limits
        and sets those of its children.
        children: a compiler, which needs processes and all of /usr. forks: a fork server, which has no filter
        itself. folder: where a compiler may write, in a tier without a disk of its own.
        """
        command = [self.interpreter.path, "-I", "-S", "-B", "-X", "utf8", "-c", script, *arguments]
        if self.namespaces:
            key = limits.scratch_bytes, children, forks
            inner = {bubblewrap.ARGUMENTS: self._kept(key, lambda: self._arguments(*key))}
            if not forks:
                inner[bubblewrap.FILTER] = self._kept(
                    ("filter", children),
                    lambda: linux.memory_file(seccomp.build_filter(shared_pids=False, children=children)),
                )
            for file in inner.values():
                os.lseek(file, 0, os.SEEK_SET)
            outer = bubblewrap.bubblewrap_command(self.path, STATUS, filtered=not forks)
            environment = {"PATH": "/usr/bin:/bin"}
            return spawn(
                outer + command,
                environment,
                {**descriptors, **inner},
                prepare=lambda: None if forks else _set_limits(self.limits(limits)),
                status_survives=True,
            )
        environment = {**bubblewrap.ENVIRONMENT, "HOME": "/", "TMPDIR": folder or "/tmp"}
        ruleset = -1
        if self.tier == LANDLOCK and folder:
            ruleset = self._ruleset(children, folder)
        elif self.tier == LANDLOCK:
            ruleset = self._kept(("ruleset",), lambda: self._ruleset(children, None))

        def give_up_rights() -> None:
            if not forks:
                _set_limits(self.limits(limits))
            linux.no_new_privileges()
            linux.drop_capabilities()
            if self.tier == LANDLOCK:
                landlock.apply_landlock(ruleset)
                if not forks:
                    filter_ = seccomp.build_filter(shared_pids=True, shared_files=True, children=children)
                    linux.install_filter(seccomp.filter_for_pid(filter_, os.getpid()))

        try:
            return spawn(command, environment, descriptors, folder=folder or "/", prepare=give_up_rights)
        finally:
            if folder and ruleset >= 0:
                os.close(ruleset)

    def limits(self, limits: Limits) -> list[str]:
        """The limits of one process as `name=soft:hard`, names as in setrlimit(2) without RLIMIT_."""
        memory, cpu = limits.memory_bytes, limits.cpu_seconds
        values = {"AS": memory, "DATA": memory, "FSIZE": limits.file_bytes, "NOFILE": limits.open_files}
        values |= {"NPROC": limits.processes + self._tasks_beside(), "STACK": STACK_BYTES}
        values |= {"CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0, "SIGPENDING": 256}
        # Time runs out twice: SIGXCPU can be ignored, SIGKILL a second later cannot.
        return [f"{name}={value}:{value}" for name, value in values.items()] + [f"CPU={cpu}:{cpu + 1}"]

    def _tasks_beside(self) -> int:
        """Tasks that RLIMIT_NPROC counts besides the program's own.

        It counts by user and user namespace since Linux 5.14; elsewhere the user's Jupyter, trainings and
        shells are among them.
        """
        if self.namespaces and _kernel() >= (5, 14):
            return 3  # bubblewrap's init, a fork server, the program
        if time.monotonic() - self._tasks[0] > _COUNT_SECONDS:
            self._tasks = time.monotonic(), linux.tasks_of_this_user()
        return self._tasks[1] + 3

    def _kept(self, key: tuple, make: Callable[[], int]) -> int:
        """The file descriptor for `key`, made once."""
        if key not in self._files:
            self._files[key] = make()
        return self._files[key]

    def _arguments(self, scratch_bytes: int, toolchain: bool, forks: bool) -> int:
        return linux.memory_file(
            bubblewrap.bubblewrap_arguments(
                self.interpreter.path,
                self.interpreter.roots,
                scratch_bytes,
                proc=self.tier == BUBBLEWRAP and not forks,
                toolchain=toolchain,
                forks=forks,
            )
        )

    def _ruleset(self, toolchain: bool, folder: str | None) -> int:
        own = [*self.interpreter.roots, self.interpreter.path]
        system = ["/usr"] if toolchain else []
        read = [*bubblewrap.SYSTEM, *bubblewrap.READABLE, *own, *system, *bubblewrap.DEVICES]
        ruleset = landlock.landlock_rules(read, write=["/dev/null"], folder=folder)
        try:
            return fcntl.fcntl(ruleset, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        finally:
            os.close(ruleset)


def _set_limits(limits: list[str]) -> None:
    for limit in limits:
        name, _, values = limit.partition("=")
        if name != "NPROC":
            kind = getattr(resource, "RLIMIT_" + name)
            ceiling = resource.getrlimit(kind)[1]
            pair = [
                int(v) if ceiling == resource.RLIM_INFINITY else min(int(v), ceiling)
                for v in values.split(":")
            ]
            resource.setrlimit(kind, pair)


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)
