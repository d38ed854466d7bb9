"""The warm interpreter inside the sandbox that forks itself for each run. Not imported.

The broker passes this text to `python -S -c` and talks over descriptor 3: each request comes with the
standard streams and the payload of one run as descriptors. Only the forked child reads the payload, after it
has given up the server's socket, its right to mount and the system calls of a program. So the child finds
nothing of other runs in memory and can neither answer for the server nor signal it. The server reports the
wait status of the child from the kernel.
"""

import _sitebuiltins
import atexit
import bisect
import builtins
import collections
import contextlib
import copy
import ctypes
import datetime
import decimal
import fractions
import functools
import gc
import heapq
import io
import itertools
import json
import linecache
import math
import operator
import os
import random
import re
import resource
import select
import signal
import socket
import string
import struct
import sys
import threading
import traceback
import typing

WARM = (bisect, collections, copy, datetime, decimal, fractions, functools, heapq, itertools, math, operator)
WARM += (random, re, string, typing, linecache, traceback)
CONTROL, PAYLOAD = 3, 3
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CLONE_NEWNS, CLONE_NEWIPC, MS_NOSUID, MS_NODEV = 0x20000, 0x8000000, 2, 4
libc = ctypes.CDLL(None, use_errno=True)


def must(result):
    """Raise OSError if a C function failed."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def prctl(option, *values):
    """Call prctl(2)."""
    wide = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in values]
    must(libc.prctl(option, *wide, *[ctypes.c_ulong(0)] * (4 - len(wide))))


def complete(packages):
    """Do what the module `site` would do, as in boot.py."""
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.help = _sitebuiltins._Helper()
    sys.path += filter(None, packages.split(":"))


def enclose(request, filter_, placeholder, capset):
    """Separate this child from the server and from other runs."""
    prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if request["scratch"]:
        must(libc.unshare(CLONE_NEWNS | CLONE_NEWIPC))
        options = f"size={request['scratch']},nr_inodes={request['files']},mode=700".encode()
        must(libc.mount(b"scratch", b"/box", b"tmpfs", ctypes.c_ulong(MS_NOSUID | MS_NODEV), options))
        os.chdir("/box")
    must(libc.syscall(ctypes.c_long(capset), struct.pack("Ii", 0x20080522, 0), bytes(24)))
    for limit in request["limits"]:
        name, _, values = limit.partition("=")
        kind = getattr(resource, "RLIMIT_" + name)
        ceiling = resource.getrlimit(kind)[1]
        pair = [
            int(v) if ceiling == resource.RLIM_INFINITY else min(int(v), ceiling) for v in values.split(":")
        ]
        resource.setrlimit(kind, pair)
    program = filter_.replace(struct.pack("<I", placeholder), struct.pack("<I", os.getpid()))
    text = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(text)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, ctypes.cast(head, ctypes.c_void_p))


def standard_streams():
    """Make sys.stdin, stdout and stderr as a new interpreter does in UTF-8 mode."""
    stdin = io.BufferedReader(io.FileIO(0, "r", closefd=False))
    stdout = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
    stderr = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(stdin, "utf-8", "surrogateescape")
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(stdout, "utf-8", "surrogateescape")
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(stderr, "utf-8", "backslashreplace", line_buffering=True)


def exit_code(stop):
    """Return the exit code that the interpreter gives a SystemExit."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def run():
    """Run the payload as `__main__`, to the end of its threads and exit functions; never return."""
    code = 1
    try:
        try:
            with open(PAYLOAD, "rb") as file:
                source = file.read()
            # Without a scratch folder tracebacks show no source lines.
            with contextlib.suppress(OSError), open("main.py", "wb") as file:
                file.write(source)
            sys.argv = ["main.py"]
            main = type(sys)("__main__")
            main.__dict__.update(__file__="main.py", __builtins__=__builtins__)
            sys.modules["__main__"] = main
            exec(compile(source, "main.py", "exec", dont_inherit=True), main.__dict__)
            code = 0
        except SystemExit as stop:
            code = exit_code(stop)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        threading._shutdown()
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
        except OSError:
            code = code or 120
    finally:
        os._exit(code)


def child(request, descriptors, filter_, placeholder, capset):
    """Take the descriptors of the run, drop all rights and become the program; for the forked process."""
    try:
        # The last one, the payload, replaces the control socket.
        for target, source in enumerate(descriptors):
            os.dup2(source, target)
        os.closerange(PAYLOAD + 1, 256)
        enclose(request, filter_, placeholder, capset)
        standard_streams()
    except BaseException as error:
        os.write(2, f"fork server: {error!r}".encode())
        os._exit(127)
    run()


def follow(control, pid):
    """Wait for a run to end, or kill it on request; return its wait status and processor seconds."""
    ended = os.pidfd_open(pid)
    try:
        while True:
            ready, _, _ = select.select([control, ended], [], [])
            if ended in ready:
                _, status, usage = os.wait4(pid, 0)
                return status, usage.ru_utime + usage.ru_stime
            if not control.recv(64):
                os._exit(0)
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(ended)


def serve(filter_, placeholder, capset):
    """Fork for each request until the broker hangs up."""
    control = socket.socket(fileno=CONTROL)
    prctl(PR_SET_DUMPABLE, 0)
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 4)
        if not message:
            os._exit(0)
        if message == b"kill":  # for a run that has ended meanwhile
            continue
        request = json.loads(message)
        pid = os.fork()
        if pid == 0:
            child(request, descriptors, filter_, placeholder, capset)
        for descriptor in descriptors:
            os.close(descriptor)
        status, used = follow(control, pid)
        control.send(json.dumps([status, used]).encode())


complete(sys.argv[4])
serve(bytes.fromhex(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
