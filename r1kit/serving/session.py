"""Bounded HTTP requests to a vLLM server: each is sent once, and ends with a response or a ServerTrouble.

TRL 1.16 posts a generation without a timeout and repeats the POST up to five times when the answer is cut off
(`VLLMClient._post`). A dying server then has to generate the same 128 completions again, and a silent one
hangs the training until `ddp_timeout`. Here the caller decides what follows a failure, because it knows
whether a restart is under way. This module loads neither TRL nor torch, so that a wrong server is refused
before they load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

CONNECT_SECONDS = 10.0  # a running machine accepts within milliseconds
SHORT_SECONDS = 30.0  # for requests that need no work: health, model name, versions
DEVELOPMENT = ("/collective_rpc", "/server_info", "/reset_prefix_cache", "/update_weights", "/get_world_size")


class ServerTrouble(RuntimeError):
    """The server did not serve a request; the message is one paragraph for the user."""

    curable = False
    """Whether a restart of the server may help."""
    advice = (
        "Start the stage again: it resumes from the checkpoint. With `server: {restart: true}` in "
        "machine.yaml a server that dies is started again and the same run continues."
    )

    @property
    def reason(self) -> str:
        """The message without its subject, for the keeper: "accepted ... and did not answer"."""
        return str(self).removeprefix("The vLLM server ")


class ServerGone(ServerTrouble):
    """The port is closed, the connection was cut, or the server has been restarted at its address."""

    curable = True


class ServerSilent(ServerTrouble):
    """The request was not answered within its bound. Such a server often still answers /health."""

    curable = True
    advice = (
        "The server is alive but stuck or too slow: look at its log, lower max_completion_length, or raise "
        "server.generation_seconds (and sync_seconds) in machine.yaml; then start the stage again. With "
        "`server: {restart: true}` such a server is started again and the same run continues."
    )

    def __init__(self, path: str, bound: float):
        super().__init__(f"The vLLM server accepted {path} and did not answer within {bound:g} s")


class ServerRefused(ServerTrouble):
    """The server answered with an error."""

    advice = "Start the server with `r1kit serve`, which sets all that the trainer needs."


@dataclass(frozen=True)
class Bounds:
    """Seconds that each kind of request may take."""

    generation: float = 600.0
    sync: float = 120.0

    def of(self, path: str) -> float:
        """Return the bound of a request to `path`."""
        if path.endswith(("/completions", "/generate")):
            return self.generation
        control = ("/collective_rpc", "_weights", "_weight_update", "_engine", "_cache", "/pause", "/resume")
        return self.sync if path.endswith(control) else SHORT_SECONDS


class Session:
    """An HTTP client that sends each request once and raises ServerTrouble if there is no response.

    It has the methods that TRL's client calls on its `requests.Session`.
    """

    def __init__(self, bounds: Bounds | None = None, key: str = ""):
        self.bounds = bounds or Bounds()
        self.client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # The server may close an idle connection just when it is used again.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,  # no proxy for 127.0.0.1
        )

    def get(self, url: str, **options: Any) -> httpx.Response:
        """Send a GET; options and errors as of `send`."""
        return self.send("GET", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        """Send a POST; options and errors as of `send`."""
        return self.send("POST", url, **options)

    def send(self, method: str, url: str, timeout: float | None = None, **options: Any) -> httpx.Response:
        """Send one request and wait `timeout` seconds for its response, by default as long as `bounds` allow.

        Raises:
            ServerGone: the port is closed, or the connection was cut.
            ServerSilent: no response in time.
        """
        path = httpx.URL(url).path
        bound = self.bounds.of(path) if timeout is None else timeout
        allowed = httpx.Timeout(bound, connect=min(CONNECT_SECONDS, bound))
        try:
            return self.client.request(method, url, timeout=allowed, **options)
        except httpx.ConnectTimeout as error:
            raise ServerGone(f"The vLLM server accepts no connection at {url}") from error
        except httpx.TimeoutException as error:
            raise ServerSilent(path, bound) from error
        except httpx.RequestError as error:
            raise ServerGone(f"The vLLM server was lost during {path} ({cause(error)})") from error


def content(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON of a response, {} for an empty one.

    Raises:
        ServerRefused: the status is an error; the message says which.
        ServerGone: the engine behind the web server died.
    """
    path = response.url.path
    server = f"The server at {str(response.url).partition(path)[0]}"
    if response.status_code == 404 and path in DEVELOPMENT:
        raise ServerRefused(
            f"{server} does not offer {path}: its development endpoints are off, which receive weights. "
            "Start it with `r1kit serve`, or with VLLM_SERVER_DEV_MODE=1"
        )
    if response.status_code == 401:
        raise ServerRefused(f"{server} wants another API key (401)")
    if response.status_code >= 500 and "EngineCore" in response.text:
        raise ServerGone(f"{server} lost its engine during {path}")
    if response.status_code != 200:
        raise ServerRefused(f"The server answered {path} with {response.status_code}: {response.text[:500]}")
    return response.json() if response.content else {}


def healthy(session: Session, url: str, timeout: float = 5.0) -> bool:
    """Return True if /health returns 200: the engine runs, not only the web server before it."""
    try:
        return session.get(f"{url}/health", timeout=timeout).status_code == 200
    except ServerTrouble:
        return False


def served_model(session: Session, url: str, timeout: float | None = None) -> str:
    """Return the id under which the server offers its model.

    Raises:
        ServerTrouble: it does not answer, or with an error.
        ValueError, LookupError, TypeError: it is not a vLLM server.
    """
    return content(session.get(f"{url}/v1/models", timeout=timeout))["data"][0]["id"]


def cause(error: BaseException) -> str:
    """Return the innermost reason, without the layers of httpx: "Connection refused"."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
