"""The filter, instruction by instruction, for both processors: a small interpreter runs it on calls."""

import errno
import platform
import re
import struct
from pathlib import Path

import pytest

from r1kit.sandbox import kernel

ALLOW, KILL = "allow", "kill"
PID = 4711


def decide(machine, name_or_number, *arguments, pid=PID, **settings):
    """What the filter says to a system call: allow, kill, or an error's name."""
    number = name_or_number
    if isinstance(number, str):
        number = kernel._numbers(kernel.ARCHITECTURES[machine][1])[number]
    filter_ = kernel.filter_for_pid(kernel.build_filter(machine=machine, **settings), pid)
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack(
        "<iIQ6Q", number, kernel.ARCHITECTURES[machine][0], 0, *(a % (1 << 64) for a in padded)
    )
    return interpret(filter_, data)


def interpret(filter_, data):
    program = list(struct.iter_unpack("<HBBI", filter_))
    accumulator = at = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code in (0x15, 0x35, 0x45):
            true = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += if_true if true else if_false
        elif code == 0x06:
            if k == 0x7FFF0000:
                return ALLOW
            return KILL if k == 0x80000000 else errno.errorcode[k & 0xFFFF]


ALONE, SHARED = {"shared_pids": False}, {"shared_pids": True, "shared_files": True}
COMPILER = {"shared_pids": False, "children": True}
both = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@both
def test_every_refused_call_is_refused_and_others_are_not(machine):
    numbers = kernel._numbers(kernel.ARCHITECTURES[machine][1])
    refused = set(kernel._names(kernel._ALWAYS)) & set(numbers)
    assert len(refused) > 60
    assert {decide(machine, name, **ALONE) for name in refused} == {"EPERM"}
    for name in ("chmod", "fchmodat", "utimensat", "setpriority", "truncate"):
        if name in numbers:
            assert decide(machine, name, **ALONE) == ALLOW
            assert decide(machine, name, **SHARED) == "EPERM"
    known = set(numbers.values())
    unknown = [number for number in range(463) if number not in known]
    assert {decide(machine, number, **SHARED) for number in unknown} == {ALLOW}


@both
def test_processes_are_refused_and_threads_are_not(machine):
    thread, child, namespace = 0x3D0F00, 0x11, 0x10000011
    assert decide(machine, "clone", thread, **ALONE) == ALLOW
    assert decide(machine, "clone", child, **ALONE) == "EPERM"
    assert decide(machine, "clone", child, **COMPILER) == ALLOW
    assert decide(machine, "clone", namespace, **COMPILER) == "EPERM"
    assert decide(machine, "clone3", **COMPILER) == "ENOSYS"
    if machine == "x86_64":
        assert decide(machine, "fork", **ALONE) == decide(machine, "vfork", **ALONE) == "EPERM"
        assert decide(machine, "fork", **COMPILER) == ALLOW


@both
def test_only_pairs_of_unix_sockets_exist(machine):
    assert decide(machine, "socket", 1, **ALONE) == "EPERM"
    assert decide(machine, "socketpair", 1, **ALONE) == ALLOW
    assert decide(machine, "socketpair", 2, **ALONE) == "EPERM"


@both
def test_with_shared_pids_only_the_program_itself_can_be_signalled(machine):
    for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        assert decide(machine, name, PID, 9, **SHARED) == ALLOW
        for other in (PID + 1, 1, 0, -1, -PID):
            assert decide(machine, name, other, 9, **SHARED) == "EPERM"
        assert decide(machine, name, 1, 9, **ALONE) == ALLOW
    for name in ("prlimit64", "sched_setaffinity"):
        assert decide(machine, name, 0, **SHARED) == decide(machine, name, PID, **SHARED) == ALLOW
        assert decide(machine, name, PID - 1, **SHARED) == "EPERM"


@both
def test_with_shared_pids_no_file_can_signal_for_the_program(machine):
    for name, command in (("fcntl", 8), ("fcntl", 15), ("ioctl", 0x8901), ("ioctl", 0x8902)):
        assert decide(machine, name, 3, command, **SHARED) == "EPERM"
    assert decide(machine, "fcntl", 3, 4, **SHARED) == ALLOW
    assert decide(machine, "ioctl", 3, 0x5401, **SHARED) == ALLOW


@both
def test_a_call_newer_than_the_filter_does_not_exist(machine):
    assert decide(machine, 462, **ALONE) == ALLOW
    assert {decide(machine, number, **ALONE) for number in (463, 469, 1000)} == {"ENOSYS"}


def test_calls_of_another_architecture_end_the_program():
    filter_ = kernel.build_filter(machine="x86_64", shared_pids=False)
    assert interpret(filter_, struct.pack("<iIQ6Q", 11, 0x40000003, 0, *[0] * 6)) == KILL  # i386
    assert decide("x86_64", 0x40000000 + 57, **ALONE) == KILL  # x32


@both
def test_the_filter_is_short_enough(machine):
    for settings in (ALONE, SHARED, COMPILER):
        assert 80 < len(kernel.build_filter(machine=machine, **settings)) // 8 < 400


@pytest.mark.parametrize(
    ("column", "path", "pattern"),
    [
        (0, f"/usr/include/{platform.machine()}-linux-gnu/asm/unistd_64.h", r"#define\s+__NR_(\w+)\s+(\d+)"),
        (1, "/usr/include/asm-generic/unistd.h", r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)"),
    ],
)
def test_numbers_are_those_of_the_kernel_headers(column, path, pattern):
    if not Path(path).exists():
        pytest.skip(f"{path} is not there (linux-libc-dev)")
    headers = {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}
    ours = kernel._numbers(column)
    assert {name: number for name, number in ours.items() if headers.get(name, number) != number} == {}
    assert len(set(ours) & set(headers)) > 80
