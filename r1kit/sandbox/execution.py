"""The limits, verdict and result of one run, and the messages between a sandbox and its broker.

A message goes over one stream socket: a JSON header, then bytes. With JSON instead of pickle, neither side
can make the other execute anything.
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
    """How a run ended. The sandbox gives all of these except `wrong`, which the judge's comparison gives."""

    OK = "ok"  # exit code 0
    WRONG = "wrong"  # exit code 0 but not the expected output; from the judge only
    TIMEOUT = "timeout"  # the wall clock ran out
    CPU = "cpu"  # the processor time ran out
    MEMORY = "memory"  # an uncaught MemoryError, or killed for lack of memory
    OUTPUT = "output"  # more output than allowed
    SIGNAL = "signal"  # ended by a signal: a crash, an abort
    ERROR = "error"  # exit code other than 0: an uncaught exception, a compiler's complaint
    REFUSED = "refused"  # not run: no program that could be run (a NUL, too large)
    INFRA = "infra"  # a failure of the sandbox or machine, not of the program; must never become a 0


@dataclass(frozen=True)
class Limits:
    """Limits of one run. Wall time counts from the start of the program, not in the queue."""

    cpu_seconds: int = 4
    wall_seconds: float = 8.0
    memory_bytes: int = 768 * MIB  # address space of the process, interpreter included
    processes: int = 64  # threads for a program; processes and threads for a compiler
    file_bytes: int = 8 * MIB  # the largest file it may write
    scratch_bytes: int = 16 * MIB  # the total it may write, in tiers with a scratch disk
    scratch_files: int = 4096  # files there; their names take kernel memory
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
    """The result of one run: output cut at its limits; seconds is wall time."""

    verdict: Verdict
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None  # None if it did not exit by itself
    signal: int | None = None
    seconds: float = 0.0
    detail: str = ""  # the reason for the verdict, in one line


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
    """The result, a compiler's product, and the number of leftover processes that had to be killed."""

    execution: Execution
    product: bytes = b""
    leaked: int = 0


def send(connection: socket.socket, header: dict, *blobs: bytes) -> None:
    """Write one message; raise OSError if the other side is gone."""
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode()
    connection.sendall(b"".join((_HEAD.pack(len(text)), text, *blobs)))


def receive(connection: socket.socket) -> tuple[dict, list[bytes]]:
    """Read one message; raise EOFError if the other side is gone, TimeoutError at the socket's timeout."""
    header = json.loads(_exactly(connection, _HEAD.unpack(_exactly(connection, _HEAD.size))[0]))
    return header, [_exactly(connection, size) for size in header["sizes"]]


def send_request(connection: socket.socket, request: Request) -> None:
    """Send a run to a broker."""
    header = {"kind": request.kind, "limits": asdict(request.limits), "command": request.command}
    send(connection, header, request.payload, request.stdin)


def receive_request(connection: socket.socket) -> Request:
    """Receive the next run."""
    header, (payload, stdin) = receive(connection)
    return Request(header["kind"], payload, stdin, Limits(**header["limits"]), tuple(header["command"]))


def send_reply(connection: socket.socket, reply: Reply) -> None:
    """Send the reply to a request."""
    fields = asdict(reply.execution)
    outputs = fields.pop("stdout"), fields.pop("stderr"), reply.product
    send(connection, {"execution": fields, "leaked": reply.leaked}, *outputs)


def receive_reply(connection: socket.socket) -> Reply:
    """Receive the reply to the last request."""
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
