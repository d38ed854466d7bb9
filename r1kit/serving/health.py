"""What a vLLM server says of itself, and who sits on a port: small questions, each with its own bound."""

from __future__ import annotations

import errno
import json
import socket
import urllib.error
import urllib.request
from typing import Any

import psutil

# A proxy for the outside world must not be asked for 127.0.0.1.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, key: str = "", timeout: float = 5.0) -> Any:
    """The JSON (or None for an empty body) that a GET of `url` answers.

    Raises:
        OSError: nobody listens, no answer within `timeout` seconds, or an HTTP error (HTTPError).
        ValueError: the answer is no JSON: another kind of server.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    with _DIRECT.open(request, timeout=timeout) as response:
        body = response.read()
    return json.loads(body) if body.strip() else None


def healthy(url: str, timeout: float = 5.0) -> bool:
    """Whether /health answers 200: the engine lives, not only the web server before it."""
    try:
        ask(f"{url}/health", timeout=timeout)
    except (OSError, ValueError):
        return False
    return True


def served_model(url: str, key: str = "", timeout: float = 5.0) -> str:
    """The id under which the server offers its model. Raises as `ask`; KeyError: not a vLLM server."""
    return ask(f"{url}/v1/models", key, timeout)["data"][0]["id"]


def free_port(host: str) -> int:
    """A port nobody uses now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def port_taken(host: str, port: int) -> str:
    """Why `port` cannot be used, with who has it as far as that can be seen; "" if it is free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return f"cannot listen on {host}:{port}: {error.strerror}"
            return f"port {port} is taken by {_occupant(host, port)}"
    return ""


def _occupant(host: str, port: int) -> str:
    """Who listens on a port: the process, and the model if it is a vLLM server."""
    found = "another process"
    try:
        pids = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
        ]
        if pids:
            found = f"process {pids[0]} ({' '.join(psutil.Process(pids[0]).cmdline())[:100]})"
    except psutil.Error:  # not ours to see
        pass
    try:
        return f"{found}, which serves {served_model(base_url(host, port), timeout=2.0)}"
    except urllib.error.HTTPError as error:
        return f"{found}, a server that wants a key" if error.code == 401 else found
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return found


def base_url(host: str, port: int) -> str:
    """The address for clients. A server on all interfaces is reached by the machine's name."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
        try:
            socket.getaddrinfo(host, port)
        except OSError:  # a machine that does not know its own name
            host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    return host in ("localhost", "::1") or host.startswith("127.")
