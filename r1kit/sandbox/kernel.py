"""Linux system calls that the sandbox needs beyond Python's `os`, Landlock rules, and the seccomp filter.

Standard library only, because a broker runs without installed packages (`r1kit.runs.processes` needs psutil).

With Landlock (landlock(7)) a process gives up the file tree, the network and signals to others for good. It
needs no namespaces and works from Linux 5.13 on, inside docker's default seccomp profile too. What a kernel's
Landlock does not cover, seccomp refuses (sockets, signals, truncate).

The system-call filter is classic BPF for x86_64 and aarch64 (seccomp(2)). It lists what is refused, so
Python, numpy and C++ programs run unchanged; calls newer than the list answer ENOSYS, so a newer kernel opens
no gap. Each group is in the list because something got through without it in trials of 2026-11: new processes
(200 forks passed RLIMIT_NPROC, and 8 children had 400 MB each, since memory limits count per process), ptrace
(it hung the sandbox's init), key rings, sockets (AF_VSOCK ignores network namespaces), memory files (no limit
counts them).

Without namespaces a program shares process numbers and the file tree with the host, and the uid with its
caller if that is an ordinary user. The filter then also refuses what Landlock leaves open: `prlimit`,
priorities, (before ABI 6) signals to other processes, also by `fcntl(F_SETOWN)`; chmod, chown, utime and
setxattr.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import resource  # noqa: F401 (os.wait4 imports it, and a spare user may not be able to read it)
import signal
import stat
import struct
import time
from collections.abc import Iterable, Sequence

SPARE_UIDS = range(60800, 61184)  # given to nobody by Debian's policy and by systemd's table of uids
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: int | bytes) -> int:
    """Call syscall(2); raise OSError with its errno."""
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
    """Have the kernel kill this process when the thread that started it ends; exit now if it has ended."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def no_new_privileges() -> None:
    """Deny this process and its children any gain from setuid programs, for good."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def install_filter(program: bytes) -> None:
    """Install a filter from `build_filter`; the process must have no_new_privs set."""
    text = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(text)))
    _prctl(_PR_SET_SECCOMP, 2, ctypes.cast(head, ctypes.c_void_p))


def drop_capabilities() -> None:
    """Give up every capability, which makes a root that cannot change its uid an ordinary user."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    system_call(CAPSET[platform.machine()], header, bytes(24))


