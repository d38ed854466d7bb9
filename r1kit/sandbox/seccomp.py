"""The system-call filter of a run, as classic BPF for x86_64 and aarch64 (seccomp(2)).

It is a list of what is refused, so Python, numpy and C++ programs need no care; calls newer than this list do
not exist for a program (ENOSYS), so that a kernel's news cannot open a door. Each group is there because
something got through without it in trials of 2026-11: no new processes (200 forks passed RLIMIT_NPROC, and 8
children had 400 MB each, since memory limits count by process), no ptrace (it hung the sandbox's init), no
key rings, no sockets (AF_VSOCK ignores network namespaces), no memory files (they count against no limit).

Without namespaces a program shares process numbers and the file tree with the host, and a uid with its caller
if that is an ordinary user. Landlock leaves open what is refused there as well: `prlimit`, priorities and
(before ABI 6) signals to other processes, also by `fcntl(F_SETOWN)`; chmod, chown, utime and setxattr.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column below
NEWEST = 462  # numbers from 424 on are the same everywhere; later calls answer ENOSYS
PID_PLACEHOLDER = 0x7ABCDEF1  # stands for the program's own pid until the program has one

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
    """True if there is a filter for this processor."""
    return (machine or platform.machine()) in ARCHITECTURES


def build_filter(
    *, shared_pids: bool, shared_files: bool = False, children: bool = False, machine: str | None = None
) -> bytes:
    """The filter as an array of struct sock_filter, 8 bytes each.

    shared_pids, shared_files: no namespace of its own for processes, for files; see above. With shared
    process numbers, put the program's pid in by `filter_for_pid` before installing the filter.
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
    """The same filter with `pid` as the only process that may be signalled."""
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
    """EPERM for each of the calls."""
    code: list[Instruction] = []
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        # Equal: on to the return behind the chunk. Not equal: the next one; after the last, past the return.
        code += [
            (_EQUAL, len(chunk) - 1 - i, 1 if i == len(chunk) - 1 else 0, n) for i, n in enumerate(chunk)
        ]
        code += [_error(errno.EPERM)]
    return code


def _only(number: int, argument_at: int, tests: list[Instruction]) -> list[Instruction]:
    """EPERM for the call unless the tests of one argument (its low 32 bits) end on the next instruction."""
    block = [(_LOAD, 0, 0, argument_at), *tests, (_RETURN, 0, 0, _ALLOW), _error(errno.EPERM)]
    return [(_EQUAL, 0, len(block), number), *block]
