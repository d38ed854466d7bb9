"""Landlock (landlock(7)): a process gives up the file tree, the network and signals to others, for good.

Works for everybody without namespaces, from Linux 5.13 on and inside docker's default seccomp profile. What a
kernel's version does not know is left out, and seccomp refuses it instead (sockets, signals, truncate).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable

from r1kit.sandbox.linux import system_call

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same number on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_FILE = 1, 2, 4, 8, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | 1 << 15
_TCP, _SCOPES = 3, 3  # bind and connect; abstract unix sockets and signals


def landlock_version() -> int:
    """The kernel's Landlock ABI; 0 if it has none or does not let us use it."""
    try:
        return system_call(_CREATE, 0, 0, _VERSION)
    except OSError:
        return 0


def landlock_rules(read: Iterable[str], write: Iterable[str] = (), folder: str | None = None) -> int:
    """A ruleset as a file descriptor: read and execute beneath `read`, write the files of `write`.

    In `folder` (a compiler's) files may be made, read, written and removed. A path that is not there is
    passed over.

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
    """Apply to this thread and all that it starts. It must have no_new_privs set.

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
