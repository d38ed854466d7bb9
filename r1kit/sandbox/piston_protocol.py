"""One request of Piston's API v2 (`POST /execute`), and what its answer means as an `Execution`.

Source of the fields: https://github.com/engineer-man/piston, `docs/api-v2.md` and `api/src/job.js`.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

from r1kit.sandbox.verdicts import MIB, Execution, Limits, Verdict

COMPILE_SECONDS = 10  # the most that a Piston server allows unless configured otherwise
_CONNECT_SECONDS = 5.0
_HEALTH_SECONDS = 5.0
_LONGEST_PAUSE = 30.0
_LARGEST_BODY = 32 * MIB
_LANGUAGES = {"python": ("python", "main.py"), "cpp": ("c++", "main.cpp")}
_STATUSES = {
    "TO": Verdict.TIMEOUT, "OL": Verdict.OUTPUT, "EL": Verdict.OUTPUT,
    "SG": Verdict.SIGNAL, "RE": Verdict.ERROR,
}  # fmt: skip


class PistonError(Exception):
    """The service did not do its part.

    again: another try may help. fault: the endpoint is to blame. pause: seconds it asked to be left alone.
    """

    def __init__(self, message: str, *, again: bool = True, fault: bool = True, pause: float = 0.0) -> None:
        super().__init__(message)
        self.again, self.fault, self.pause = again, fault, pause


def request_body(language: str, source: str, stdin: bytes, limits: Limits) -> bytes:
    """The JSON of one run.

    Raises:
        UnicodeError: the program or its input is not text, and JSON carries nothing else.
    """
    name, file = _LANGUAGES[language]
    source.encode()  # a lone surrogate would reach the server as an escape and come out as something else
    milliseconds = int(limits.wall_seconds * 1000)
    return json.dumps({
        "language": name, "version": "*", "files": [{"name": file, "content": source}],
        "stdin": stdin.decode(), "compile_timeout": COMPILE_SECONDS * 1000, "run_timeout": milliseconds,
        "run_cpu_time": min(milliseconds, limits.cpu_seconds * 1000), "run_memory_limit": limits.memory_bytes,
    }).encode()  # fmt: skip


def post(url: str, body: bytes, seconds: float) -> dict[str, Any]:
    """The answer to one request, within so many seconds altogether.

    Raises:
        PistonError: no connection, no answer in time, an error status, or a body that is no JSON object.
    """
    status, headers, text = _exchange("POST", f"{url}/execute", body, seconds)
    if status == 429:
        after = headers.get("Retry-After") or ""
        pause = min(float(after), _LONGEST_PAUSE) if after.isdigit() else 0.0
        raise PistonError("is overloaded (429)", fault=False, pause=pause)
    if status >= 500:
        raise PistonError(f"failed ({status}): {_excerpt(text)}")
    if status != 200:
        raise PistonError(f"refused the request ({status}): {_excerpt(text)}", again=False, fault=False)
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PistonError(f"its answer is no JSON: {_excerpt(text)}") from error
    if not isinstance(answer, dict):
        raise PistonError(f"its answer is no object: {_excerpt(text)}")
    return answer


def healthy(url: str) -> bool:
    """Whether an endpoint lists its runtimes."""
    try:
        return _exchange("GET", f"{url}/runtimes", None, _HEALTH_SECONDS)[0] == 200
    except PistonError:
        return False


def execution(answer: dict[str, Any], seconds: float, limits: Limits) -> Execution:
    """What an answer says of the program.

    Raises:
        PistonError: the server reports trouble of its own (XX), or nothing that can be understood.
    """
    compiled = answer.get("compile")
    if isinstance(compiled, dict) and _verdict(compiled, limits) is not Verdict.OK:
        verdict = _verdict(compiled, limits)
        verdict = Verdict.ERROR if verdict is Verdict.SIGNAL else verdict
        stderr = str(compiled.get("stderr", ""))
        return Execution(verdict, stderr=_bytes(stderr), seconds=seconds, detail="does not compile")
    run = answer.get("run")
    if not isinstance(run, dict) or not isinstance(run.get("stdout"), str):
        raise PistonError("its answer holds no run")
    verdict, stdout = _verdict(run, limits), _bytes(run["stdout"])
    if len(stdout) > limits.output_bytes:
        verdict, stdout = Verdict.OUTPUT, stdout[: limits.output_bytes]
    code = run.get("code") if isinstance(run.get("code"), int) else None
    stderr = _bytes(str(run.get("stderr", "")))[-limits.error_bytes :]
    return Execution(verdict, stdout, stderr, code, seconds=seconds, detail=str(run.get("message") or ""))


def _verdict(stage: dict[str, Any], limits: Limits) -> Verdict:
    """How compiler or program ended. Older servers send no status, and SIGKILL at the time limit."""
    status, code, signal = stage.get("status"), stage.get("code"), stage.get("signal")
    if status == "XX" or (status is None and code is None and signal is None):
        raise PistonError(f"trouble of its own: {stage.get('message') or 'neither exit code nor signal'}")
    memory = stage.get("memory")
    if status in ("SG", "RE") and isinstance(memory, int) and memory >= limits.memory_bytes:
        return Verdict.MEMORY
    if status in _STATUSES:
        return _STATUSES[status]
    if signal:
        return Verdict.TIMEOUT if signal == "SIGKILL" else Verdict.SIGNAL
    return Verdict.OK if code == 0 else Verdict.ERROR


def _exchange(method: str, url: str, body: bytes | None, seconds: float) -> tuple[int, Any, bytes]:
    """(status, headers, body) of one exchange over a connection of its own."""
    parts = urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname, parts.port, timeout=min(seconds, _CONNECT_SECONDS))
    deadline = time.monotonic() + seconds
    try:
        connection.connect()
        connection.sock.settimeout(seconds)
        connection.request(method, parts.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = bytearray()
        while piece := response.read1(1 << 16):
            text += piece
            if len(text) > _LARGEST_BODY:
                raise PistonError("sent more than 32 MiB")
            if time.monotonic() > deadline:
                raise PistonError(f"had not finished its answer after {seconds:.0f} s")
        if response.length:
            raise PistonError(f"its answer was cut off, {response.length} bytes early")
        return response.status, response.headers, bytes(text)
    except (OSError, http.client.HTTPException) as error:
        raise PistonError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _excerpt(text: bytes) -> str:
    return text[:200].decode("utf-8", "replace")
