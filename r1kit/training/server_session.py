"""Requests to the vLLM server that end: with an answer, or with a trouble that says what to think of it.

TRL 1.16 posts a generation without a timeout and repeats the POST up to five times when the answer is cut
off, so a dying server gets the same 128 completions to do again, and a silent one hangs the training until
`ddp_timeout` (`VLLMClient._post`). Here every request has a bound and is sent once; what to do when it fails
is decided by `server_generation`, which knows whether a restart is under way. Loads neither TRL nor torch: a
wrong server is refused before the seconds that those take.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from r1kit.runs.server_files import KEY, STATE, server_state

CONNECT = 10.0  # seconds; a machine that is there accepts within milliseconds
SHORT = 30.0  # seconds for a question that needs no work: health, model name, versions
DEVELOPMENT = ("/collective_rpc", "/server_info", "/reset_prefix_cache", "/update_weights", "/get_world_size")


class ServerTrouble(RuntimeError):
    """The server did not do what was asked; the message is one paragraph for people."""

    curable = False
    """Whether a restart of the server may help."""


class ServerGone(ServerTrouble):
    """Nobody listens, or the connection was cut."""

    curable = True


class ServerSilent(ServerTrouble):
    """The request was accepted and not answered within its bound; only its keeper can help, who has to be
    told (`runs.server_files`): such a server often still answers /health.
    """

    curable = True

    def __init__(self, url: str, path: str, bound: float):
        super().__init__(f"The vLLM server accepted /{path} and did not answer within {bound:g} s")
        self.url = url
        self.reason = f"accepted /{path} and did not answer within {bound:g} s"


class ServerLost(ServerTrouble):
    """It did not come back."""


class ServerRefused(ServerTrouble):
    """It answered with an error."""


class WrongVersion(ServerTrouble):
    """It holds other weights than the trainer has just sent: it was restarted behind its address."""

    curable = True


@dataclass(frozen=True)
class Bounds:
    """Seconds that each kind of request may take."""

    generation: float = 600.0
    sync: float = 120.0

    def of(self, url: str) -> float:
        """The bound of a request to `url`."""
        if url.endswith(("/completions", "/generate")):
            return self.generation
        control = ("/collective_rpc", "_weights", "_weight_update", "_engine", "_cache", "/pause", "/resume")
        return self.sync if url.endswith(control) else SHORT


class BoundedSession(requests.Session):
    """A session that never sends twice, and raises a ServerTrouble where no answer comes."""

    def __init__(self, bounds: Bounds, api_key: str = ""):
        super().__init__()
        self.bounds = bounds
        self.trust_env = False  # a proxy for the outside world must not see 127.0.0.1
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        """As requests', with the bound of `url`."""
        bound = self.bounds.of(url)
        kwargs.setdefault("timeout", (min(CONNECT, bound), bound))
        host, _, path = url.split("://", 1)[-1].partition("/")
        try:
            return super().request(method, url, **kwargs)
        except requests.ConnectTimeout as error:
            raise ServerGone(f"{url} accepts no connection") from error
        except requests.Timeout as error:
            raise ServerSilent(f"{url.split('://', 1)[0]}://{host}", path, bound) from error
        except requests.RequestException as error:
            raise ServerGone(f"The vLLM server was lost while it did /{path} ({cause(error)})") from error


def content(response: requests.Response, base_url: str) -> dict[str, Any]:
    """The JSON of an answer, {} for an empty one.

    Raises:
        ServerRefused: it is an error, and which.
        ServerGone: the engine behind the web server died.
    """
    path = response.url.removeprefix(base_url).partition("?")[0]
    if response.status_code == 404 and path in DEVELOPMENT:
        raise ServerRefused(
            f"The server at {base_url} does not offer {path}: its development endpoints are off, by "
            "which weights arrive. Start it with `r1kit serve`, or with VLLM_SERVER_DEV_MODE=1"
        )
    if response.status_code == 401:
        raise ServerRefused(f"The server at {base_url} wants another API key (401)")
    if response.status_code >= 500 and "EngineCore" in response.text:
        raise ServerGone(f"The server at {base_url} lost its engine while it did {path}")
    if response.status_code != 200:
        raise ServerRefused(f"The server answered {path} with {response.status_code}: {response.text[:500]}")
    return response.json() if response.content else {}


def addresses(folder: Path) -> tuple[list[str], str]:
    """The servers that `folder`/server.json names, and the key for them ("" for none).

    Raises:
        ServerGone: it names none.
    """
    urls = server_state(folder).get("urls") or []
    if not urls:
        raise ServerGone(f"{folder / STATE} names no server")
    key = folder / KEY
    return urls, key.read_text(encoding="utf-8").strip() if key.exists() else ""


def cause(error: BaseException) -> str:
    """The innermost reason, without urllib3's layers: "Connection refused"."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
