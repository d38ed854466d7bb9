"""C++ programs: compiled once inside the sandbox, then run as a binary for each case.

A compiler is a large program fed with hostile text (`#include </dev/zero>`, templates that never end), so it
runs under the same isolation, within limits of its own (`COMPILER_LIMITS` of the sandbox). What does not
compile within them is the program's fault; a machine without a compiler is not, and says so as `infra`.

`#include <bits/stdc++.h>` alone costs 2.4 s and 200 MB (2026-11-24, two busy cores), hence the memory of
binaries.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict

from r1kit.sandbox.runner import Sandbox
from r1kit.sandbox.verdicts import MIB, Execution, Limits, Verdict

COMPILER = "g++"
FLAGS = ("-O2", "-std=c++17")
_MOST_BYTES = 64 * MIB  # of binaries kept; one is 20 KB to 2 MB

_lock = threading.Lock()
_binaries: OrderedDict[bytes, tuple[bytes | None, Execution]] = OrderedDict()


def execute_cplusplus(sandbox: Sandbox, source: str, stdin: bytes, limits: Limits | None = None) -> Execution:
    """Compile (or remember) and run one C++ program; a compile error is an Execution with verdict `error`."""
    binary, execution = compiled(sandbox, source)
    return execution if binary is None else sandbox.run_binary(binary, stdin, limits=limits)


def compiled(sandbox: Sandbox, source: str) -> tuple[bytes | None, Execution]:
    """The binary of a C++ program, or None, and how the compiler ended; trouble of ours is not remembered."""
    key = hashlib.sha256("\0".join((COMPILER, *FLAGS, source)).encode("utf-8", "surrogatepass")).digest()
    with _lock:
        if key in _binaries:
            _binaries.move_to_end(key)
            return _binaries[key]
    binary, execution = sandbox.compile(source, COMPILER, FLAGS)
    if execution.verdict is not Verdict.INFRA:
        with _lock:
            _binaries[key] = binary, execution
            while (
                sum(len(kept or b"") for kept, _ in _binaries.values()) > _MOST_BYTES or len(_binaries) > 1000
            ):
                _binaries.popitem(last=False)
    return binary, execution


def forget() -> None:
    """Drop every compiled program."""
    with _lock:
        _binaries.clear()


def _forked() -> None:
    """A fork may copy the lock while another thread holds it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)
