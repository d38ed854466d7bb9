"""What the sandbox asks of Linux beyond Python's `os`, one function each.

Standard library only, since a broker runs without installed packages (`r1kit.runs.processes` needs psutil).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import platform
import resource  # noqa: F401 (os.wait4 imports it, which is too late once a closed home is behind us)
import signal
import struct
import time

SPARE_UIDS = range(60800, 61184)  # given to nobody by Debian's policy and by systemd's table of uids
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: int | bytes) -> int:
    """syscall(2). Raises OSError with its errno."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _libc().syscall(ctypes.c_long(number), *wide)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, *values: int | ctypes.c_void_p) -> None:
    wide = [ctypes.c_ulong(v) if isinstance(v, int) else v for v in values]
    if _libc().prctl(option, *wide, *[ctypes.c_ulong(0)] * (4 - len(wide))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper() -> None:
    """Adopt orphaned descendants in place of init, so that they can be ended and waited for."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends; now, if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def no_new_privileges() -> None:
    """No setuid program can give this process or its children anything from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def install_filter(program: bytes) -> None:
    """Install a seccomp filter (see `r1kit.sandbox.seccomp`). It must have no_new_privs set."""
    text = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(text)))
    _prctl(_PR_SET_SECCOMP, 2, ctypes.cast(head, ctypes.c_void_p))


def drop_capabilities() -> None:
    """Give up every capability. A root that could not become another user is an ordinary user then."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    system_call(CAPSET[platform.machine()], header, bytes(24))


def become_spare_user() -> str:
    """Root becomes a user that owns nothing; returns what happened, in words.

    Not only for safety: RLIMIT_NPROC does not bind root. A root without other uids (a rootless container) is
    an ordinary user to the kernel, and stays what it is.
    """
    if os.geteuid() != 0:
        return f"uid {os.geteuid()}"
    uid = SPARE_UIDS[os.getpid() % len(SPARE_UIDS)]
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        return f"uid 0: this root may not become another user ({error.strerror})"
    return f"spare uid {uid}"


def memory_file(data: bytes = b"", *, sealed: bool = True) -> int:
    """A file descriptor of an unnamed file in memory, at its start; sealed: nobody can change it again."""
    file = os.memfd_create("data", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    if sealed:
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return file


def tasks_of_this_user() -> int:
    """Processes and threads that RLIMIT_NPROC counts for this uid now."""
    uid, count = os.getuid(), 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid or int(name) == os.getpid():
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory since boot; 0 where it does not say."""
    with contextlib.suppress(OSError), open("/proc/vmstat", "rb") as file:
        text = file.read()
        at = text.find(b"\noom_kill ")
        return int(text[at + 10 : text.index(b"\n", at + 1)]) if at >= 0 else 0
    return 0


def children() -> list[int]:
    """The direct children of this process, zombies included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel built without it
        return [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == os.getpid()
        ]


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
    return 0


def end_session(leader: int) -> None:
    """Kill every process of a session but its leader, who must not have been waited for yet.

    For what a killed broker leaves behind: the kernel ends its children with it, but a bubblewrap whose
    parent dies in the millisecond before it asks for that stays for ever (one was found on 2026-11-24).
    """
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat") as file:
                session = int(file.read().rpartition(")")[2].split()[3])
            if session == leader and pid != leader:
                os.kill(pid, signal.SIGKILL)


def reap(expected: int | None = None, seconds: float = 10.0) -> tuple[dict[int, int], float, int]:
    """Kill and wait for everything under this process, adopted orphans included.

    Returns the wait status by pid, the processor seconds of all of them, and how many besides `expected` had
    to be killed.

    Raises:
        TimeoutError: something could not be ended (stuck in the kernel).
    """
    statuses: dict[int, int] = {}
    killed: set[int] = set()
    used, pause, deadline = 0.0, 0.0002, time.monotonic() + seconds
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return statuses, used, len(killed - {expected})
        if pid:
            statuses[pid] = status
            used += usage.ru_utime + usage.ru_stime
            continue
        # bubblewrap's init ends a moment after bubblewrap, on its own: killing is for what does not.
        if pause > 0.005:
            for child in children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)
                    killed.add(child)
        if time.monotonic() > deadline:
            raise TimeoutError(f"could not end {children()}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
