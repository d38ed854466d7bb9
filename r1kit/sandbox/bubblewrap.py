"""The command line of bubblewrap: what a program sees of the machine.

Nothing but the interpreter and the system's libraries, read-only; one scratch disk of fixed size at /box
(/tmp is a link to it); no network, no other process, no capability. Traps that trials found (2026-11):

- bubblewrap must be started with an empty environment: `--clearenv` leaves its own readable in
  /proc/1/environ; so too its arguments, which therefore go in by a file (`--args`).
- a bound file leaves the tmpfs above it writable and without limit: the root ends read-only, and every tmpfs
  has a size.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

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


def bubblewrap_path() -> str | None:
    """The path of bubblewrap, if it is installed."""
    return shutil.which("bwrap")


def bubblewrap_command(program: str, status: int, *, filtered: bool = True) -> list[str]:
    """The part that does not go in by `--args`; the command to run follows it."""
    filter_ = ["--seccomp", str(FILTER)] if filtered else []
    return [program, "--args", str(ARGUMENTS), "--json-status-fd", str(status), *filter_]


def bubblewrap_arguments(
    interpreter: str, roots: Sequence[str], scratch_bytes: int, *, proc: bool, toolchain: bool, forks: bool
) -> bytes:
    """What goes in by `--args`, each argument ended by NUL.

    roots: read-only folders that the interpreter needs besides the system's. toolchain: all of /usr, for a
    compiler. forks: for a fork server, which gives each run a scratch disk of its own and needs the right to
    mount for that, in its own namespace only; the program that it forks does not keep it.
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