def become_spare_user() -> str:
    """Change from root to a user that owns nothing; return the resulting user, in words.

    RLIMIT_NPROC does not bind root either. A root without other uids (a rootless container) is an ordinary
    user to the kernel, and keeps its uid.
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
    """Return the descriptor of an unnamed file in memory, at its start; sealed means read-only for good."""
    file = os.memfd_create("data", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    if sealed:
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return file


def tasks_of_this_user() -> int:
    """Count the processes and threads that RLIMIT_NPROC counts for this uid now."""
    uid, count = os.getuid(), 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid or int(name) == os.getpid():
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def oom_kills() -> int:
    """Return how many processes the kernel killed for lack of memory since boot; 0 if it keeps no count."""
    with contextlib.suppress(OSError), open("/proc/vmstat", "rb") as file:
        text = file.read()
        at = text.find(b"\noom_kill ")
        return int(text[at + 10 : text.index(b"\n", at + 1)]) if at >= 0 else 0
    return 0


def children() -> list[int]:
    """Return the direct children of this process, zombies included."""
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
    """Kill every process of a session except its leader, which must not have been waited for yet.

    It cleans up after a killed broker. The kernel ends its children with it, but a bubblewrap whose parent
    dies in the millisecond before it requests that stays forever (seen on 2026-11-24).
    """
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat") as file:
                session = int(file.read().rpartition(")")[2].split()[3])
            if session == leader and pid != leader:
                os.kill(pid, signal.SIGKILL)


def reap(expected: int | None = None, seconds: float = 10.0) -> tuple[dict[int, int], float, int]:
    """Kill and wait for everything under this process, adopted orphans included.

    Returns:
        The wait status by pid, the processor seconds of all of them, and how many besides `expected` had to
        be killed.

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
        # bubblewrap's init ends by itself a moment after bubblewrap, so kill only what remains later.
        if pause > 0.005:
            for child in children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)
                    killed.add(child)
        if time.monotonic() > deadline:
            raise TimeoutError(f"could not end {children()}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


# Landlock.

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same number on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_FILE = 1, 2, 4, 8, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | 1 << 15
_TCP, _SCOPES = 3, 3  # bind and connect; abstract unix sockets and signals


def landlock_version() -> int:
    """Return the kernel's Landlock ABI; 0 if it has none or forbids its use."""
    try:
        return system_call(_CREATE, 0, 0, _VERSION)
    except OSError:
        return 0


def landlock_rules(read: Iterable[str], write: Iterable[str] = (), folder: str | None = None) -> int:
    """Make a ruleset, as a file descriptor: read and execute beneath `read`, write the files of `write`.

    In `folder` (for a compiler) files may be made, read, written and removed. Missing paths are skipped.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    abi = landlock_version()
    files = (1 << 13) - 1 | (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15
    attributes = struct.pack("QQQ", files, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    attributes = attributes[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = system_call(_CREATE, attributes, len(attributes), 0)
    for path in read:
        _allow(ruleset, path, (_EXECUTE | _READ_FILE | _READ_DIR) & files)
    for path in write:
        _allow(ruleset, path, (_READ_FILE | _WRITE_FILE) & files)
    if folder is not None:
        made = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _MAKE_FILE | _REMOVE_FILE
        _allow(ruleset, folder, made & files)
    return ruleset


def apply_landlock(ruleset: int) -> None:
    """Apply a ruleset to this thread and all that it starts; it must have no_new_privs set.

    Raises:
        OSError: the kernel refuses.
    """
    system_call(_RESTRICT, ruleset, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            rights &= _FILE_RIGHTS
        system_call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("<Qi", rights, file), 0)
    finally:
        os.close(file)


# The system-call filter.

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column below
NEWEST = 462  # numbers from 424 on are the same everywhere; later calls answer ENOSYS
PID_PLACEHOLDER = 0x7ABCDEF1  # the program's pid, filled in when it has one

# Refused always, with shared process numbers, with shared files; and what one argument decides.
# name=x86_64,aarch64 (asm/unistd_64.h, asm-generic/unistd.h); "-" where an architecture lacks the call
_ALWAYS = """
ptrace=101,117 process_vm_readv=310,270 process_vm_writev=311,271 process_madvise=440,440
process_mrelease=448,448 kcmp=312,272 pidfd_open=434,434 pidfd_getfd=438,438 pidfd_send_signal=424,424
unshare=272,97 setns=308,268 mount=165,40 umount2=166,39 pivot_root=155,41 chroot=161,51 move_mount=429,429
open_tree=428,428 fsopen=430,430 fsconfig=431,431 fsmount=432,432 fspick=433,433 mount_setattr=442,442
add_key=248,217 request_key=249,218 keyctl=250,219 bpf=321,280 perf_event_open=298,241 userfaultfd=323,282
io_uring_setup=425,425 io_uring_enter=426,426 io_uring_register=427,427 kexec_load=246,104
kexec_file_load=320,294 init_module=175,105 finit_module=313,273 delete_module=176,106
open_by_handle_at=304,265 name_to_handle_at=303,264 syslog=103,116 quotactl=179,60 quotactl_fd=443,443
acct=163,89 swapon=167,224 swapoff=168,225 reboot=169,142 settimeofday=164,170 clock_settime=227,112
adjtimex=159,171 clock_adjtime=305,266 iopl=172,- ioperm=173,- modify_ldt=154,- personality=135,92
sethostname=170,161 setdomainname=171,162 vhangup=153,58 uselib=134,- memfd_create=319,279
memfd_secret=447,447 shmget=29,194 shmat=30,196 msgget=68,186 semget=64,190 mq_open=240,180
fanotify_init=300,262 fanotify_mark=301,263 inotify_init=253,- inotify_init1=294,26 inotify_add_watch=254,27
migrate_pages=256,238 move_pages=279,239 mbind=237,235 set_mempolicy=238,237 socket=41,198
"""
_SHARED_PIDS = """
tkill=200,130 setpriority=141,140 ioprio_set=251,30 sched_setscheduler=144,119 sched_setparam=142,118
sched_setattr=314,274
"""
_SHARED_FILES = """
chmod=90,- fchmod=91,52 fchmodat=268,53 fchmodat2=452,452 chown=92,- lchown=94,- fchown=93,55
fchownat=260,54 utime=132,- utimes=235,- utimensat=280,88 futimesat=261,- setxattr=188,5 lsetxattr=189,6
fsetxattr=190,7 removexattr=197,14 lremovexattr=198,15 fremovexattr=199,16 truncate=76,45
"""
_BY_ARGUMENT = """
fork=57,- vfork=58,- clone=56,220 clone3=435,435 socketpair=53,199 kill=62,129 tgkill=234,131
rt_sigqueueinfo=129,138 rt_tgsigqueueinfo=297,240 sched_setaffinity=203,122 prlimit64=302,261 fcntl=72,25
ioctl=16,29
"""
_OWN_PID_ONLY = "kill tgkill rt_sigqueueinfo rt_tgsigqueueinfo"  # the target is the first argument
_OWN_PID_OR_ZERO = "prlimit64 sched_setaffinity"  # 0 means the caller itself
_SET_OWNER = {"fcntl": (8, 15), "ioctl": (0x8901, 0x8902)}  # F_SETOWN, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = 0, 4, 16, 24  # struct seccomp_data
_CLONE_THREAD, _CLONE_NAMESPACES = 0x10000, 0x7E020000
_AF_UNIX = 1
_CHUNK = 200  # a jump reaches 255 instructions

Instruction = tuple[int, int, int, int]


def filter_supported(machine: str | None = None) -> bool:
    """Check that there is a filter for this processor."""
    return (machine or platform.machine()) in ARCHITECTURES


def build_filter(
    *, shared_pids: bool, shared_files: bool = False, children: bool = False, machine: str | None = None
) -> bytes:
    """Build the filter as an array of struct sock_filter, 8 bytes each.

    shared_pids, shared_files: the program has no namespace of its own for processes, for files. With shared
    process numbers, `filter_for_pid` must put the program's pid in before the filter is installed.
    children: new processes are allowed (a compiler needs them), new namespaces are not.
    """
    machine = machine or platform.machine()
    arch, column = ARCHITECTURES[machine]
    number = _numbers(column)
    code: list[Instruction] = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER_AT)]
    if machine == "x86_64":  # x32 numbers would pass by all that follows
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
    code += [(_AT_LEAST, 0, 1, NEWEST + 1), _error(errno.ENOSYS)]
    refused = _names(_ALWAYS) + ["fork", "vfork"] * (not children)
    refused += _names(_SHARED_PIDS) * shared_pids + _names(_SHARED_FILES) * shared_files
    code += _refuse([number[name] for name in refused if name in number])
    # glibc then falls back to clone, whose flags a filter can see.
    code += [(_EQUAL, 0, 1, number["clone3"]), _error(errno.ENOSYS)]
    threads_only, no_namespaces = (_ANY_BIT, 0, 1, _CLONE_THREAD), (_ANY_BIT, 1, 0, _CLONE_NAMESPACES)
    code += _only(number["clone"], _FIRST_ARGUMENT_AT, [no_namespaces if children else threads_only])
    code += _only(number["socketpair"], _FIRST_ARGUMENT_AT, [(_EQUAL, 0, 1, _AF_UNIX)])
    if shared_pids:
        own = (_EQUAL, 0, 1, PID_PLACEHOLDER)
        for name in _OWN_PID_ONLY.split():
            code += _only(number[name], _FIRST_ARGUMENT_AT, [own])
        for name in _OWN_PID_OR_ZERO.split():
            code += _only(number[name], _FIRST_ARGUMENT_AT, [(_EQUAL, 1, 0, 0), own])
        for name, (one, other) in _SET_OWNER.items():
            either = [(_EQUAL, 2, 0, one), (_EQUAL, 1, 0, other)]
            code += _only(number[name], _SECOND_ARGUMENT_AT, either)
    code += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def filter_for_pid(program: bytes, pid: int) -> bytes:
    """Return the filter with `pid` as the only process that may be signalled."""
    return program.replace(struct.pack("<I", PID_PLACEHOLDER), struct.pack("<I", pid))


def _names(table: str) -> list[str]:
    return [entry.partition("=")[0] for entry in table.split()]


def _numbers(column: int) -> dict[str, int]:
    tables = _ALWAYS + _SHARED_PIDS + _SHARED_FILES + _BY_ARGUMENT
    pairs = (entry.split("=") for entry in tables.split())
    return {name: int(n) for name, both in pairs if (n := both.split(",")[column]) != "-"}


def _error(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _refuse(numbers: Sequence[int]) -> list[Instruction]:
    """Answer EPERM to each of the calls."""
    code: list[Instruction] = []
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        # If equal, jump to the return after the chunk; if not, try the next; after the last, skip the return.
        code += [
            (_EQUAL, len(chunk) - 1 - i, 1 if i == len(chunk) - 1 else 0, n) for i, n in enumerate(chunk)
        ]
        code += [_error(errno.EPERM)]
    return code


def _only(number: int, argument_at: int, tests: list[Instruction]) -> list[Instruction]:
    """Answer EPERM unless the tests of one argument (its low 32 bits) end on the next instruction."""
    block = [(_LOAD, 0, 0, argument_at), *tests, (_RETURN, 0, 0, _ALLOW), _error(errno.EPERM)]
    return [(_EQUAL, 0, len(block), number), *block]
