"""What can come out of running a model-written program, and the limits it runs under.

Plain data, shared by the sandbox, by the judge that compares outputs outside of it, and by the code reward.

Messages between a sandbox and its broker, over one stream socket: a JSON header, then bytes.

JSON and not pickle: neither side can make the other run anything.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import asdict, dataclass, field
from enum import StrEnum

KIB, MIB, GIB = 1024, 1024**2, 1024**3
LEAST_MEMORY = 64 * MIB  # Python takes 20 MB of address space before it runs a line


class Verdict(StrEnum):
    """How a run ended. The sandbox says all of these but `wrong`, which takes a comparison."""

    OK = "ok"  # exit code 0
    WRONG = "wrong"  # exit code 0 and another output than expected; said by the judge only
    TIMEOUT = "timeout"  # the wall clock ran out
    CPU = "cpu"  # the processor time ran out
    MEMORY = "memory"  # an uncaught MemoryError, or killed for lack of memory
    OUTPUT = "output"  # more output than allowed
    SIGNAL = "signal"  # ended by a signal: a crash, an abort
    ERROR = "error"  # exit code other than 0: an uncaught exception, a compiler's complaint
    REFUSED = "refused"  # not run: no program that could be run (a NUL, too large)
    INFRA = "infra"  # trouble of ours: says nothing about the program, and must never become a 0


@dataclass(frozen=True)
class Limits:
    """What one run may use. The wall clock counts from the start of the program, not from the queue."""

    cpu_seconds: int = 4
    wall_seconds: float = 8.0
    memory_bytes: int = 768 * MIB  # address space of the process, interpreter included
    processes: int = 64  # threads for a program; processes and threads for a compiler
    file_bytes: int = 8 * MIB  # the largest file it may write
    scratch_bytes: int = 16 * MIB  # all that it may write, where the tier has a scratch disk of its own
    scratch_files: int = 4096  # files there, with an eye kept on it: their names are the kernel's memory
    open_files: int = 64
    output_bytes: int = 64 * KIB
    error_bytes: int = 16 * KIB
    source_bytes: int = 1 * MIB  # a longer program is refused

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"limits: {name} must be greater than 0, found {value!r}")
        if self.memory_bytes < LEAST_MEMORY:
            raise ValueError(
                f"limits: memory_bytes must be at least {LEAST_MEMORY}, found {self.memory_bytes}"
            )


@dataclass(frozen=True)
class Execution:
    """One run. stdout and stderr are what the program wrote, cut at their limits; seconds is wall time."""

    verdict: Verdict
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None  # None if it did not exit by itself
    signal: int | None = None
    seconds: float = 0.0
    detail: str = ""  # one line for a reader: why this verdict


_HEAD = struct.Struct("!Q")


@dataclass(frozen=True)
class Request:
    """One run: a Python program, a binary, or a source for the compiler in `command` (its last argument)."""

    kind: str  # python, binary or compile
    payload: bytes
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """How it ended, what a compiler made, and how many processes were left over and had to be ended."""

    execution: Execution
    product: bytes = b""
    leaked: int = 0


def send(connection: socket.socket, header: dict, *blobs: bytes) -> None:
    """Write one message. Raises OSError if the other side is gone."""
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode()
    connection.sendall(b"".join((_HEAD.pack(len(text)), text, *blobs)))


def receive(connection: socket.socket) -> tuple[dict, list[bytes]]:
    """Read one message. Raises EOFError if the other side is gone, TimeoutError by the socket's timeout."""
    header = json.loads(_exactly(connection, _HEAD.unpack(_exactly(connection, _HEAD.size))[0]))
    return header, [_exactly(connection, size) for size in header["sizes"]]


def send_request(connection: socket.socket, request: Request) -> None:
    """Ask a broker for a run."""
    header = {"kind": request.kind, "limits": asdict(request.limits), "command": request.command}
    send(connection, header, request.payload, request.stdin)


def receive_request(connection: socket.socket) -> Request:
    """The next run that is asked for."""
    header, (payload, stdin) = receive(connection)
    return Request(header["kind"], payload, stdin, Limits(**header["limits"]), tuple(header["command"]))


def send_reply(connection: socket.socket, reply: Reply) -> None:
    """Answer a request."""
    fields = asdict(reply.execution)
    outputs = fields.pop("stdout"), fields.pop("stderr"), reply.product
    send(connection, {"execution": fields, "leaked": reply.leaked}, *outputs)


def receive_reply(connection: socket.socket) -> Reply:
    """The answer to the request sent last."""
    header, (stdout, stderr, product) = receive(connection)
    fields = header["execution"]
    verdict = Verdict(fields.pop("verdict"))
    return Reply(Execution(verdict, stdout, stderr, **fields), product, header["leaked"])


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise EOFError("the other side closed the connection")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
