"""Messages between a sandbox and its broker, over one stream socket: a JSON header, then bytes.

JSON and not pickle: neither side can make the other run anything.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import asdict, dataclass, field

from r1kit.sandbox.verdicts import Execution, Limits, Verdict

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
