"""Start a Python text inside a tier of isolation: `Enclosure.start`.

- bubblewrap (with or without /proc): namespaces, then the system-call filter. A program sees the interpreter
  and the system's libraries, read-only, and one scratch disk of fixed size at /box (/tmp links to it); no
  network, no other process, no capability.
- landlock: no namespaces; the process gives up files, network and signals, and the filter refuses what
  Landlock leaves open. A program cannot write files there at all, since the kernel bounds one file
  (RLIMIT_FSIZE) but not their sum, and a disk of fixed size needs a mount. It can still find out whether a
  path exists.
- unsafe: rlimits only, for machines where nothing else works and the settings allow it.

Two traps of bubblewrap, found in trials (2026-11): it must be started with an empty environment, because
`--clearenv` leaves its own readable in /proc/1/environ, and its arguments too, so they go in by a file
(`--args`). And a bound file leaves the tmpfs above it writable and unlimited, so the root ends read-only, and
every tmpfs has a size.

`spawn` replaces `subprocess`, which numbers descriptors as it likes: with fixed numbers the command line of a
sandbox never changes.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from r1kit.sandbox import kernel
from r1kit.sandbox.execution import MIB, Limits
from r1kit.sandbox.kernel import end_with_parent

BOX = "/box"
ARGUMENTS, FILTER = 5, 6  # file descriptors
SYSTEM = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64")
READABLE = ("/etc/ld.so.cache", "/etc/alternatives", "/usr/share/zoneinfo")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": BOX,
    "TMPDIR": BOX,
    "LANG": "C.UTF-8",
    # Each thread's arena would take 64 MB of the address space, each BLAS thread a stack.
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


STATUS = 7  # bubblewrap, or a failed start, reports here
_SPARE = 32  # descriptors move up here first, so that none is overwritten
_MOST = 256  # above a broker's descriptors
STACK_BYTES = 16 * MIB  # also every thread's: 64 MB each ate the address space after 14 threads
_HIGH = 100  # out of the way of a new process's own descriptors
_COUNT_SECONDS = 5  # how long a count of this user's processes is reused


BUBBLEWRAP, NO_PROC, LANDLOCK, UNSAFE = "bubblewrap", "bubblewrap-no-proc", "landlock", "unsafe"


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs the programs.

    roots: folders it needs besides the system's. packages: folders of installed packages.
    """

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
        """Start `python -S -c script arguments` with `descriptors` (its number: ours); return its pid.

        limits: apply to everything started, bubblewrap included: its init runs as the program's user, and a
        program that got into it (/proc/1/mem is open to it) must not escape them. `boot.py` sets the number
        of processes, which counts per user namespace. A fork server has no limits and sets its children's.
        children: a compiler, which needs processes and all of /usr. forks: a fork server, which has no filter
        itself. folder: where a compiler may write, in a tier without a scratch disk.
        """
        command = [self.interpreter.path, "-I", "-S", "-B", "-X", "utf8", "-c", script, *arguments]
        if self.namespaces:
            key = limits.scratch_bytes, children, forks
            inner = {ARGUMENTS: self._kept(key, lambda: self._arguments(*key))}
            if not forks:
                inner[FILTER] = self._kept(
                    ("filter", children),
                    lambda: kernel.memory_file(kernel.build_filter(shared_pids=False, children=children)),
                )
            for file in inner.values():
                os.lseek(file, 0, os.SEEK_SET)
            outer = bubblewrap_command(self.path, STATUS, filtered=not forks)
            environment = {"PATH": "/usr/bin:/bin"}
            return spawn(
                outer + command,
                environment,
                {**descriptors, **inner},
                prepare=lambda: None if forks else _set_limits(self.limits(limits)),
                status_survives=True,
            )
        environment = {**ENVIRONMENT, "HOME": "/", "TMPDIR": folder or "/tmp"}
        ruleset = -1
        if self.tier == LANDLOCK and folder:
            ruleset = self._ruleset(children, folder)
        elif self.tier == LANDLOCK:
            ruleset = self._kept(("ruleset",), lambda: self._ruleset(children, None))

        def give_up_rights() -> None:
            if not forks:
                _set_limits(self.limits(limits))
            kernel.no_new_privileges()
            kernel.drop_capabilities()
            if self.tier == LANDLOCK:
                kernel.apply_landlock(ruleset)
                if not forks:
                    filter_ = kernel.build_filter(shared_pids=True, shared_files=True, children=children)
                    kernel.install_filter(kernel.filter_for_pid(filter_, os.getpid()))

        try:
            return spawn(command, environment, descriptors, folder=folder or "/", prepare=give_up_rights)
        finally:
            if folder and ruleset >= 0:
                os.close(ruleset)

    def limits(self, limits: Limits) -> list[str]:
        """Return the limits of one process as `name=soft:hard`, names as in setrlimit(2) without RLIMIT_."""
        memory, cpu = limits.memory_bytes, limits.cpu_seconds
        values = {"AS": memory, "DATA": memory, "FSIZE": limits.file_bytes, "NOFILE": limits.open_files}
        values |= {"NPROC": limits.processes + self._tasks_beside(), "STACK": STACK_BYTES}
        values |= {"CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0, "SIGPENDING": 256}
        # Time runs out twice: SIGXCPU can be ignored, SIGKILL a second later cannot.
        return [f"{name}={value}:{value}" for name, value in values.items()] + [f"CPU={cpu}:{cpu + 1}"]

    def _tasks_beside(self) -> int:
        """Count the tasks that RLIMIT_NPROC counts besides the program's own.

        Since Linux 5.14 it counts per user and user namespace; otherwise the user's Jupyter, trainings and
        shells are included.
        """
        if self.namespaces and _kernel() >= (5, 14):
            return 3  # bubblewrap's init, a fork server, the program
        if time.monotonic() - self._tasks[0] > _COUNT_SECONDS:
            self._tasks = time.monotonic(), kernel.tasks_of_this_user()
        return self._tasks[1] + 3

    def _kept(self, key: tuple, make: Callable[[], int]) -> int:
        """Return the file descriptor for `key`, made once."""
        if key not in self._files:
            self._files[key] = make()
        return self._files[key]

    def _arguments(self, scratch_bytes: int, toolchain: bool, forks: bool) -> int:
        return kernel.memory_file(
            bubblewrap_arguments(
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
        read = [*SYSTEM, *READABLE, *own, *system, *DEVICES]
        ruleset = kernel.landlock_rules(read, write=["/dev/null"], folder=folder)
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


def bubblewrap_path() -> str | None:
    """Return the path of bubblewrap, if it is installed."""
    return shutil.which("bwrap")


def bubblewrap_command(program: str, status: int, *, filtered: bool = True) -> list[str]:
    """Return the arguments that do not go in by `--args`; the command to run follows them."""
    filter_ = ["--seccomp", str(FILTER)] if filtered else []
    return [program, "--args", str(ARGUMENTS), "--json-status-fd", str(status), *filter_]


def bubblewrap_arguments(
    interpreter: str, roots: Sequence[str], scratch_bytes: int, *, proc: bool, toolchain: bool, forks: bool
) -> bytes:
    """Return the text for `--args`, each argument ended by NUL.

    roots: read-only folders that the interpreter needs besides the system's. toolchain: all of /usr, for a
    compiler. forks: for a fork server, which mounts a scratch disk for each run and needs the right to do so
    in its own namespace; the program that it forks loses that right.
    """
    parts = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    parts += ["--cap-add", "CAP_SYS_ADMIN"] if forks else []
    parts += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        parts += ["--setenv", name, value]
    parts += ["--ro-bind", "/usr", "/usr"] if toolchain else []
    for path in SYSTEM:
        inside_usr = path.startswith("/usr/")
        if os.path.islink(path) and not inside_usr:
            parts += ["--symlink", os.readlink(path).lstrip("/"), path]
        elif os.path.isdir(path) and not (inside_usr and toolchain):
            parts += ["--ro-bind", path, path]
    for path in READABLE:
        if not (path.startswith("/usr/") and toolchain):
            parts += ["--ro-bind-try", path, path]
    for path in (*roots, interpreter):
        if not (path.startswith("/usr/") and toolchain):
            parts += ["--ro-bind", path, path]
    for device in DEVICES:  # `--dev` would bring a terminal and shared memory, and takes a millisecond longer
        parts += ["--dev-bind", device, device]
    if proc:
        parts += ["--proc", "/proc"]
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            parts += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    parts += ["--size", str(scratch_bytes), "--tmpfs", BOX, "--symlink", BOX.lstrip("/"), "/tmp"]
    parts += ["--remount-ro", "/", "--chdir", BOX]
    return b"".join(os.fsencode(part) + b"\0" for part in parts)


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Mapping[int, int],
    *,
    folder: str = "/",
    prepare: Callable[[], None] = lambda: None,
    status_survives: bool = False,
) -> int:
    """Start `command` in its own process group, with only `descriptors` (its number: ours); return the pid.

    It ends with this process, which must have no other threads. `prepare` runs in the new process just before
    the other descriptors are closed. An error before exec is written to descriptor STATUS, which the program
    itself inherits only if `status_survives`.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        moved = {target: fcntl.fcntl(source, fcntl.F_DUPFD, _SPARE) for target, source in descriptors.items()}
        for target, source in moved.items():
            os.dup2(source, target, inheritable=target != STATUS or status_survives)
        os.setpgid(0, 0)  # not a session: if the broker is lost, its session tells what it left behind
        end_with_parent(parent)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python ignores or handles them
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        prepare()
        last = max(descriptors)
        for unused in set(range(last)) - set(descriptors):
            os.closerange(unused, unused + 1)
        os.closerange(last + 1, _MOST)
        os.execve(command[0], list(command), dict(environment))
    except BaseException as error:
        os.write(STATUS, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(127)
